//! Making the district's memory durable, when the program wants it: [`commit`].
//!
//! Checkpoints are also taken without the program asking for any. A commit is for the moment at which somebody must be
//! told that something will not be forgotten. It needs a key to `host/checkpoint`, granted under the name `checkpoint`.

use district_protocol::operation::supervisor::CHECKPOINT;
use district_protocol::status::Reason;

use crate::restart::{self, Restart};
use crate::{Directory, Error, Key, Reply, Ticket, TicketId, boot};

/// Where the key is in the bootstrap directory.
const NAME: &str = "checkpoint";

/// How a commit came out. As with a fork, both can happen, to two lives of the same memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// All that was before is durable.
    Committed {
        /// Number of the checkpoint that has it.
        generation: u64,
    },
    /// All that was before was durable, and this life began with it: the district was restored from a checkpoint that was
    /// taken while it waited for its commit.
    Restored(Restart),
}

impl Commit {
    fn from_outcome(outcome: Result<Reply, Error>) -> Result<Commit, Error> {
        match outcome {
            Ok(reply) => Ok(Commit::Committed { generation: reply.result }),
            Err(Error::Unknown(Reason::SelfRestart)) => Ok(Commit::Restored(restart::current())),
            Err(error) => Err(error),
        }
    }
}

/// Waits until the district's memory is durable as it is now, or newer. A broker that is replaced meanwhile is asked
/// again.
///
/// # Errors
/// [`Error::NotFound`] if the district was not granted `checkpoint`; [`Error::Denied`] if it has no checkpoints;
/// [`Error::WouldBlock`] if the checkpoint could not be written: everything goes on, and the next commit may succeed.
pub fn commit() -> Result<Commit, Error> {
    let epoch = boot::epoch();
    loop {
        let outcome = key().and_then(|key| key.call(CHECKPOINT, &[]).reply_capacity(0).wait());
        match Commit::from_outcome(outcome) {
            // Also if it was still looking for its key.
            Err(_) if boot::epoch() != epoch => return Ok(Commit::Restored(restart::current())),
            Err(error) if error.connection_lost() => {}
            commit => return commit,
        }
    }
}

/// Begins a commit of the memory as it is now, or newer, and does not wait for it: the program can go on serving until it
/// gets [`crate::Event::Finished`] with [`Pending::id`].
///
/// # Errors
/// As for [`commit`]; [`Error::WouldBlock`] also if there is no room for another message just now.
pub fn begin() -> Result<Pending, Error> {
    loop {
        match key().and_then(|key| key.call(CHECKPOINT, &[]).reply_capacity(0).start()) {
            Err(error) if error.connection_lost() => {}
            started => return Ok(Pending { ticket: started? }),
        }
    }
}

fn key() -> Result<Key, Error> {
    Directory::bootstrap().lookup(NAME)
}

/// A commit under way. Dropping it means that nobody cares how it ends.
#[derive(Debug)]
pub struct Pending {
    ticket: Ticket,
}

impl Pending {
    /// Its name in [`crate::Event::Finished`].
    pub fn id(&self) -> TicketId {
        self.ticket.id()
    }

    /// How it came out if that is known; told once.
    pub fn poll(&mut self) -> Option<Result<Commit, Error>> {
        self.ticket.poll().map(Commit::from_outcome)
    }

    /// Waits for how it comes out.
    ///
    /// # Errors
    /// As for [`commit`]; [`Error::Unknown`] if the broker was replaced meanwhile.
    pub fn wait(self) -> Result<Commit, Error> {
        Commit::from_outcome(self.ticket.wait())
    }
}
