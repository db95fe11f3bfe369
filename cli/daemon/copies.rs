//! What people ask of snapshots and copies. The work on files is done in jobs ([`super::snapshots`]).

use std::path::PathBuf;

use anyhow::Result;
use district_broker::DistrictId;

use super::checkpoints::no_checkpoint;
use super::district::{District, Standing};
use super::event_loop::EventLoop;
use super::life_file::LifeFile;
use super::requests::refusal;
use super::snapshots::{self, Place};
use super::starters::StarterReply;
use super::store::Record;
use super::traffic;
use crate::api::command::{MemoryCommand, Reply};
use crate::api::info::DistrictInfo;
use crate::api::name::Name;
use crate::api::refusal::{Refusal, RefusalKind};
use crate::api::snapshot::{Beginning, CloneRequest, ImportRequest, SnapshotInfo, Tag};
use crate::api::spec::Spec;

impl EventLoop {
    /// Where its files are.
    pub fn place(&self, slot: usize) -> Place {
        let district = &self.slots[slot];
        Place {
            state: self.host.directory.path().to_owned(),
            id: district.id,
            name: district.name.clone(),
            spec: district.record.spec.clone(),
            files: district.memory.files.clone(),
        }
    }

    /// Does what was asked about a district's memory.
    pub fn memory_command(&mut self, slot: usize, command: MemoryCommand) {
        match command {
            MemoryCommand::Checkpoint(reply) => self.checkpoint_by_request(slot, reply),
            MemoryCommand::Checkpoints(reply) => self.list_checkpoints(slot, reply),
            MemoryCommand::Snapshot(tag, reply) => self.snapshot(slot, tag, reply),
            MemoryCommand::Snapshots(reply) => self.list_snapshots(Some(slot), reply),
            MemoryCommand::RemoveSnapshot(tag, reply) => self.remove_snapshot(slot, tag, reply),
            MemoryCommand::Clone(request, reply) => self.copy(slot, request, reply),
            MemoryCommand::Export(tag, path, reply) => self.export(slot, tag, path, reply),
        }
    }

    /// Keeps a district's memory under a name: as it is now, if it runs; else as it was when it stopped.
    pub fn snapshot(&mut self, slot: usize, tag: Option<Tag>, reply: Reply<SnapshotInfo>) {
        if self.slots[slot].life.is_none() {
            return self.make_snapshot(slot, None, tag, reply);
        }
        self.take_checkpoint(
            slot,
            Box::new(|event_loop, slot, taken| match taken {
                Ok(generation) => event_loop.make_snapshot(slot, Some(generation), tag, reply),
                Err(error) => reply.send(Err(no_checkpoint(&event_loop.slots[slot].name, &error))),
            }),
        );
    }

    fn make_snapshot(&mut self, slot: usize, generation: Option<u64>, tag: Option<Tag>, reply: Reply<SnapshotInfo>) {
        let place = self.place(slot);
        self.files_job(reply, move |teller| {
            let mut progress = snapshots::report(teller, place.name.clone(), "snapshot");
            place.make(generation, tag.as_ref(), &mut progress)
        });
    }

    /// The snapshots of one district, or of all.
    pub fn list_snapshots(&mut self, slot: Option<usize>, reply: Reply<Vec<SnapshotInfo>>) {
        let slots: Vec<usize> =
            slot.map_or_else(|| self.slots.iter().map(|(slot, _)| slot).collect(), |slot| vec![slot]);
        let places: Vec<_> = slots.into_iter().map(|slot| self.place(slot)).collect();
        self.files_job(reply, move |_| Ok(places.iter().flat_map(Place::list).collect()));
    }

    /// Forgets a snapshot.
    pub fn remove_snapshot(&mut self, slot: usize, tag: Tag, reply: Reply<()>) {
        let place = self.place(slot);
        self.files_job(reply, move |_| place.remove(&tag));
    }

    /// Writes a snapshot to a new file.
    pub fn export(&mut self, slot: usize, tag: Tag, path: PathBuf, reply: Reply<SnapshotInfo>) {
        let place = self.place(slot);
        self.files_job(reply, move |teller| {
            let mut progress = snapshots::report(teller, place.name.clone(), "export");
            place.export(&tag, &path, &mut progress)
        });
    }

    /// Makes a district like this one, or like a snapshot of it, and starts it.
    pub fn copy(&mut self, slot: usize, request: CloneRequest, reply: Reply<DistrictInfo>) {
        if let Err(refusal) = self.check_new(&request.name) {
            return reply.send(Err(refusal));
        }
        let CloneRequest { name, from } = request;
        if from.is_some() || self.slots[slot].life.is_none() {
            return self.make_copy(slot, name, from, None, reply);
        }
        self.take_checkpoint(
            slot,
            Box::new(|event_loop, slot, taken| match taken {
                Ok(generation) => event_loop.make_copy(slot, name, None, Some(generation), reply),
                Err(error) => reply.send(Err(no_checkpoint(&event_loop.slots[slot].name, &error))),
            }),
        );
    }

    fn make_copy(
        &mut self,
        slot: usize,
        name: Name,
        from: Option<Tag>,
        generation: Option<u64>,
        reply: Reply<DistrictInfo>,
    ) {
        let place = self.place(slot);
        match from {
            Some(tag) => self.copy_snapshot(place, tag, name, reply),
            None => self.new_district(name, true, reply, move |teller, id| {
                let mut progress = snapshots::report(teller, place.name.clone(), "copy");
                place.copy_now(generation, id, &mut progress)
            }),
        }
    }

    /// Makes and starts a district that begins with a snapshot. Nothing is copied, so it is no job: its files are made,
    /// and become durable while its machine is built.
    fn copy_snapshot(&mut self, place: Place, tag: Tag, name: Name, reply: Reply<DistrictInfo>) {
        let id = match new_id() {
            Ok(id) => id,
            Err(refusal) => return reply.send(Err(refusal)),
        };
        self.jobs.commit(move |teller| {
            let made = place.copy_to(&tag, id);
            let is_made = made.is_ok();
            teller.tell(Box::new(move |event_loop| event_loop.made(name, id, made, true, reply)));
            let durable = if is_made { snapshots::sync_copy(&place.state, id) } else { Ok(()) };
            // Before its first life is committed, which this thread does next.
            Box::new(move |event_loop: &mut EventLoop| {
                if let (Err(error), Some(slot)) = (durable, event_loop.slot_of(id)) {
                    event_loop.not_started(slot, &error);
                }
            })
        });
    }

    /// Makes a district of an exported snapshot, and does not start it.
    pub fn import(&mut self, request: ImportRequest, reply: Reply<DistrictInfo>) {
        let ImportRequest { path, name } = request;
        if let Err(refusal) = self.check_new(&name) {
            return reply.send(Err(refusal));
        }
        let state = self.host.directory.path().to_owned();
        let shown = name.clone();
        self.new_district(name, false, reply, move |teller, id| {
            let mut progress = snapshots::report(teller, shown, "import");
            snapshots::take_in(&state, id, &path, &mut progress)
        });
    }

    fn check_new(&self, name: &Name) -> Result<(), Refusal> {
        if self.names.contains_key(name) {
            return Err(Refusal::new(RefusalKind::Conflict, format!("there is a district `{name}` already"))
                .remedy("choose another name"));
        }
        if self.ending.is_some() {
            return Err(Refusal::shutting_down());
        }
        Ok(())
    }

    /// Makes a district whose memory a job makes first.
    fn new_district(
        &mut self,
        name: Name,
        start: bool,
        reply: Reply<DistrictInfo>,
        make: impl FnOnce(&super::jobs::Teller, DistrictId) -> Result<Spec> + Send + 'static,
    ) {
        match new_id() {
            Ok(id) => self.job(
                reply,
                move |teller| make(teller, id),
                move |event_loop, made, reply| event_loop.made(name, id, made, start, reply),
            ),
            Err(refusal) => reply.send(Err(refusal)),
        }
    }

    /// The memory of a new district has been made, or cannot be.
    fn made(&mut self, name: Name, id: DistrictId, made: Result<Spec>, start: bool, reply: Reply<DistrictInfo>) {
        let added = made.map_err(refusal).and_then(|spec| {
            self.check_new(&name)?;
            self.add_copy(name, id, spec, start)
        });
        if added.is_err() && !self.ids.contains_key(&id) {
            super::life_file::remove(self.host.directory.path(), id);
        }
        match added {
            Ok(slot) => self.answer_when_begun(vec![slot], StarterReply::One(reply)),
            Err(refusal) => reply.send(Err(refusal)),
        }
    }

    fn add_copy(&mut self, name: Name, id: DistrictId, spec: Spec, start: bool) -> Result<usize, Refusal> {
        let mut spec = Spec { name: name.clone(), ..spec };
        // One that has a memory has checkpoints.
        spec.checkpoints.get_or_insert_default();
        // What a command hosts ends with it; no later daemon is to start it.
        let record = Record { wanted: start && !self.host.tied, ..Record::new(id.0, spec) };
        let epoch = LifeFile::open(self.host.directory.path(), id).map_err(refusal)?.epoch();
        if start {
            let standing = Standing::New;
            let slot = self.add_district(District { standing, ..District::new(name, record, epoch) });
            return self.start_by_request(slot).map(|()| slot);
        }
        self.host.store.put_district(name.as_str(), &record).map_err(refusal)?;
        Ok(self.add_district(District::new(name, record, epoch)))
    }

    /// Says with which memory a district is to begin its next life, if it can.
    pub fn begin_with(&mut self, slot: usize, from: Beginning) -> Result<(), Refusal> {
        let district = &self.slots[slot];
        if district.record.spec.checkpoints.is_none() && !matches!(from, Beginning::Newest | Beginning::Cold) {
            let what = format!("no checkpoints are taken of district `{}`", district.name);
            return Err(Refusal::new(RefusalKind::Conflict, what).remedy("add `checkpoints` to its manifest"));
        }
        self.slots[slot].beginning = from;
        Ok(())
    }

    /// Goes on with `then` when it is known that what a district is to begin with is there, and, if it is a snapshot, is
    /// what was written: what it had before is given up for it.
    pub fn when_checked(
        &mut self,
        slot: usize,
        from: Beginning,
        reply: Reply<DistrictInfo>,
        then: fn(&mut EventLoop, usize, Beginning, Reply<DistrictInfo>),
    ) {
        let place = self.place(slot);
        if matches!(from, Beginning::Newest | Beginning::Cold) || place.spec.checkpoints.is_none() {
            return then(self, slot, from, reply);
        }
        let (id, name, wanted) = (place.id, place.name.clone(), from.clone());
        self.job(
            reply,
            move |teller| match wanted {
                Beginning::Newest | Beginning::Cold => Ok(()),
                Beginning::Generation(generation) => place.check_generation(generation),
                Beginning::Tag(tag) => {
                    let mut progress = snapshots::report(teller, place.name.clone(), "looking at the snapshot");
                    place.verify(&tag, &mut progress)
                }
            },
            move |event_loop, checked, reply| match (checked.map_err(refusal), event_loop.slot_of(id)) {
                (Ok(()), Some(slot)) => then(event_loop, slot, from, reply),
                (Ok(()), None) => {
                    let what = format!("district `{name}` is gone");
                    reply.send(Err(Refusal::new(RefusalKind::NotFound, what).remedy("see `district ps`")));
                }
                (Err(refusal), _) => reply.send(Err(refusal)),
            },
        );
    }
}

/// An identity that nothing has had yet.
fn new_id() -> Result<DistrictId, Refusal> {
    let mut id = [0; 16];
    let made = traffic::random(&mut id);
    made.map_err(|error| Refusal::new(RefusalKind::Failed, format!("no random bytes: {error}")))?;
    Ok(DistrictId(id))
}
