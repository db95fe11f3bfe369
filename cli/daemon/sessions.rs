//! Sessions: the channel of a life, from the offer of a socket to its end.
//!
//! A session ends when the guest resets its device, when it breaks the rules of its queues, or with its life. Its keys
//! end with it. The next one of the same life is offered at once, or after a wait if they end quickly one after another:
//! each costs a durable block of handle serials and a handshake.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use district_broker::Attach;
use district_devices::{Backend, ChannelError, Progress};
use district_protocol::status::Reason;
use district_vmm::control::ControlError;

use super::district::Session;
use super::event_loop::EventLoop;
use super::grants;
use super::life_file::{LifeFile, Reserved};
use super::watched::{Due, Ready};

/// Wait before the third of a row of short sessions; each further one waits twice as long.
const WAIT_MIN: u64 = 10_000_000;
/// Longest wait.
const WAIT_MAX: u64 = 1_000_000_000;
/// A session that lasts so long is not one of a row.
const LONG: u64 = 10_000_000_000;

impl EventLoop {
    /// Offers the guest a session, and attaches the district to the broker. The life has a window and no session.
    pub fn begin_session(&mut self, slot: usize, reserved: Reserved) -> Result<()> {
        let district = &self.slots[slot];
        let attach = Attach {
            district: district.id,
            name: super::traffic::shared(district.name.as_str()),
            epoch: reserved.epoch,
            serials: reserved.serials,
            epoch_first_serial: reserved.epoch_first_serial,
            limits: grants::limits(&district.record.spec.limits),
            grants: grants::grants(&district.record.spec, |name| self.id_of(name))?,
            publishes: district.record.spec.publishes.iter().map(|name| super::traffic::shared(name)).collect(),
            bootstrap: grants::bootstrap(&district.record.spec, |name| self.id_of(name))?,
        };
        let district = &mut self.slots[slot];
        let life = district.life.as_mut().context("it has no vmm process")?;
        let window = life.window.clone().context("its window is not known")?;
        let (ours, theirs) = UnixStream::pair()?;
        let backend = Backend::new(ours, window)?;
        self.watched.add(backend.as_raw_fd(), Ready::Backend(life.number))?;
        life.control.channel(theirs.as_fd())?;
        life.session = Session::Offered(backend);
        life.sessions += 1;
        life.session_began = self.now;
        self.core.attach(self.now, attach)?;
        self.carry_out();
        Ok(())
    }

    /// The vhost-user connection has something.
    pub fn backend_ready(&mut self, number: u64) {
        let Some(slot) = self.slot_of_life(number) else { return };
        let Some(life) = &mut self.slots[slot].life else { return };
        let backend = match &mut life.session {
            Session::Closed => return,
            Session::Offered(backend) | Session::Open { backend, .. } => backend,
        };
        match backend.process() {
            Ok(Progress::Waiting) => {}
            Ok(Progress::Ready(channel)) => {
                for kick in channel.kick_fds() {
                    // What fails here is known as a session that is only offered, whose doorbells nobody would look for.
                    if let Err(error) = self.watched.add_doorbell(kick, Ready::Kick(number)) {
                        for kick in channel.kick_fds() {
                            self.watched.remove(kick.as_raw_fd());
                        }
                        return self
                            .session_failed(slot, &ChannelError::Host { doing: "watch a doorbell", source: error });
                    }
                }
                if let Session::Offered(backend) = std::mem::replace(&mut life.session, Session::Closed) {
                    life.session = Session::Open { backend, channel };
                }
                // What the guest posted before anybody listened to its doorbell.
                self.kicked(number);
            }
            Err(error) => self.session_failed(slot, &error),
        }
    }

    /// The guest has posted requests, or room for deliveries.
    pub fn kicked(&mut self, number: u64) {
        if let Some(slot) = self.slot_of_life(number) {
            self.sending.add(slot);
            self.receiving.add(slot);
        }
    }

    /// A session is over and its life goes on: the guest gets another one.
    pub fn session_failed(&mut self, slot: usize, error: &ChannelError) {
        let reason = match error {
            // The guest began anew, or its vmm process has died and its end is heard of next: to others it is the same.
            ChannelError::Closed => {
                log::debug!("district {}: session over: {error}", self.slots[slot].name);
                Reason::PeerRestart
            }
            // Its own doing, and of interest to whoever wrote it. A daemon's log that a guest can fill helps nobody.
            ChannelError::Ring { .. } | ChannelError::Setup(_) => {
                self.write_log(self.slots[slot].id, &format!("(from the host: the device needs a reset: {error})"));
                Reason::Unreachable
            }
            _ => {
                log::warn!("district {}: session over: {error}", self.slots[slot].name);
                Reason::Unreachable
            }
        };
        self.end_session(slot, reason);
        let Some(life) = &mut self.slots[slot].life else { return };
        if self.now.saturating_sub(life.session_began) > LONG {
            life.sessions = 1;
        }
        let wait = match life.sessions {
            0..=2 => 0,
            row => (WAIT_MIN << (row - 3).min(10)).min(WAIT_MAX),
        };
        self.timers.add(self.now + wait, Due::Session(life.number));
    }

    /// Gives a life without a session a new one.
    pub fn session_due(&mut self, number: u64) {
        let Some(slot) = self.slot_of_life(number) else { return };
        // A vmm process that ends hangs up on its channel, too; what it said before comes first.
        self.control_ready(number);
        let Some(life) = &self.slots[slot].life else { return };
        if life.report.is_some() || life.killed.is_some() || !matches!(life.session, Session::Closed) {
            return;
        }
        let lives = LifeFile::open(self.host.directory.path(), self.slots[slot].id);
        let begun = lives.and_then(LifeFile::reserve_serials).and_then(|reserved| self.begin_session(slot, reserved));
        if let Err(error) = begun {
            if matches!(error.downcast_ref(), Some(ControlError::Closed)) {
                // How it ended is heard next.
                return;
            }
            self.kill(slot, format!("it cannot have a channel: {error:#}"));
        }
    }

    /// Ends the session, if there is one: the broker forgets it, and the vmm process sees its connection closed.
    pub fn end_session(&mut self, slot: usize, reason: Reason) {
        let district = &mut self.slots[slot];
        let Some(life) = &mut district.life else { return };
        let session = std::mem::replace(&mut life.session, Session::Closed);
        let consumed = life.window.as_ref().map_or(0, |window| window.consumed());
        match &session {
            Session::Closed => return,
            Session::Offered(backend) => self.watched.remove(backend.as_raw_fd()),
            Session::Open { backend, channel } => {
                self.watched.remove(backend.as_raw_fd());
                for kick in channel.kick_fds() {
                    self.watched.remove(kick.as_raw_fd());
                }
            }
        }
        self.core.detach(self.now, district.id, reason, consumed);
        self.carry_out();
    }
}
