//! What the daemon tells about districts and keys.

use serde::{Deserialize, Serialize};
use std::fmt;

use super::name::Name;

/// What a district is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its vmm process exists; its program has not run yet.
    Starting,
    /// Its program runs or is parked.
    Running,
    /// Somebody asked for its end.
    Stopping,
    /// It ended and will be started again after a wait.
    BackingOff,
    /// Somebody ended it, or it was never started.
    Stopped,
    /// It ended by itself and its policy does not start it again.
    Exited,
    /// It was restarted too often; only a request starts it again.
    Failed,
}

impl State {
    /// Whether nothing more happens unless somebody asks.
    pub fn is_over(self) -> bool {
        matches!(self, State::Stopped | State::Exited | State::Failed)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::Starting => "starting",
            State::Running => "running",
            State::Stopping => "stopping",
            State::BackingOff => "backing off",
            State::Stopped => "stopped",
            State::Exited => "exited",
            State::Failed => "failed",
        })
    }
}

/// How a life of a district ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// The code, if the program exited by itself.
    pub exit_code: Option<u8>,
    /// In words, with the fault's registers or the exit message. Part of it comes from the guest.
    pub text: String,
}

/// A district as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DistrictInfo {
    /// Its name.
    pub name: Name,
    /// Its permanent identity, 32 hexadecimal digits.
    pub id: String,
    /// What it is doing.
    pub state: State,
    /// Number of its present or last life; 0: never started. A copy goes on from that of the life that it was copied from.
    pub epoch: u64,
    /// Its vmm process, if it has one.
    pub pid: Option<u32>,
    /// Restarts that nobody asked for, since it was last started by request.
    pub restarts: u64,
    /// Milliseconds since its present life began, if it is alive.
    pub uptime_ms: Option<u64>,
    /// Bytes of RAM.
    pub memory: u64,
    /// How its last life ended, if one did.
    pub last_end: Option<End>,
}

/// A checkpoint of a district.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointInfo {
    /// Its number.
    pub generation: u64,
    /// The one that it builds on; 0: none.
    pub parent: u64,
    /// The life that it was taken in.
    pub epoch: u64,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// Pages that it has with data; 0 if only the image has it.
    pub data_pages: u64,
    /// Pages that had become zero.
    pub zero_pages: u64,
    /// Bytes that it takes in the log; 0 if only the image has it.
    pub bytes: u64,
    /// Whether a district can begin from it.
    pub restorable: bool,
    /// Why not.
    pub obstacle: Option<String>,
    /// Microseconds for which the district stood still, if this daemon was told.
    pub pause_us: Option<u64>,
    /// Microseconds until it was durable, if this daemon was told.
    pub total_us: Option<u64>,
}

/// A key that a district holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInfo {
    /// Who holds it.
    pub holder: Name,
    /// The number by which it does.
    pub handle: u64,
    /// `directory`, `entry`, `reply`, `notify`, `number`, `log`, `clock`, `random`.
    pub kind: String,
    /// What it leads to, in words: `counter/count`, `counter (export 7)`, `host/log`, `42`.
    pub target: String,
    /// Names of its rights.
    pub rights: Vec<String>,
    /// The number that its exporter stamped on it.
    pub badge: Option<u64>,
    /// Whether what is fetched through it is weak.
    pub weak: bool,
    /// The district that made it, or from whose key it was derived, if that was not the holder.
    pub from: Option<Name>,
    /// Why it is broken, if it is.
    pub broken: Option<String>,
}

/// Who answers at a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Version of the program.
    pub version: String,
    /// Version of the contract with guests ([`district_protocol::ABI_VERSION`]).
    pub abi: u32,
    /// The daemon's process.
    pub pid: u32,
}

impl Version {
    /// This process.
    pub fn this() -> Version {
        Version {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi: district_protocol::ABI_VERSION,
            pid: std::process::id(),
        }
    }
}
