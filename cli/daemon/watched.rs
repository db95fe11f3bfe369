//! What the event loop waits for: file descriptors and times, each with a word that says whose it is.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// What became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// Commands from the API.
    Inbox,
    /// A job on files has something.
    Jobs,
    /// The control connection of this life.
    Control(u64),
    /// The vmm process of this life has ended.
    Process(u64),
    /// The vhost-user connection of this life.
    Backend(u64),
    /// The guest of this life has rung the doorbell of a queue.
    Kick(u64),
}

impl Ready {
    const KIND_BITS: u32 = 3;

    fn encode(self) -> u64 {
        let (kind, life) = match self {
            Ready::Inbox => (0, 0),
            Ready::Control(life) => (1, life),
            Ready::Process(life) => (2, life),
            Ready::Backend(life) => (3, life),
            Ready::Kick(life) => (4, life),
            Ready::Jobs => (5, 0),
        };
        life << Self::KIND_BITS | kind
    }

    fn decode(word: u64) -> Option<Ready> {
        let life = word >> Self::KIND_BITS;
        Some(match word & ((1 << Self::KIND_BITS) - 1) {
            0 => Ready::Inbox,
            1 => Ready::Control(life),
            2 => Ready::Process(life),
            3 => Ready::Backend(life),
            4 => Ready::Kick(life),
            5 => Ready::Jobs,
            _ => return None,
        })
    }
}

/// The file descriptors.
pub struct Watched {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl Watched {
    /// Nothing yet.
    pub fn new() -> io::Result<Watched> {
        Ok(Watched { epoll: Epoll::new()?, events: vec![EpollEvent::default(); 128] })
    }

    /// Watches for input and hang-up, for as long as there is any.
    pub fn add(&self, fd: RawFd, ready: Ready) -> io::Result<()> {
        self.epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, ready.encode()))
    }

    /// Watches for each new write to an eventfd, which is never read.
    pub fn add_doorbell(&self, fd: BorrowedFd<'_>, ready: Ready) -> io::Result<()> {
        let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, ready.encode());
        self.epoll.ctl(ControlOperation::Add, fd.as_raw_fd(), event)
    }

    /// Watches no longer. Needed before a descriptor is closed of which another process has a copy, too: closing ours
    /// would not end the watching.
    pub fn remove(&self, fd: RawFd) {
        // The only error is that it was not watched.
        let _ = self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
    }

    /// Waits until something is ready or `timeout` nanoseconds are over.
    pub fn wait(&mut self, timeout: Option<u64>) -> io::Result<Vec<Ready>> {
        // Rounded up: waking too early would only mean to wait again.
        let timeout = timeout.map_or(-1, |ns| i32::try_from(ns.div_ceil(1_000_000)).unwrap_or(i32::MAX));
        match self.epoll.wait(timeout, &mut self.events) {
            Ok(count) => Ok(self.events[..count].iter().filter_map(|event| Ready::decode(event.data())).collect()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

/// What is to be done at a time. Whoever is told checks whether it still is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// The district in this slot may be started again.
    Restart(usize),
    /// This life should have begun to run by now.
    Started(u64),
    /// This life should be over by now.
    Stopped(u64),
    /// The district in this slot needs handle serials that could not be reserved.
    Serials(usize),
    /// This life may have a new session.
    Session(u64),
}

/// The times.
#[derive(Default)]
pub struct Timers {
    set: BTreeSet<(u64, Due)>,
}

impl Timers {
    /// Does `due` at `time`.
    pub fn add(&mut self, time: u64, due: Due) {
        self.set.insert((time, due));
    }

    /// The earliest time.
    pub fn next(&self) -> Option<u64> {
        self.set.first().map(|(time, _)| *time)
    }

    /// What is due by `now`, once.
    pub fn pop(&mut self, now: u64) -> Option<Due> {
        if self.next()? > now {
            return None;
        }
        self.set.pop_first().map(|(_, due)| due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_ready_is_who_was_watched() {
        for ready in [Ready::Inbox, Ready::Control(0), Ready::Process(1), Ready::Backend(2), Ready::Kick(1 << 60)] {
            assert_eq!(Ready::decode(ready.encode()), Some(ready));
        }
    }

    #[test]
    fn what_is_due_comes_in_order_and_once() {
        let mut timers = Timers::default();
        timers.add(20, Due::Session(1));
        timers.add(10, Due::Restart(0));
        assert_eq!(timers.pop(5), None);
        assert_eq!(timers.pop(30), Some(Due::Restart(0)));
        assert_eq!(timers.pop(30), Some(Due::Session(1)));
        assert_eq!(timers.pop(30), None);
    }
}
