//! How the lives of districts end, by themselves or because somebody wants it, and whether another one follows.

use std::os::fd::{AsFd, AsRawFd};

use district_broker::supervisor::{self, Action, Ending};
use district_protocol::status::Reason;
use district_vmm::report::Ended;

use super::district::{District, Standing, Waiting};
use super::event_loop::EventLoop;
use super::lives::START_TIME;
use super::watched::Due;
use super::{life_file, logs, process};
use crate::api::event::{Event, EventKind, now_ms};
use crate::api::info::{End, State};
use crate::api::refusal::Refusal;

/// That many times are what a process has left that has ended read: more than its socket holds.
const LAST_MESSAGES: u32 = 64;
/// A vmm process that was told to stop and has not after so long is killed: nanoseconds.
const STOP_TIME: u64 = 1_000_000_000;
/// The same for one that takes a checkpoint first.
const CHECKPOINT_TIME: u64 = 60_000_000_000;

impl EventLoop {
    /// Ends a life that cannot go on. That it has ended is heard later.
    pub fn kill(&mut self, slot: usize, why: String) {
        if let Some(life) = &mut self.slots[slot].life {
            life.killed.get_or_insert(why);
            life.process.kill();
        }
        self.end_session(slot, Reason::PeerRestart);
    }

    /// Ends a district because somebody asked for it.
    pub fn stop(&mut self, slot: usize) {
        let district = &mut self.slots[slot];
        let was_running = district.state == State::Running;
        let was_waiting = matches!(district.supervisor.state(), supervisor::State::Waiting { .. });
        match district.supervisor.stop_requested() {
            Action::End => {
                // What it has said until now counts.
                self.take_requests(slot);
                let district = &mut self.slots[slot];
                district.state = State::Stopping;
                let Some(life) = &district.life else { return };
                if district.record.spec.checkpoints.is_some() && was_running {
                    // It goes on from there when it is started again.
                    self.timers.add(self.now + CHECKPOINT_TIME, Due::Stopped(life.number));
                    self.take_checkpoint(slot, Box::new(|event_loop, slot, _| event_loop.stop_now(slot)));
                } else {
                    self.stop_now(slot);
                }
            }
            // Somebody who asked for a restart gets it at once.
            _ if was_waiting && district.restart_is_asked_for() => {}
            _ if was_waiting => {
                district.state = State::Stopped;
                district.put_off = None;
                self.answer_starters();
                self.not_wanted(slot);
                let district = &self.slots[slot];
                let event =
                    Event::now(EventKind::Stopped, district.name.clone(), district.epoch, State::Stopped, "stopped");
                self.publish(&event);
            }
            _ => {}
        }
    }

    /// Ends the present life of a district that is to be stopped.
    fn stop_now(&mut self, slot: usize) {
        let Some(life) = &self.slots[slot].life else { return };
        self.timers.add(self.now + STOP_TIME, Due::Stopped(life.number));
        if life.control.stop().is_err() {
            life.process.kill();
        }
    }

    /// Ends a district with its daemon: the next daemon starts it again, unless this one lives in a command.
    pub fn stop_for_now(&mut self, slot: usize) {
        let wanted = self.slots[slot].record.wanted && !self.host.tied;
        self.stop(slot);
        self.slots[slot].record.wanted = wanted;
        self.save(slot);
    }

    /// It should be running by now.
    pub fn must_have_started(&mut self, number: u64) {
        let Some(slot) = self.slot_of_life(number) else { return };
        if self.slots[slot].state == State::Starting {
            self.kill(slot, format!("it did not begin to run within {} s", START_TIME / 1_000_000_000));
        }
    }

    /// It should be over by now.
    pub fn must_have_stopped(&mut self, number: u64) {
        let Some(slot) = self.slot_of_life(number) else { return };
        if let Some(life) = &self.slots[slot].life {
            life.process.kill();
        }
    }

    /// The vmm process is gone.
    pub fn process_ended(&mut self, number: u64) {
        let Some(slot) = self.slot_of_life(number) else { return };
        // Its last messages may have arrived in the same moment.
        for _ in 0..LAST_MESSAGES {
            self.control_ready(number);
        }
        self.end_session(slot, Reason::PeerRestart);
        self.no_more_checkpoints(slot);
        self.choose_memory(slot);
        self.lives.remove(&number);
        let Some(mut life) = self.slots[slot].life.take() else { return };
        self.watched.remove(life.control.as_fd().as_raw_fd());
        self.watched.remove(life.process.as_fd().as_raw_fd());
        process::forget(&process::socket_path(self.host.directory.path(), self.slots[slot].id));
        let status = life.process.reap();
        let (ending, kind, code, text) = match (life.report, life.killed) {
            (_, Some(why)) => (Ending::Killed, EventKind::Lost, None, why),
            (Some(report), None) => describe(&report),
            (None, None) if self.slots[slot].state == State::Stopping => describe(&Ended::Stopped),
            (None, None) => (Ending::Killed, EventKind::Lost, None, status),
        };
        self.life_over(slot, ending, kind, code, text);
    }

    /// A life is over; decides whether another one follows.
    pub fn life_over(&mut self, slot: usize, ending: Ending, kind: EventKind, exit_code: Option<u8>, text: String) {
        if self.slots[slot].standing == Standing::GivenUp {
            return self.forget(slot, kind, text);
        }
        let stopping = self.slots[slot].state == State::Stopping;
        let action = self.slots[slot].supervisor.ended(self.now, ending);
        let district = &mut self.slots[slot];
        district.record.last_end = Some(End { time_ms: now_ms(), exit_code, text: text.clone() });
        district.state = match action {
            Action::StartAt(_) => State::BackingOff,
            Action::Failed(_) => State::Failed,
            _ if district.restart_is_asked_for() => State::Starting,
            _ if stopping => State::Stopped,
            _ => State::Exited,
        };
        let (name, epoch, state) = (district.name.clone(), district.epoch, district.state);
        let mut event = Event::now(kind, name.clone(), epoch, state, text);
        event.exit_code = exit_code;
        self.publish(&event);
        match action {
            Action::StartAt(at) => {
                self.timers.add(at, Due::Restart(slot));
                self.save(slot);
                let wait = at.saturating_sub(self.now) / 1_000_000;
                self.publish(&Event::now(
                    EventKind::Restarting,
                    name,
                    epoch,
                    state,
                    format!("restarting in {wait} ms"),
                ));
            }
            Action::Failed(_) => {
                let restart = self.slots[slot].record.spec.restart;
                let text = format!(
                    "failed: {} restarts within {} s were not enough; `district start {name}` tries again",
                    restart.intensity,
                    restart.within.as_secs()
                );
                self.not_wanted(slot);
                self.publish(&Event::now(EventKind::Failed, name, epoch, state, text));
            }
            // It is as wanted as before: a daemon that dies before the new life leaves that to the next one.
            _ if self.slots[slot].restart_is_asked_for() => {}
            _ => self.not_wanted(slot),
        }
        self.answer_starters();
        self.answer_waiting(slot);
    }

    /// Forgets a copy that could not begin.
    fn forget(&mut self, slot: usize, kind: EventKind, text: String) {
        let District { name, id, epoch, waiting, .. } = &mut self.slots[slot];
        let (name, id, epoch, waiting) = (name.clone(), *id, *epoch, std::mem::take(waiting));
        // For the names that it has bound.
        self.core.detach(self.now, id, Reason::Destroyed, 0);
        self.carry_out();
        life_file::remove(self.host.directory.path(), id);
        logs::remove(self.host.directory.path(), &name);
        self.drop_district(slot);
        self.answer_starters();
        for Waiting::Stopped(reply) | Waiting::Restart(reply) in waiting {
            reply.send(Err(Refusal::no_district(&name)));
        }
        self.publish(&Event::now(kind, name.clone(), epoch, State::Stopped, text));
        self.publish(&Event::now(EventKind::Removed, name, epoch, State::Stopped, "removed"));
    }
}

/// What a report means to the supervisor, and in words.
fn describe(report: &Ended) -> (Ending, EventKind, Option<u8>, String) {
    match report {
        Ended::Exit { code, message } => {
            let text = match message.as_str() {
                "" => format!("exited with code {code}"),
                message => format!("exited with code {code}: {}", logs::escape(message)),
            };
            (Ending::Exit { code: *code }, EventKind::Exited, Some(*code), text)
        }
        Ended::Fault(fault) => (Ending::Fault, EventKind::Faulted, None, fault.to_string()),
        Ended::Stopped => (Ending::Killed, EventKind::Stopped, None, "stopped".to_owned()),
        Ended::Failed { error } => (Ending::Killed, EventKind::Lost, None, logs::escape(error)),
    }
}
