//! The district's only device, between its registers (vCPU thread) and the daemon's sessions (control thread).
//!
//! Both threads hold it behind one lock; no call waits for the guest or the daemon. What has to wait for the daemon is
//! handed out, to be done without the lock: see [`Parting`].

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use district_devices::frontend::{self, ActivateError, Connection};
use district_devices::{Action, ChannelSetup, Registers, Window};
use district_protocol::channel::QUEUE_COUNT;
use district_protocol::layout::{DEVICE_BASE, DEVICE_SIZE};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// How long the daemon may take to let go of a session that the guest has left. A daemon that is alive does it at once.
pub(crate) const ANSWER_TIMEOUT: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// What wakes whom. Made once per life; every session uses the same ones.
pub(crate) struct Events {
    /// Doorbells: the guest wakes the daemon.
    pub(crate) kicks: [EventFd; QUEUE_COUNT as usize],
    /// The daemon wakes the guest.
    pub(crate) call: EventFd,
    /// Another thread of this process wakes the vCPU thread where it waits, and not the guest.
    pub(crate) attention: EventFd,
}

impl Events {
    pub(crate) fn new() -> io::Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC);
        Ok(Self { kicks: [event()?, event()?], call: event()?, attention: event()? })
    }
}

/// A session that the daemon offers or has.
struct Session {
    socket: Arc<UnixStream>,
    /// Whether the driver has been using it.
    begun: bool,
    connection: Option<Connection>,
}

/// What has become of a write by the guest.
#[must_use]
pub(crate) enum Written {
    /// It is none to the device.
    Elsewhere,
    /// All is done.
    Done,
    /// The device is reset when this has been waited for.
    Parting(Parting),
}

/// A session that the guest has left by a reset, and the daemon not yet.
pub(crate) struct Parting {
    socket: Arc<UnixStream>,
}

impl Parting {
    /// Waits until the daemon has let go of the session's queues and has read the count of consumed deliveries; for
    /// `longest` if it never does, and not once the guest is to stop: it sees nothing any more. To be called without the
    /// channel's lock, for which the control thread would wait.
    pub(crate) fn wait(self, longest: &Timespec, is_stopping: impl Fn() -> bool) {
        // Half of the socket, so that the daemon's end of it stays to be seen.
        let _ = self.socket.shutdown(Shutdown::Write);
        let begin = Instant::now();
        let longest = Duration::try_from(*longest).unwrap_or_default();
        while let Some(left) = longest.checked_sub(begin.elapsed()).filter(|_| !is_stopping()) {
            let left = Timespec::try_from(left).unwrap_or_default();
            // A signal that is none to stop may want a checkpoint, which has to wait: the guest's write is not complete.
            match poll(&mut [PollFd::new(&*self.socket, PollFlags::RDHUP)], Some(&left)) {
                Err(Errno::INTR) => {}
                _ => break,
            }
        }
        hang_up(&self.socket);
    }
}

pub(crate) struct Channel {
    registers: Registers,
    window: Window,
    events: Arc<Events>,
    /// Queues of a driver that is ready and has no session yet.
    waiting: Option<ChannelSetup>,
    session: Option<Session>,
}

impl Channel {
    pub(crate) fn new(epoch: u64, window: Window, events: Arc<Events>) -> Self {
        Self { registers: Registers::new(epoch, window.size()), window, events, waiting: None, session: None }
    }

    /// The guest reads from `address`. False: that is not the device.
    pub(crate) fn read(&self, address: u64, data: &mut [u8]) -> bool {
        let Some(offset) = offset(address) else { return false };
        self.registers.read(offset, data);
        true
    }

    /// The guest writes to `address`.
    pub(crate) fn write(&mut self, address: u64, data: &[u8]) -> Written {
        let Some(offset) = offset(address) else { return Written::Elsewhere };
        match self.registers.write(offset, data) {
            Action::None => {}
            Action::Notify(queue) => {
                if let Some(kick) = self.events.kicks.get(usize::from(queue)) {
                    // Fails only when 2^64 doorbells are waiting to be heard.
                    let _ = kick.write(1);
                }
            }
            Action::Reset => {
                self.waiting = None;
                // A session that nothing was said over is as good as new.
                if let Some(session) = self.session.take_if(|session| session.begun) {
                    return Written::Parting(Parting { socket: session.socket });
                }
            }
            Action::Activate(setup) => {
                self.waiting = Some(setup);
                self.activate();
            }
        }
        Written::Done
    }

    /// The daemon has used buffers.
    pub(crate) fn notify(&mut self) {
        self.registers.used_buffer_notification();
    }

    /// The daemon offers a session; a driver that is waiting for one gets it. True: a session that the guest was using
    /// has ended by that.
    pub(crate) fn offer(&mut self, socket: Arc<UnixStream>) -> bool {
        let ended = self.end();
        self.session = Some(Session { socket, begun: false, connection: None });
        self.activate();
        ended
    }

    /// The daemon has hung up on this socket. True: a session that the guest was using has ended by that.
    pub(crate) fn hung_up(&mut self, socket: &Arc<UnixStream>) -> bool {
        let current = self.session.as_ref().is_some_and(|session| Arc::ptr_eq(&session.socket, socket));
        current && self.end()
    }

    /// Hands the queues over if the driver is ready and the daemon has offered a session. If that fails the session is
    /// over like any other: the hang-up that follows tells the control thread.
    fn activate(&mut self) {
        let Some(session) = self.session.as_mut().filter(|session| !session.begun) else { return };
        let Some(setup) = self.waiting.take() else { return };
        session.begun = true;
        let [requests, deliveries] = &self.events.kicks;
        let activated = session.socket.try_clone().map_err(ActivateError::Socket).and_then(|socket| {
            frontend::activate(socket, &setup, &self.window, [requests, deliveries], &self.events.call)
        });
        match activated {
            Ok(connection) => session.connection = Some(connection),
            Err(_) => hang_up(&session.socket),
        }
    }

    /// Ends the session, if there is one; true: the guest was using it and has to reset the device.
    fn end(&mut self) -> bool {
        let Some(session) = self.session.take() else { return false };
        hang_up(&session.socket);
        if session.begun {
            self.waiting = None;
            self.registers.set_needs_reset();
        }
        session.begun
    }
}

/// Both sides and whoever polls a duplicate see it. An error means that the other side was first.
fn hang_up(socket: &UnixStream) {
    let _ = socket.shutdown(Shutdown::Both);
}

fn offset(address: u64) -> Option<u64> {
    address.checked_sub(DEVICE_BASE).filter(|&offset| offset < DEVICE_SIZE)
}

#[cfg(test)]
mod tests;
