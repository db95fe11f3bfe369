//! The lives of districts: how one begins, and what is heard of it.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use anyhow::{Context, Result};
use district_broker::DistrictId;
use district_broker::supervisor::{self, Ending, RestartPolicy, RestartWhen};
use district_protocol::ABI_VERSION;
use district_protocol::boot::StartReason;
use district_protocol::status::Reason;
use district_vmm::control::{self, Beginning, DaemonEnd, FromVmm, StartFiles};

use super::checkpoints::Requests;
use super::district::{District, Life, Session, Standing};
use super::event_loop::EventLoop;
use super::image;
use super::jobs::{self, Then};
use super::life_file::{LifeFile, Reserved};
use super::logs::Log;
use super::memory::Origin;
use super::process::Process;
use super::watched::{Due, Ready};
use crate::api::event::{Event, EventKind};
use crate::api::info::State;
use crate::api::spec::{Policy, Restart};

/// A vmm process that has not begun to run its program after so long does not work: nanoseconds.
pub const START_TIME: u64 = 30_000_000_000;
/// Messages of a vmm process that are read at a time: one that sends without end must not keep the event loop reading.
const MESSAGES_MAX: u32 = 8;
/// Messages that it may send at the beginning, and more in each second of its life, and one for each checkpoint that it is
/// asked for: an honest one tells of its checkpoints, and hardly of anything else.
const MESSAGES_AHEAD: u64 = 64;
/// See [`MESSAGES_AHEAD`].
const MESSAGES_PER_SECOND: u64 = 2000;

/// Wait before it is looked again whether somebody is still at the files that a life begins with: nanoseconds.
pub const FILES_WAIT: u64 = 5_000_000;

/// The supervisor's policy for what a manifest says.
pub fn policy(restart: &Restart) -> RestartPolicy {
    let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    RestartPolicy {
        when: match restart.policy {
            Policy::Always => RestartWhen::Always,
            Policy::OnFailure => RestartWhen::OnFailure,
            Policy::Never => RestartWhen::Never,
        },
        backoff: nanoseconds(restart.backoff),
        backoff_max: nanoseconds(restart.backoff_max),
        backoff_factor: 2,
        stable_after: nanoseconds(restart.within),
        intensity: restart.intensity,
        period: nanoseconds(restart.within),
    }
}

impl EventLoop {
    /// Starts a district because somebody asked for it. It has no life.
    pub fn start_requested(&mut self, slot: usize) -> Result<()> {
        self.slots[slot].restarts = 0;
        self.slots[slot].supervisor.start_requested(self.now);
        self.start(slot, StartReason::Cold)
    }

    /// Its wait is over, unless somebody has stopped or started it meanwhile.
    pub fn restart_due(&mut self, slot: usize) {
        if !self.slots.contains(slot) {
            return;
        }
        let district = &mut self.slots[slot];
        match district.supervisor.state() {
            supervisor::State::Waiting { until } if until <= self.now && district.life.is_none() => {}
            _ => return,
        }
        let reason = district.put_off.unwrap_or_else(|| {
            district.restarts += 1;
            StartReason::Crash
        });
        // What went wrong has become an event, and whoever asked has been told.
        let _ = self.start(slot, reason);
    }

    /// Begins a life, whose program begins when the epoch is durable; a little later, if a job is at its files: what is
    /// being moved to its image may not be what this life begins with. If it cannot, the district has ended once more, as
    /// the supervisor sees it.
    fn start(&mut self, slot: usize, reason: StartReason) -> Result<()> {
        let files = self.slots[slot].memory.files.clone();
        let Some(mut changes) = jobs::try_lock(&files) else {
            self.put_off(slot, reason);
            self.timers.add(self.now + FILES_WAIT, Due::Restart(slot));
            return Ok(());
        };
        if !self.is_read(slot, *changes) {
            self.put_off(slot, reason);
            return Ok(());
        }
        *changes += 1;
        self.slots[slot].put_off = None;
        self.slots[slot].supervisor.starting();
        let started = self.try_start(slot, reason);
        if let Err(error) = &started {
            self.not_started(slot, error);
        }
        started
    }

    /// A life could not begin.
    pub fn not_started(&mut self, slot: usize, error: &anyhow::Error) {
        self.tell_starters(slot, error);
        if self.slots[slot].standing == Standing::New {
            self.slots[slot].standing = Standing::GivenUp;
        }
        let text = format!("it cannot be started: {error:#}");
        self.kill(slot, text.clone());
        if self.slots[slot].life.is_none() {
            self.life_over(slot, Ending::Killed, EventKind::Lost, None, text);
        }
    }

    fn put_off(&mut self, slot: usize, reason: StartReason) {
        let district = &mut self.slots[slot];
        district.state = State::Starting;
        district.put_off = Some(reason);
    }

    /// Has the machine built, and what its life needs made durable meanwhile. [`Self::committed`] goes on.
    fn try_start(&mut self, slot: usize, reason: StartReason) -> Result<()> {
        let directory = self.host.directory.path().to_owned();
        let district = &mut self.slots[slot];
        if district.log.is_none() {
            district.log = Some(Log::open(&directory, &district.name).context("its log cannot be opened")?);
        }
        let (origin, reason) = self.origin(slot, reason)?;
        let district = &mut self.slots[slot];
        let image = match origin.beginning {
            Beginning::Program => Some(image::open_program(&district.record.spec.image)?),
            Beginning::Checkpoint { .. } => None,
        };
        let spec = &district.record.spec;
        let mut spare = self.stock.take(&directory, district.id)?;
        let (window, memory) = (spare.window(spec.window)?, spec.memory);
        self.enter(slot, spare.process, spare.control)?;
        let district = &mut self.slots[slot];
        let lives = LifeFile::open(&directory, district.id)?;
        let start = start_message(district, reason, lives.next_epoch()?, &origin);
        let life = district.life.as_mut().context("it has no vmm process")?;
        life.process.limit(memory).context("its vmm process cannot be limited")?;
        let identity = life.process.identity().context("its vmm process has no identity")?;
        let memory = image.as_ref().map_or_else(|| origin.files(), |image| vec![image.as_fd()]);
        let log = origin.log.as_ref().map(|log| log.segment.as_fd());
        life.control.start(start, &StartFiles { window: window.memfd(), log, memory: &memory })?;
        life.window = Some(window);
        (life.generation, life.log_is_long, life.seal) = (origin.generation, origin.log_is_long, origin.seal);
        // From here on the machine is being built.
        spare.place.become_of(&directory, district.id)?;
        let beginning = lives.begin_life(identity)?;
        district.epoch = beginning.epoch();
        life.is_committing = true;
        let (id, number, log) = (district.id, life.number, origin.log);
        self.jobs.commit(move |_| {
            let reserved = match log {
                Some(log) => log.sync(|| beginning.commit()),
                None => beginning.commit(),
            };
            Box::new(move |event_loop: &mut EventLoop| event_loop.committed(id, number, reserved)) as Then
        });
        Ok(())
    }

    /// What a life needs is durable, or cannot be.
    fn committed(&mut self, id: DistrictId, number: u64, reserved: Result<Reserved>) {
        let Some(slot) = self.slot_of(id) else { return };
        let district = &mut self.slots[slot];
        // It may have ended meanwhile, and another one may have begun.
        let life = district.life.as_mut().filter(|life| life.number == number);
        let is_over = life.is_none();
        if is_over && district.standing == Standing::Recorded {
            return;
        }
        if let Some(life) = life {
            life.is_committing = false;
        }
        let begun = reserved.and_then(|reserved| if is_over { Ok(()) } else { self.begin(slot, reserved) });
        if let Err(error) = begun.and_then(|()| self.record(slot)) {
            self.not_started(slot, &error);
        }
        self.answer_starters();
    }

    /// Has the catalogue know a copy, whose files are durable: while its program begins, and before anybody hears of
    /// either.
    fn record(&mut self, slot: usize) -> Result<()> {
        let district = &mut self.slots[slot];
        if district.standing == Standing::New {
            self.host.store.put_district(district.name.as_str(), &district.record)?;
            district.standing = Standing::Recorded;
        }
        Ok(())
    }

    /// Has the program begin, unless somebody wants it to end already.
    fn begin(&mut self, slot: usize, reserved: Reserved) -> Result<()> {
        let district = &self.slots[slot];
        let life = district.life.as_ref().context("it has no vmm process")?;
        if life.killed.is_some() || life.report.is_some() || district.state == State::Stopping {
            return Ok(());
        }
        life.control.run()?;
        let begun = self.begin_session(slot, reserved);
        self.wanted(slot);
        match begun {
            // A short program has ended already. How is heard next.
            Err(error) if matches!(error.downcast_ref(), Some(control::ControlError::Closed)) => Ok(()),
            begun => begun,
        }
    }

    /// Makes the process a life of the district, and watches it.
    pub fn enter(&mut self, slot: usize, mut process: Process, control: DaemonEnd) -> Result<()> {
        self.life_count += 1;
        let number = self.life_count;
        // Before it is a life: one whose end nobody hears of would never be over.
        let watched = (self.watched.add(process.as_fd().as_raw_fd(), Ready::Process(number)))
            .and_then(|()| self.watched.add(control.as_fd().as_raw_fd(), Ready::Control(number)));
        if let Err(error) = watched {
            process.kill();
            process.wait();
            return Err(error).context("its vmm process cannot be watched");
        }
        let district = &mut self.slots[slot];
        district.state = State::Starting;
        district.life = Some(Life {
            number,
            process,
            control,
            began: self.now,
            is_committing: false,
            window: None,
            session: Session::Closed,
            report: None,
            killed: None,
            heard: 0,
            sessions: 0,
            session_began: self.now,
            generation: 0,
            log_is_long: false,
            seal: None,
            requests: Requests::default(),
            taken: 0,
            segments: 0,
            rotating: false,
            lacks_log: false,
            no_log_at: None,
            failure_told: None,
        });
        self.lives.insert(number, slot);
        self.timers.add(self.now + START_TIME, Due::Started(number));
        Ok(())
    }

    /// The vmm process says something, or has closed the connection.
    pub fn control_ready(&mut self, number: u64) {
        for _ in 0..MESSAGES_MAX {
            let Some(slot) = self.slot_of_life(number) else { return };
            let Some(life) = &self.slots[slot].life else { return };
            match life.control.receive() {
                Ok(Some((message, window))) => self.heard(slot, message, window),
                Ok(None) => return,
                Err(control::ControlError::Closed) => {
                    // Its end is heard of next; until then there is nothing to wait for here.
                    self.watched.remove(life.control.as_fd().as_raw_fd());
                    return life.process.kill();
                }
                Err(error) => return self.kill(slot, format!("its vmm process breaks the rules: {error}")),
            }
        }
    }

    fn heard(&mut self, slot: usize, message: FromVmm, window: Option<std::os::fd::OwnedFd>) {
        let Some(life) = &mut self.slots[slot].life else { return };
        life.heard += 1;
        let milliseconds = self.now.saturating_sub(life.began) / 1_000_000;
        let by_itself = MESSAGES_AHEAD + milliseconds.saturating_mul(MESSAGES_PER_SECOND) / 1000;
        if life.heard > by_itself.saturating_add(life.requests.count) {
            return self.kill(slot, "its vmm process talks too much".to_owned());
        }
        if life.killed.is_some() {
            return;
        }
        match message {
            FromVmm::Hello { state: control::State::Waiting, .. } => {
                // One that an earlier daemon started and did not live to tell what to do.
                if self.slots[slot].life.as_ref().is_some_and(|life| life.window.is_none()) {
                    self.kill(slot, "its vmm process was never told what to do".to_owned());
                }
            }
            FromVmm::Hello { state: control::State::Running { district_id, epoch, generation }, .. } => {
                if let Err(error) = self.resume(slot, (district_id, epoch, generation), window) {
                    self.kill(slot, format!("it cannot be taken over: {error:#}"));
                }
            }
            FromVmm::Hello { state: control::State::Ended { report, .. }, .. } | FromVmm::Ended(report) => {
                // At once, not only when the process is gone: others wait for answers of it.
                self.end_session(slot, Reason::PeerRestart);
                if let Some(life) = &mut self.slots[slot].life {
                    life.report = Some(report);
                    life.process.kill();
                }
            }
            FromVmm::Checkpointed { covers, checkpoint } => self.checkpointed(slot, covers, checkpoint),
            FromVmm::Unchanged { covers, generation } => {
                let number = self.slots[slot].life.as_ref().map_or(0, |life| life.number);
                self.covered(slot, number, covers, &Ok(generation));
            }
            FromVmm::NoCheckpoint { covers, error, needs_log } => self.not_checkpointed(slot, covers, error, needs_log),
            FromVmm::Running if self.slots[slot].state == State::Starting => {
                if let Some(seal) = self.slots[slot].life.as_ref().and_then(|life| life.seal) {
                    self.note_verified(slot, seal);
                }
                self.running(slot, "started");
                if self.slots[slot].life.as_ref().is_some_and(|life| life.log_is_long) {
                    self.migrate(slot);
                }
                if self.slots[slot].record.pinned.is_some() {
                    // From now on that is its newest checkpoint. If there is none, that was said.
                    self.take_checkpoint(slot, Box::new(|_, _, _| ()));
                }
            }
            // It crossed with a request to stop.
            FromVmm::Running => {}
        }
    }

    /// Its program runs, and people get to know it.
    pub fn running(&mut self, slot: usize, verb: &str) {
        let district = &mut self.slots[slot];
        district.supervisor.started(self.now);
        if district.state == State::Starting {
            district.state = State::Running;
        }
        let from = match &district.life {
            Some(life) if life.generation != 0 => format!(", from generation {}", life.generation),
            _ => String::new(),
        };
        let text = format!("{verb} (epoch {}{from})", district.epoch);
        let event = Event::now(EventKind::Started, district.name.clone(), district.epoch, district.state, text);
        self.publish(&event);
        if self.ending.is_none() {
            // Whoever starts one may start another.
            self.fill_stock();
        }
    }

    /// Remembers that it is not to be started again by the next daemon.
    pub fn not_wanted(&mut self, slot: usize) {
        // A daemon that ends has said already what the next one is to do.
        let district = &mut self.slots[slot];
        if self.ending.is_none() {
            district.record.wanted = false;
            district.record.state = district.state;
        }
        self.save(slot);
    }

    /// Remembers that it is to run: while its program begins, and before anybody hears that it has.
    fn wanted(&mut self, slot: usize) {
        // What a command hosts ends with it, however that ends; no later daemon is to start it.
        let wanted = !self.host.tied;
        if self.slots[slot].record.wanted != wanted {
            self.slots[slot].record.wanted = wanted;
            self.save(slot);
        }
    }

    /// Remembers all that is to be known of it.
    pub fn save(&mut self, slot: usize) {
        let district = &self.slots[slot];
        // One that is new is recorded when it can be.
        if district.standing == Standing::Recorded
            && let Err(error) = self.host.store.put_district(district.name.as_str(), &district.record)
        {
            log::error!("district {}: its record is not on disk: {error:#}", district.name);
        }
    }
}

fn start_message(district: &District, reason: StartReason, epoch: u64, origin: &Origin) -> control::Start {
    let spec = &district.record.spec;
    control::Start {
        abi_version: ABI_VERSION,
        district_id: district.id.0,
        name: district.name.as_str().to_owned(),
        epoch,
        reason: reason as u32,
        generation: origin.generation,
        checkpoint_time: origin.time,
        memory: spec.memory,
        window: spec.window,
        arguments: spec.arguments.clone(),
        from: origin.beginning,
        checkpoints: origin.log.as_ref().map(|log| log.plan),
    }
}
