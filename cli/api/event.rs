//! What happens to districts, as it happens.

use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};

use super::info::State;
use super::name::Name;

/// What sort of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A new epoch began to run.
    Started,
    /// The program exited by itself.
    Exited,
    /// The program did what the processor does not allow.
    Faulted,
    /// The vmm process ended unasked, or could not go on.
    Lost,
    /// It will be started again after a wait.
    Restarting,
    /// It was restarted too often, or cannot be started.
    Failed,
    /// A checkpoint of it could not be taken; it goes on.
    CheckpointFailed,
    /// How far something is that takes long.
    Progress,
    /// Somebody ended it.
    Stopped,
    /// It is not in the daemon's list any more.
    Removed,
    /// A line of its log.
    Log,
    /// Events were left out, because whoever reads them is too slow.
    Dropped,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// What sort of thing.
    pub kind: EventKind,
    /// To whom; nobody for [`EventKind::Dropped`].
    pub district: Option<Name>,
    /// In which of its lives; 0: in none.
    pub epoch: u64,
    /// What the district does now. An event of another kind that leaves it `Failed` is followed by one of the kind
    /// [`EventKind::Failed`].
    pub state: Option<State>,
    /// The code, for [`EventKind::Exited`].
    pub exit_code: Option<u8>,
    /// In words; a log line as the guest wrote it.
    pub text: String,
}

impl Event {
    /// Something that happened now to the epoch of a district and put it into this state.
    pub fn now(kind: EventKind, district: Name, epoch: u64, state: State, text: impl Into<String>) -> Event {
        Event {
            time_ms: now_ms(),
            kind,
            district: Some(district),
            epoch,
            state: Some(state),
            exit_code: None,
            text: text.into(),
        }
    }

    /// The news that `count` events were left out here.
    pub fn dropped(count: u64) -> Event {
        let noun = if count == 1 { "line was" } else { "lines were" };
        Event {
            time_ms: now_ms(),
            kind: EventKind::Dropped,
            district: None,
            epoch: 0,
            state: None,
            exit_code: None,
            text: format!("{count} {noun} left out here: the reader is too slow"),
        }
    }
}

/// Milliseconds since 1970; 0 if the clock stands before that.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
