//! What a life begins with, as far as finding that out takes long: a log has all pages that have changed since it last went
//! to the image, which may be all that there are. The event loop serves all districts, so a job reads a long one.

use anyhow::Result;
use district_broker::DistrictId;
use district_checkpoint::{Depth, Folder, Lineage};
use district_vmm::control::SEGMENTS_MAX;

use super::event_loop::EventLoop;
use super::jobs::{self, Then};
use super::lives::FILES_WAIT;
use super::memory::{self, LOG_LONG, Wanted};
use super::migration;
use super::snapshots::Place;
use super::watched::Due;
use crate::api::snapshot::Beginning;

/// A lineage that a job has opened for the next life.
pub struct Opened {
    /// How often its files had been changed then.
    changes: u64,
    /// What somebody wanted it to begin with then.
    beginning: Beginning,
    lineage: Result<Lineage<Folder>>,
}

impl Opened {
    /// The lineage.
    pub fn lineage(self) -> Result<Lineage<Folder>> {
        self.lineage
    }
}

/// Opens a lineage for a life that is to begin with `wanted`, and reads all of its log: the last checkpoint may be torn,
/// though it looks complete.
pub fn open(place: &Place, wanted: Wanted) -> Result<Lineage<Folder>> {
    let mut lineage = memory::lineage(&place.state, place.id, place.spec.memory, Depth::Data)?;
    if let Some(generation) = memory::choose(&lineage, wanted)?
        && lineage.segments_of(generation)? > SEGMENTS_MAX
    {
        // Nothing else is under way, and this is how it becomes less.
        migration::migrate(&mut lineage, generation, u64::MAX)?;
    }
    Ok(lineage)
}

/// Whether the event loop must not open it.
fn is_long(place: &Place) -> Result<bool> {
    let path = memory::directory(&place.state, place.id);
    let (bytes, segments) = district_checkpoint::log_size(&memory::folder(&path)?)?;
    Ok(bytes > LOG_LONG || segments > SEGMENTS_MAX)
}

impl EventLoop {
    /// Whether it can be told at once what the next life of a district begins with. If not, a job finds out, and the
    /// district is started when it has. The files are locked, and have been changed so often.
    pub fn is_read(&mut self, slot: usize, changes: u64) -> bool {
        let district = &mut self.slots[slot];
        let (opened, beginning) = (&mut district.memory.opened, &district.beginning);
        // Somebody may have changed the files or his mind meanwhile.
        opened.take_if(|opened| opened.changes != changes || opened.beginning != *beginning);
        if opened.is_some() || district.record.spec.checkpoints.is_none() {
            return true;
        }
        let (beginning, wanted) = (district.beginning.clone(), district.wanted());
        let place = self.place(slot);
        // What cannot be told is an error when it is opened.
        if !matches!(beginning, Beginning::Tag(_)) && !is_long(&place).unwrap_or(false) {
            return true;
        }
        let begun = self.jobs.begin(move |_| {
            let id = place.id;
            let mut changes = jobs::lock(&place.files);
            *changes += 1;
            let went_back = match &beginning {
                Beginning::Tag(tag) => place.go_back(tag),
                _ => Ok(()),
            };
            let lineage = went_back.and_then(|()| open(&place, wanted));
            let opened = Opened { changes: *changes, beginning, lineage };
            drop(changes);
            Box::new(move |event_loop: &mut EventLoop| event_loop.has_opened(id, opened)) as Then
        });
        if let Err(error) = begun {
            log::warn!("district {}: its log cannot be read now: {error}", self.slots[slot].name);
            self.timers.add(self.now + FILES_WAIT, Due::Restart(slot));
        }
        false
    }

    fn has_opened(&mut self, id: DistrictId, opened: Opened) {
        let Some(slot) = self.slot_of(id) else { return };
        let district = &mut self.slots[slot];
        // Somebody may have stopped it meanwhile.
        if district.life.is_none() && district.put_off.is_some() {
            district.memory.opened = Some(opened);
            self.restart_due(slot);
        }
    }
}
