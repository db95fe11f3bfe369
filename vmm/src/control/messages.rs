//! What daemon and vmm process say to each other.

use std::time::Duration;

use district_protocol::ABI_VERSION;
use district_protocol::boot::{ARGUMENTS_MAX, StartReason};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::cpuid::Cpuid;
use crate::report::Ended;

/// Most segments of a log that a life can begin from.
pub const SEGMENTS_MAX: usize = 16;
/// Longest name of a district in bytes.
pub const NAME_MAX: usize = 255;
/// Most descriptors with one message: the window, a new segment, an image, and the segments of a log.
pub(super) const FDS_MAX: usize = 3 + SEGMENTS_MAX;

/// Everything a vmm process must know to start its district.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// [`ABI_VERSION`] of the daemon; the vmm process refuses another than its own.
    pub abi_version: u32,
    /// The district's permanent identity.
    pub district_id: [u8; 16],
    /// What people call it; becomes the process's name.
    pub name: String,
    /// Number of this life.
    pub epoch: u64,
    /// A [`StartReason`].
    pub reason: u32,
    /// The checkpoint that this life begins from; 0: none.
    pub generation: u64,
    /// When that was taken, in nanoseconds since 1970; 0: none.
    pub checkpoint_time: u64,
    /// Bytes of RAM.
    pub memory: u64,
    /// Bytes of window.
    pub window: u64,
    /// The program's arguments, without NULs; at most [`ARGUMENTS_MAX`] bytes with a NUL after each.
    pub arguments: Vec<String>,
    /// What its memory begins with.
    pub from: Beginning,
    /// Which checkpoints are to be taken; none: no one ever is.
    pub checkpoints: Option<Checkpoints>,
}

/// What a district's memory begins with, and so which files come with [`ToVmm::Start`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Beginning {
    /// The program's file.
    Program,
    /// The checkpoint [`Start::generation`].
    Checkpoint {
        /// Whether there is an image; it comes first.
        image: bool,
        /// How many segments of the log there are, at most [`SEGMENTS_MAX`].
        segments: u32,
        /// Whether each page of the image is to be compared with its table first, which takes as long as reading it.
        verify: bool,
    },
}

/// When checkpoints are taken, beside those that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoints {
    /// Number of the first one.
    pub next_generation: u64,
    /// The one that it builds on; 0: none.
    pub parent: u64,
    /// Every so many milliseconds, if the guest has run meanwhile; 0: not by time.
    pub every_ms: u64,
    /// When so many pages have been written to; 0: not by pages.
    pub dirty_pages: u64,
}

impl Checkpoints {
    pub(crate) fn every(&self) -> Duration {
        Duration::from_millis(self.every_ms)
    }
}

/// A checkpoint that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpointed {
    /// Its number.
    pub generation: u64,
    /// The one that it builds on; 0: none.
    pub parent: u64,
    /// When the guest was as it says, in nanoseconds since 1970.
    pub time: u64,
    /// Pages written with their data.
    pub data_pages: u64,
    /// Pages that were zero.
    pub zero_pages: u64,
    /// Bytes that it takes in the log.
    pub bytes: u64,
    /// Bytes of the segment that it is in, up to its end.
    pub log_bytes: u64,
    /// How long the guest stood still, in nanoseconds.
    pub pause: u64,
    /// From its beginning until it was durable, in nanoseconds.
    pub total: u64,
}

/// Why a [`Start`] is refused before anything is built. Sizes are checked against the program, later.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartError {
    /// Daemon and vmm process are of different versions.
    #[error("abi version {0}: this is version {ABI_VERSION}")]
    AbiVersion(u32),
    /// Not a reason.
    #[error("start reason {0} does not exist")]
    Reason(u32),
    /// Too long.
    #[error("name of {0} bytes: at most {NAME_MAX}")]
    Name(usize),
    /// Too long.
    #[error("arguments of {0} bytes, closing NULs included: at most {ARGUMENTS_MAX}")]
    Arguments(usize),
    /// NULs separate arguments.
    #[error("argument {0} contains a NUL")]
    Nul(usize),
}

impl Start {
    /// How many files come with it; more than any message has if it asks for too many.
    fn descriptors(&self) -> usize {
        let memory = match self.from {
            Beginning::Program => 1,
            Beginning::Checkpoint { image, segments, .. } => {
                usize::from(image) + usize::try_from(segments).unwrap_or(FDS_MAX).min(FDS_MAX)
            }
        };
        1 + usize::from(self.checkpoints.is_some()) + memory
    }

    /// Checks what can be checked without the program.
    pub fn check(&self) -> Result<(), StartError> {
        if self.abi_version != ABI_VERSION {
            return Err(StartError::AbiVersion(self.abi_version));
        }
        if StartReason::from_raw(self.reason).is_none() {
            return Err(StartError::Reason(self.reason));
        }
        if self.name.len() > NAME_MAX {
            return Err(StartError::Name(self.name.len()));
        }
        let bytes = self.arguments.iter().map(|argument| argument.len() + 1).sum();
        if bytes > ARGUMENTS_MAX {
            return Err(StartError::Arguments(bytes));
        }
        match self.arguments.iter().position(|argument| argument.contains('\0')) {
            Some(index) => Err(StartError::Nul(index)),
            None => Ok(()),
        }
    }
}

/// What the daemon says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToVmm {
    /// Make all that is the same for every district that sees this processor; first. With `/dev/kvm`.
    Prepare(Cpuid),
    /// Make the district, and do not run it yet; once in a vmm process's life. With the window; a segment of the log, if
    /// checkpoints are to be taken; and what [`Start::from`] says.
    Start(Box<Start>),
    /// Run it: what must be on disk before its first instruction is.
    Run,
    /// A new session of the channel. With one end of a stream socket, on which the daemon speaks vhost-user.
    Channel,
    /// Take a checkpoint that holds all that the guest has done until now. Requests are numbered, upwards.
    Checkpoint(u64),
    /// Write checkpoints to this segment from now on. With its file, which has a header and nothing else.
    Log,
    /// Stop the guest.
    Stop,
    /// How the guest's life ended is known; the process may exit. [`super::DaemonEnd::receive`] says it by itself.
    Taken,
}

impl ToVmm {
    pub(super) fn descriptors(&self) -> usize {
        match self {
            Self::Start(start) => start.descriptors(),
            Self::Prepare(_) | Self::Channel | Self::Log => 1,
            Self::Run | Self::Checkpoint(_) | Self::Stop | Self::Taken => 0,
        }
    }
}

/// What the vmm process says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromVmm {
    /// First on every connection.
    Hello {
        /// The vmm process. `SO_PEERCRED` says it, too, and cannot lie.
        pid: u32,
        /// What it is doing.
        state: State,
    },
    /// The guest is about to execute its first instruction.
    Running,
    /// A checkpoint is durable.
    Checkpointed {
        /// All requests up to this one are answered by it.
        covers: u64,
        /// What was done.
        checkpoint: Checkpointed,
    },
    /// Nothing has happened since a checkpoint.
    Unchanged {
        /// All requests up to this one are answered by it.
        covers: u64,
        /// That checkpoint.
        generation: u64,
    },
    /// There is no checkpoint, and the guest goes on.
    NoCheckpoint {
        /// All requests up to this one are refused.
        covers: u64,
        /// What went wrong, for people.
        error: String,
        /// Whether the log cannot be written to any more: the next one needs [`ToVmm::Log`].
        needs_log: bool,
    },
    /// The guest's life is over; the process exits once the daemon has read this.
    Ended(Ended),
}

impl FromVmm {
    pub(super) const fn descriptors(&self) -> usize {
        match self {
            Self::Hello { state: State::Running { .. }, .. } => 1,
            Self::Hello { .. }
            | Self::Running
            | Self::Checkpointed { .. }
            | Self::Unchanged { .. }
            | Self::NoCheckpoint { .. }
            | Self::Ended(_) => 0,
        }
    }
}

/// What a vmm process is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// No guest has run; the process ends with the connection.
    Waiting,
    /// Running a district. With the window's memory.
    Running {
        /// Its identity.
        district_id: [u8; 16],
        /// The life it is in.
        epoch: u64,
        /// The checkpoint that this life began from; 0: none.
        generation: u64,
    },
    /// Its district ended while no daemon listened; the process exits once this one has read this.
    Ended {
        /// Its identity.
        district_id: [u8; 16],
        /// The life that ended.
        epoch: u64,
        /// How.
        report: Ended,
    },
}
