//! A district as the daemon keeps it, between its lives and in one.

use std::sync::Arc;

use district_broker::DistrictId;
use district_broker::supervisor::Supervisor;
use district_devices::{Backend, Channel, Window};
use district_protocol::boot::StartReason;
use district_vmm::control::DaemonEnd;
use district_vmm::report::Ended;

use super::checkpoints::Requests;
use super::logs::Log;
use super::memory::{Memory, Seal, Wanted};
use super::process::Process;
use super::store::Record;
use crate::api::command::Reply;
use crate::api::info::{DistrictInfo, State};
use crate::api::name::Name;
use crate::api::snapshot::Beginning;
use crate::api::spec::Target;

/// A district of the catalogue.
pub struct District {
    pub name: Name,
    pub id: DistrictId,
    pub record: Record,
    pub state: State,
    /// Of the present or last life; 0: none yet.
    pub epoch: u64,
    pub supervisor: Supervisor,
    pub life: Option<Life>,
    /// Restarts that nobody asked for, since somebody last asked for a start.
    pub restarts: u64,
    pub log: Option<Log>,
    /// Who waits for the end of the present life.
    pub waiting: Vec<Waiting>,
    pub memory: Memory,
    /// What its next life is to begin with, by how the last one ended.
    pub next_memory: Wanted,
    /// What somebody wants it to begin with.
    pub beginning: Beginning,
    /// The start that waits until a job is done with its files.
    pub put_off: Option<StartReason>,
    /// How far the catalogue knows it.
    pub standing: Standing,
}

/// How far the catalogue knows a district.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The next daemon would know it.
    Recorded,
    /// A copy whose first life begins: it is recorded when its files are durable.
    New,
    /// A copy that could not begin: it is forgotten with its first life.
    GivenUp,
}

/// What somebody wants when a life has ended.
pub enum Waiting {
    /// To know it.
    Stopped(Reply<DistrictInfo>),
    /// A new life.
    Restart(Reply<DistrictInfo>),
}

/// One life of a district: a vmm process and a conversation with it.
pub struct Life {
    /// Names this life in the event queue; never used again.
    pub number: u64,
    pub process: Process,
    pub control: DaemonEnd,
    /// When it began, in the event loop's time.
    pub began: u64,
    /// Whether its epoch is not known to be durable yet, so that its program must not begin.
    pub is_committing: bool,
    /// None until the vmm process of an earlier daemon has passed it on.
    pub window: Option<Arc<Window>>,
    pub session: Session,
    /// What the vmm process said about its end.
    pub report: Option<Ended>,
    /// Why the daemon ended it, if it did so without being asked.
    pub killed: Option<String>,
    /// How many messages its vmm process has sent.
    pub heard: u64,
    /// Sessions that were begun, and when the present one was: a guest that resets its device in a loop has to wait.
    pub sessions: u32,
    pub session_began: u64,
    /// The checkpoint that it began from; 0: none.
    pub generation: u64,
    /// Whether the log that it began from is to go to the image soon.
    pub log_is_long: bool,
    /// Seal of the image that it began from, which its vmm process has compared with its table when it runs.
    pub seal: Option<Seal>,
    pub requests: Requests,
    /// Checkpoints that have been taken of it, as far as this daemon knows.
    pub taken: u64,
    /// Log segments that it has been given since it began.
    pub segments: u64,
    /// Whether it is about to be given one.
    pub rotating: bool,
    /// Whether it has none that can be written to.
    pub lacks_log: bool,
    /// When it was last tried in vain to give it one.
    pub no_log_at: Option<u64>,
    /// When it was last said that there is no checkpoint, unless there was one since.
    pub failure_told: Option<u64>,
}

/// The channel between a life and the broker.
pub enum Session {
    /// None now.
    Closed,
    /// The guest has not set its queues up yet.
    Offered(Backend),
    /// In use.
    Open {
        /// Watches over the connection with the vmm process; ending it ends the session.
        backend: Backend,
        /// The queues.
        channel: Box<Channel>,
    },
}

impl Session {
    pub fn channel(&mut self) -> Option<&mut Channel> {
        match self {
            Session::Open { channel, .. } => Some(channel),
            Session::Closed | Session::Offered(_) => None,
        }
    }
}

impl District {
    /// A district that is not running.
    pub fn new(name: Name, record: Record, epoch: u64) -> District {
        District {
            name,
            id: DistrictId(record.id),
            // One that should be running is not, until its vmm process has been found or started.
            state: if record.state.is_over() { record.state } else { State::Stopped },
            epoch,
            supervisor: Supervisor::new(super::lives::policy(&record.spec.restart)),
            life: None,
            restarts: 0,
            log: None,
            waiting: Vec::new(),
            memory: Memory::default(),
            // One that has done its work does not go on from before that.
            next_memory: if record.last_end.as_ref().is_some_and(|end| end.exit_code == Some(0)) {
                Wanted::Fresh
            } else {
                Wanted::Newest
            },
            beginning: Beginning::Newest,
            put_off: None,
            standing: Standing::Recorded,
            record,
        }
    }

    /// Whether a start of it is under way: put off, or waiting for the disk.
    pub fn is_beginning(&self) -> bool {
        let is_committing = self.life.as_ref().is_some_and(|life| life.is_committing);
        self.put_off.is_some() || is_committing || self.standing != Standing::Recorded
    }

    /// Whether the checkpoint is being taken that its next life goes on from.
    pub fn is_silent(&self) -> bool {
        self.state == State::Stopping && self.record.spec.checkpoints.is_some()
    }

    /// Whether somebody waits for a new life of it.
    pub fn restart_is_asked_for(&self) -> bool {
        self.waiting.iter().any(|waiting| matches!(waiting, Waiting::Restart(_)))
    }

    /// Whoever waits for a new life of it gets to know instead that it has stopped.
    pub fn restart_no_more(&mut self) {
        let all = std::mem::take(&mut self.waiting);
        let stopped = |waiting| match waiting {
            Waiting::Restart(reply) | Waiting::Stopped(reply) => Waiting::Stopped(reply),
        };
        self.waiting = all.into_iter().map(stopped).collect();
        self.beginning = Beginning::Newest;
    }

    /// Whether it can look up something that `owner` publishes.
    pub fn uses(&self, owner: &Name) -> bool {
        let granted = self.record.spec.grants.values().filter_map(|grant| match &grant.to {
            Target::Published(published) => Some(published),
            _ => None,
        });
        granted.chain(&self.record.spec.bootstrap).any(|published| published.district == *owner)
    }

    /// What is told about it. `now` is the event loop's time.
    pub fn info(&self, now: u64) -> DistrictInfo {
        DistrictInfo {
            name: self.name.clone(),
            id: self.id.to_string(),
            state: self.state,
            epoch: self.epoch,
            pid: self.life.as_ref().map(|life| life.process.pid()),
            restarts: self.restarts,
            uptime_ms: self.life.as_ref().map(|life| now.saturating_sub(life.began) / 1_000_000),
            memory: self.record.spec.memory,
            last_end: self.record.last_end.clone(),
        }
    }
}
