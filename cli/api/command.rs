//! What the API server asks of the event loop.

use std::path::PathBuf;
use tokio::sync::oneshot;

use super::event::Event;
use super::feed::Feed;
use super::info::{CheckpointInfo, DistrictInfo, KeyInfo};
use super::name::Name;
use super::refusal::Refusal;
use super::snapshot::{Beginning, CloneRequest, ImportRequest, SnapshotInfo, Tag};
use super::spec::Spec;

/// Where the answer to one command goes. Dropping it answers that the daemon is shutting down.
#[derive(Debug)]
pub struct Reply<T>(oneshot::Sender<Result<T, Refusal>>);

impl<T> Reply<T> {
    /// A reply and the place where its answer arrives.
    pub fn new() -> (Reply<T>, oneshot::Receiver<Result<T, Refusal>>) {
        let (sender, receiver) = oneshot::channel();
        (Reply(sender), receiver)
    }

    /// Answers. Never waits. It is no error that nobody listens any more.
    pub fn send(self, answer: Result<T, Refusal>) {
        let _ = self.0.send(answer);
    }
}

/// What happens to the districts when the daemon ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Leave {
    /// They are stopped.
    Stopped,
    /// They go on running; the next daemon takes them over.
    Running,
}

/// One request to the event loop. Every spec in it has passed [`Spec::check`].
#[derive(Debug)]
pub enum Command {
    /// Make districts so: new ones are made, stopped ones get their new spec, then all of them are started, or none
    /// where one is refused. One that runs with the very same spec is left alone; one that runs with another spec is a
    /// conflict. Answered, in the order of the specs, when the epoch of each is durable, or one cannot begin; their
    /// programs may still be about to begin.
    Start(Vec<Spec>, Reply<Vec<DistrictInfo>>),
    /// Start a known district that is not running, with this memory.
    StartExisting(Name, Beginning, Reply<DistrictInfo>),
    /// End a district. Answered when it has ended; at once if it is not running.
    Stop(Name, Reply<DistrictInfo>),
    /// End a district and start it in a new epoch, with this memory. Answered as `Start` is.
    Restart(Name, Beginning, Reply<DistrictInfo>),
    /// Something about the memory of a district.
    Memory(Name, MemoryCommand),
    /// The snapshots of all districts.
    Snapshots(Reply<Vec<SnapshotInfo>>),
    /// Make a district of an exported snapshot; it is not started.
    Import(ImportRequest, Reply<DistrictInfo>),
    /// Forget a district that is not running: its epochs, checkpoints and log.
    Remove(Name, Reply<()>),
    /// All districts, by name.
    List(Reply<Vec<DistrictInfo>>),
    /// The last lines of logs, oldest first.
    Logs(LogRequest),
    /// Everything that happens from the answer on.
    Events(Feed, Reply<()>),
    /// The keys that one district holds, or all districts.
    Inspect(Option<Name>, Reply<Vec<KeyInfo>>),
    /// End the event loop. Answered as late as possible before that.
    Shutdown(Leave, Reply<()>),
}

/// A request about the checkpoints and snapshots of one district.
#[derive(Debug)]
pub enum MemoryCommand {
    /// Take a checkpoint; the district runs. Answered when it is durable.
    Checkpoint(Reply<CheckpointInfo>),
    /// The checkpoints that there are, by number.
    Checkpoints(Reply<Vec<CheckpointInfo>>),
    /// Keep its memory as it is now, or was at its last checkpoint, under a name. Answered when it is durable.
    Snapshot(Option<Tag>, Reply<SnapshotInfo>),
    /// Its snapshots.
    Snapshots(Reply<Vec<SnapshotInfo>>),
    /// Forget a snapshot. Clones of it stay as they are.
    RemoveSnapshot(Tag, Reply<()>),
    /// Make and start a district that is like this one, or a snapshot of it, and has an identity of its own.
    Clone(CloneRequest, Reply<DistrictInfo>),
    /// Write a snapshot to a new file that another host can import.
    Export(Tag, PathBuf, Reply<SnapshotInfo>),
}

impl MemoryCommand {
    /// Answers it with a refusal.
    pub fn refuse(self, refusal: Refusal) {
        match self {
            MemoryCommand::Checkpoint(reply) => reply.send(Err(refusal)),
            MemoryCommand::Checkpoints(reply) => reply.send(Err(refusal)),
            MemoryCommand::Snapshot(_, reply) | MemoryCommand::Export(_, _, reply) => reply.send(Err(refusal)),
            MemoryCommand::Snapshots(reply) => reply.send(Err(refusal)),
            MemoryCommand::RemoveSnapshot(_, reply) => reply.send(Err(refusal)),
            MemoryCommand::Clone(_, reply) => reply.send(Err(refusal)),
        }
    }
}

/// A request for logs.
#[derive(Debug)]
pub struct LogRequest {
    /// Of these districts; empty: of all.
    pub districts: Vec<Name>,
    /// At most so many lines, the newest ones.
    pub lines: usize,
    /// Gets the lines that come after those of the answer, none missing and none twice.
    pub follow: Option<Feed>,
    /// Gets the lines, as events of the kind `Log`.
    pub reply: Reply<Vec<Event>>,
}
