//! What people ask of the daemon.

use anyhow::Result;

use super::district::{District, Waiting};
use super::event_loop::EventLoop;
use super::starters::StarterReply;
use super::store::Record;
use super::{image, inspection, life_file, logs, memory, traffic};
use crate::api::command::{Command, Leave, LogRequest, Reply};
use crate::api::event::{Event, EventKind};
use crate::api::info::{DistrictInfo, State};
use crate::api::name::Name;
use crate::api::refusal::{Refusal, RefusalKind};
use crate::api::snapshot::Beginning;
use crate::api::spec::{Published, Spec, Target};
use crate::terminal::units;

impl EventLoop {
    /// Does what was asked, or says why not. What takes time is answered when it is done.
    pub fn command(&mut self, command: Command) {
        match command {
            Command::Start(specs, reply) => match self.start_all(specs) {
                Ok(slots) => self.answer_when_begun(slots, StarterReply::All(reply)),
                Err(refusal) => reply.send(Err(refusal)),
            },
            Command::StartExisting(name, from, reply) => {
                self.with(&name, reply, |this, slot, reply| {
                    this.when_checked(slot, from, reply, EventLoop::start_existing);
                });
            }
            Command::Stop(name, reply) => {
                self.with(&name, reply, |this, slot, reply| this.stop_by_request(slot, Waiting::Stopped(reply)));
            }
            Command::Restart(name, from, reply) => {
                self.with(&name, reply, |this, slot, reply| {
                    this.when_checked(slot, from, reply, EventLoop::restart_from);
                });
            }
            Command::Memory(name, command) => match self.find(&name) {
                Ok(slot) => self.memory_command(slot, command),
                Err(refusal) => command.refuse(refusal),
            },
            Command::Snapshots(reply) => self.list_snapshots(None, reply),
            Command::Import(request, reply) => self.import(request, reply),
            Command::Remove(name, reply) => {
                let answer = self.find(&name).and_then(|slot| self.remove(slot));
                reply.send(answer);
            }
            Command::List(reply) => {
                let mut all: Vec<_> = self.slots.iter().map(|(_, district)| district.info(self.now)).collect();
                all.sort_by(|a, b| a.name.cmp(&b.name));
                reply.send(Ok(all));
            }
            Command::Logs(request) => self.logs(request),
            Command::Events(feed, reply) => {
                self.feeds.push(feed);
                reply.send(Ok(()));
            }
            Command::Inspect(name, reply) => {
                let answer = match &name {
                    Some(name) => self.find(name).map(|slot| Some(self.slots[slot].id)),
                    None => Ok(None),
                };
                reply.send(answer.map(|only| inspection::keys(self, only)));
            }
            Command::Shutdown(leave, reply) => self.shut_down(leave, reply),
        }
    }

    fn find(&self, name: &Name) -> Result<usize, Refusal> {
        self.names.get(name).copied().ok_or_else(|| Refusal::no_district(name))
    }

    fn start_existing(&mut self, slot: usize, from: Beginning, reply: Reply<DistrictInfo>) {
        let district = &self.slots[slot];
        let (is_usual, is_stopping) = (from == Beginning::Newest, district.state == State::Stopping);
        if district.life.is_some() && !is_stopping {
            let name = &district.name;
            let refusal = || {
                Refusal::new(RefusalKind::Conflict, format!("district `{name}` is {}", district.state))
                    .remedy(format!("`district restart {name}` takes the same options"))
            };
            match is_usual {
                true => self.answer_when_begun(vec![slot], StarterReply::One(reply)),
                false => reply.send(Err(refusal())),
            }
            return;
        }
        // Somebody who has asked for a restart, or a start that was put off, may have said with which memory.
        let is_asked_for = district.restart_is_asked_for() || district.put_off.is_some();
        if !(is_usual && is_asked_for)
            && let Err(refusal) = self.begin_with(slot, from)
        {
            return reply.send(Err(refusal));
        }
        if is_stopping {
            return self.slots[slot].waiting.push(Waiting::Restart(reply));
        }
        self.start_and_answer(slot, vec![reply]);
    }

    /// Starts a district that has no life, and says what became of it.
    pub fn start_and_answer(&mut self, slot: usize, replies: Vec<Reply<DistrictInfo>>) {
        let started = self.start_by_request(slot);
        for reply in replies {
            match &started {
                Ok(()) => self.answer_when_begun(vec![slot], StarterReply::One(reply)),
                Err(refusal) => reply.send(Err(refusal.clone())),
            }
        }
    }

    /// Does something with a district, if there is one of that name.
    fn with<T>(&mut self, name: &Name, reply: Reply<T>, what: impl FnOnce(&mut EventLoop, usize, Reply<T>)) {
        match self.find(name) {
            Ok(slot) => what(self, slot, reply),
            Err(refusal) => reply.send(Err(refusal)),
        }
    }

    fn restart_from(&mut self, slot: usize, from: Beginning, reply: Reply<DistrictInfo>) {
        match self.begin_with(slot, from) {
            Ok(()) => self.stop_by_request(slot, Waiting::Restart(reply)),
            Err(refusal) => reply.send(Err(refusal)),
        }
    }

    fn start_all(&mut self, specs: Vec<Spec>) -> Result<Vec<usize>, Refusal> {
        for spec in &specs {
            self.check(spec, &specs)?;
        }
        // All are known before the first one starts, because they are granted each other's names.
        let mut slots = Vec::new();
        for spec in specs {
            slots.push(self.take_in(spec)?);
        }
        for slot in &slots {
            if self.slots[*slot].life.is_none() {
                self.start_by_request(*slot)?;
            }
        }
        Ok(slots)
    }

    /// What needs the other districts, and the file system.
    fn check(&self, spec: &Spec, together: &[Spec]) -> Result<(), Refusal> {
        if together.iter().filter(|other| other.name == spec.name).count() > 1 {
            return Err(Refusal::new(RefusalKind::Invalid, format!("two districts are called `{}`", spec.name))
                .remedy("give each a name of its own"));
        }
        if let Some(slot) = self.names.get(&spec.name) {
            let district = &self.slots[*slot];
            if district.life.is_some() && district.record.spec != *spec {
                return Err(Refusal::new(
                    RefusalKind::Conflict,
                    format!("district `{}` runs already, from another specification", spec.name),
                )
                .remedy(format!("stop it first: district stop {}", spec.name)));
            }
            self.check_memory(district, spec)?;
        }
        image::open(&spec.image).map_err(|error| {
            Refusal::new(RefusalKind::Invalid, format!("image {}: {error}", spec.image.display()))
                .remedy("build it, or correct its path")
        })?;
        let published = spec.grants.values().filter_map(|grant| match &grant.to {
            Target::Published(published) => Some(published),
            _ => None,
        });
        published.chain(&spec.bootstrap).try_for_each(|published| self.check_published(published, together))
    }

    /// Checkpoints of a memory of another size are of no use to it.
    fn check_memory(&self, district: &District, spec: &Spec) -> Result<(), Refusal> {
        let had = district.record.spec.memory;
        let is_kept = || memory::directory(self.host.directory.path(), district.id).exists();
        if spec.checkpoints.is_none() || spec.memory == had || !is_kept() {
            return Ok(());
        }
        let (name, had) = (&district.name, units::exact_size(had));
        Err(Refusal::new(RefusalKind::Conflict, format!("district `{name}` has checkpoints of a memory of {had}"))
            .remedy(format!("give it that much again, or give it up with them: district remove {name}")))
    }

    fn check_published(&self, published: &Published, together: &[Spec]) -> Result<(), Refusal> {
        let known = self.names.get(&published.district).map(|slot| &self.slots[*slot].record.spec);
        let Some(owner) = together.iter().find(|spec| spec.name == published.district).or(known) else {
            return Err(Refusal::new(
                RefusalKind::Invalid,
                format!("no district has the name `{}`", published.district),
            )
            .remedy(format!("start it before, or together with, the one that is granted {published}")));
        };
        if !owner.publishes.contains(&published.name) {
            return Err(Refusal::new(
                RefusalKind::Invalid,
                format!("district `{}` does not publish `{}`", published.district, published.name),
            )
            .remedy(format!("add it to the `publishes` of `{}`", published.district)));
        }
        Ok(())
    }

    fn take_in(&mut self, spec: Spec) -> Result<usize, Refusal> {
        let name = spec.name.clone();
        if let Some(slot) = self.names.get(&name).copied() {
            let district = &mut self.slots[slot];
            if district.life.is_none() && district.record.spec != spec {
                let (record, epoch) = (Record { spec, ..district.record.clone() }, district.epoch);
                self.host.store.put_district(name.as_str(), &record).map_err(|error| failed(format!("{error:#}")))?;
                // Whoever works on its files goes on doing so.
                let memory = std::mem::take(&mut district.memory);
                *district = District { memory, ..District::new(name, record, epoch) };
            }
            return Ok(slot);
        }
        let mut id = [0; 16];
        traffic::random(&mut id).map_err(|error| failed(format!("no random bytes: {error}")))?;
        let record = Record::new(id, spec);
        self.host.store.put_district(name.as_str(), &record).map_err(|error| failed(format!("{error:#}")))?;
        Ok(self.add_district(District::new(name, record, 0)))
    }

    pub fn start_by_request(&mut self, slot: usize) -> Result<(), Refusal> {
        if self.ending.is_some() {
            return Err(Refusal::shutting_down());
        }
        // One that is new is gone when it cannot begin.
        let name = self.slots[slot].name.clone();
        self.start_requested(slot).map_err(|error| not_started(&name, &error))
    }

    fn stop_by_request(&mut self, slot: usize, waiting: Waiting) {
        let stays_stopped = matches!(waiting, Waiting::Stopped(_));
        if stays_stopped {
            self.slots[slot].restart_no_more();
        }
        self.slots[slot].waiting.push(waiting);
        self.stop(slot);
        if stays_stopped && self.slots[slot].life.is_some() {
            // At once, and not when it has ended: a daemon that dies before that must not leave it to be started again.
            self.not_wanted(slot);
        }
        if self.slots[slot].life.is_none() {
            self.answer_waiting(slot);
        }
    }

    /// The life that somebody waited for the end of is over.
    pub fn answer_waiting(&mut self, slot: usize) {
        let restart = self.slots[slot].restart_is_asked_for();
        let waiting = std::mem::take(&mut self.slots[slot].waiting);
        let reply = |(Waiting::Restart(reply) | Waiting::Stopped(reply))| reply;
        let replies: Vec<_> = waiting.into_iter().map(reply).collect();
        if restart {
            return self.start_and_answer(slot, replies);
        }
        let info = self.slots[slot].info(self.now);
        replies.into_iter().for_each(|reply| reply.send(Ok(info.clone())));
    }

    fn remove(&mut self, slot: usize) -> Result<(), Refusal> {
        let district = &self.slots[slot];
        let (name, id, epoch) = (district.name.clone(), district.id, district.epoch);
        if district.life.is_some() || matches!(district.state, State::BackingOff | State::Starting) {
            return Err(Refusal::new(RefusalKind::Conflict, format!("district `{name}` is {}", district.state))
                .remedy(format!("stop it first: district stop {name}")));
        }
        let user = self.slots.iter().map(|(_, other)| other).find(|other| other.life.is_some() && other.uses(&name));
        if let Some(user) = user {
            let user = &user.name;
            return Err(Refusal::new(
                RefusalKind::Conflict,
                format!("district `{user}` runs and has a grant to `{name}`"),
            )
            .remedy(format!("stop it first: district stop {user}")));
        }
        self.host.store.remove_district(name.as_str(), &id.0).map_err(|error| failed(format!("{error:#}")))?;
        // It is not attached; this is for the names that it had bound.
        self.core.detach(self.now, id, district_protocol::status::Reason::Destroyed, 0);
        self.carry_out();
        logs::remove(self.host.directory.path(), &name);
        life_file::remove(self.host.directory.path(), id);
        self.drop_district(slot);
        self.publish(&Event::now(EventKind::Removed, name, epoch, State::Stopped, "removed"));
        Ok(())
    }

    fn logs(&mut self, request: LogRequest) {
        let LogRequest { districts, lines, follow, reply } = request;
        let unknown = districts.iter().find(|name| !self.names.contains_key(*name));
        if let Some(name) = unknown {
            return reply.send(Err(Refusal::no_district(name)));
        }
        let wanted: Vec<_> = if districts.is_empty() { self.names.keys().cloned().collect() } else { districts };
        let mut events = Vec::new();
        for name in &wanted {
            match logs::tail(self.host.directory.path(), name, lines) {
                Ok(found) => events.extend(found),
                Err(error) => return reply.send(Err(failed(format!("log of {name}: {error}")))),
            }
        }
        events.sort_by_key(|event| event.time_ms);
        events.drain(..events.len().saturating_sub(lines));
        self.feeds.extend(follow);
        reply.send(Ok(events));
    }

    fn shut_down(&mut self, leave: Leave, reply: Reply<()>) {
        let (now_leave, replies) = self.ending.get_or_insert((leave, Vec::new()));
        *now_leave = leave;
        replies.push(reply);
        if leave == Leave::Stopped {
            let slots: Vec<_> = self.slots.iter().map(|(slot, _)| slot).collect();
            for slot in slots {
                self.stop_for_now(slot);
            }
        }
    }
}

/// That a district could not be started.
pub fn not_started(name: &Name, error: &anyhow::Error) -> Refusal {
    failed(format!("{name}: {error:#}"))
}

fn failed(error: String) -> Refusal {
    Refusal::new(RefusalKind::Failed, error)
}

/// The refusal that an error is, or else that the daemon could not do it.
pub fn refusal(error: anyhow::Error) -> Refusal {
    error.downcast().unwrap_or_else(|error| failed(format!("{error:#}")))
}
