//! How commands reach the event loop: a bounded queue, and an eventfd that the loop polls.

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use super::command::Command;
use super::refusal::{Refusal, RefusalKind};

/// Commands that wait for the loop before others are refused.
const CAPACITY: usize = 256;

/// The sender's end; any thread may have one.
#[derive(Debug, Clone)]
pub struct Mailbox {
    sender: SyncSender<Command>,
    wake: Arc<OwnedFd>,
}

/// The event loop's end. Its file descriptor is readable while commands may be waiting.
#[derive(Debug)]
pub struct Inbox {
    receiver: Receiver<Command>,
    wake: Arc<OwnedFd>,
}

/// A mailbox and its inbox.
///
/// # Errors
/// No eventfd can be made.
pub fn mailbox() -> io::Result<(Mailbox, Inbox)> {
    let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
    let (sender, receiver) = sync_channel(CAPACITY);
    Ok((Mailbox { sender, wake: Arc::clone(&wake) }, Inbox { receiver, wake }))
}

impl Mailbox {
    /// Hands a command to the loop and wakes it. Never waits.
    ///
    /// # Errors
    /// The loop has too much to do, or has ended.
    pub fn post(&self, command: Command) -> Result<(), Refusal> {
        self.sender.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => {
                Refusal::new(RefusalKind::Busy, format!("{CAPACITY} requests are waiting already"))
                    .remedy("try again in a moment")
            }
            TrySendError::Disconnected(_) => Refusal::shutting_down(),
        })?;
        // Fails only when the counter is full, and then the loop is awake anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        Ok(())
    }
}

impl Inbox {
    /// The commands that are waiting, in order. Clears the wake-up first, so one that is posted meanwhile wakes again.
    pub fn take(&self) -> impl Iterator<Item = Command> {
        // Fails only when there is nothing to clear.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        self.receiver.try_iter().take(CAPACITY)
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl AsRawFd for Inbox {
    fn as_raw_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::command::Reply;
    use super::*;

    fn list() -> Command {
        Command::List(Reply::new().0)
    }

    #[test]
    fn a_full_mailbox_refuses_and_an_empty_one_accepts_again() {
        let (mailbox, inbox) = mailbox().unwrap();
        for _ in 0..CAPACITY {
            mailbox.post(list()).unwrap();
        }
        assert_eq!(mailbox.post(list()).unwrap_err().kind, RefusalKind::Busy);
        assert_eq!(inbox.take().count(), CAPACITY);
        mailbox.post(list()).unwrap();
        assert_eq!(inbox.take().count(), 1);
        assert_eq!(inbox.take().count(), 0);
    }

    #[test]
    fn a_mailbox_without_a_loop_says_so() {
        let (mailbox, inbox) = mailbox().unwrap();
        drop(inbox);
        assert_eq!(mailbox.post(list()).unwrap_err().kind, RefusalKind::Busy);
    }
}
