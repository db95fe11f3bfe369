//! From a district's log to its image, while the district runs.

use std::path::PathBuf;

use anyhow::Result;
use district_broker::DistrictId;
use district_checkpoint::{Depth, Folder, Lineage, Migration};

use super::event_loop::EventLoop;
use super::jobs::{self, Then};
use super::memory::{self, Seal};
use crate::api::info::State;
use crate::api::snapshot::Beginning;

/// Wait before it is tried again to give a life a segment, after that has failed: nanoseconds.
const NO_LOG_WAIT: u64 = 100_000_000;
/// A segment that has more bytes than this is followed by another one.
const SEGMENT_BYTES: u64 = 8 << 20;

/// Brings the image of a lineage as far as the memory of the running district allows, which comes from generation
/// `running` (0: from none). Segments from number `writing` on may be written to by somebody else.
pub fn migrate(lineage: &mut Lineage<Folder>, running: u64, writing: u64) -> Result<()> {
    match lineage.migration_target(running) {
        Some(target) => lineage.migrate(&Migration { target, running, writing, description: &[] }, &mut |_, _| ())?,
        // Segments of lives that have left nothing.
        None => lineage.clean(writing)?,
    }
    Ok(())
}

/// A life of a district, for a job.
#[derive(Clone)]
struct Under {
    state: PathBuf,
    id: DistrictId,
    size: u64,
    epoch: u64,
    /// What it began from.
    generation: u64,
}

/// Migrates under a district that runs. The image's seal before and after.
fn migrate_under(life: &Under) -> Result<[Option<Seal>; 2]> {
    let Under { state, id, size, epoch, generation } = life;
    let before = memory::seal_of_home(state, *id);
    let mut lineage = memory::lineage(state, *id, *size, Depth::Heads)?;
    let own = |info: &district_checkpoint::GenerationInfo| {
        (info.stamp.epoch == *epoch && info.restorable).then_some(info.stamp.generation)
    };
    let running = lineage.generations().iter().filter_map(own).max().unwrap_or(*generation);
    let writing = lineage.segments().last().map_or(0, |segment| segment.number);
    migrate(&mut lineage, running, writing)?;
    Ok([before, memory::seal_of_home(state, *id)])
}

impl EventLoop {
    /// The segment that the district writes to is full, or cannot be written to any more: it gets another one, and what is
    /// in the log goes to its image.
    pub fn next_segment(&mut self, slot: usize) {
        let district = &mut self.slots[slot];
        let Some(life) = &mut district.life else { return };
        // One that somebody waits for is tried at once.
        let is_soon = life.no_log_at.is_some_and(|at| self.now.saturating_sub(at) < NO_LOG_WAIT);
        if is_soon && !life.requests.wait_for_log() {
            return;
        }
        if std::mem::replace(&mut life.rotating, true) {
            return;
        }
        let (state, id, files) = (self.host.directory.path().to_owned(), district.id, district.memory.files.clone());
        let (number, size) = (life.number, district.record.spec.memory);
        let begun = self.jobs.begin(move |_| {
            let mut changes = jobs::lock(&files);
            *changes += 1;
            let segment = memory::new_segment(&state, id, size);
            Box::new(move |event_loop: &mut EventLoop| event_loop.rotated(number, segment)) as Then
        });
        if let Err(error) = begun {
            life.rotating = false;
            self.no_segment(slot, &format!("no new log segment: {error}"));
        }
    }

    fn rotated(&mut self, number: u64, segment: Result<std::fs::File>) {
        use std::os::fd::AsFd;
        let Some(slot) = self.slot_of_life(number) else { return };
        let Some(life) = &mut self.slots[slot].life else { return };
        life.rotating = false;
        match segment {
            Ok(segment) => {
                // One that is gone is heard of elsewhere.
                let _ = life.control.log(segment.as_fd());
                life.segments += 1;
                (life.lacks_log, life.no_log_at) = (false, None);
                let waiting = life.requests.take_waiting_for_log();
                self.migrate(slot);
                for then in waiting {
                    self.take_checkpoint(slot, then);
                }
            }
            Err(error) => self.no_segment(slot, &format!("no new log segment: {error:#}")),
        }
    }

    fn no_segment(&mut self, slot: usize, error: &str) {
        self.checkpoint_failed(slot, error);
        let now = self.now;
        let Some(life) = &mut self.slots[slot].life else { return };
        life.no_log_at = Some(now);
        let (number, waiting) = (life.number, life.requests.take_waiting_for_log());
        self.tell_all(slot, number, waiting.into_iter().map(|then| (0, then)).collect(), &Err(error.to_owned()));
    }

    /// Brings the image of a district that runs up to date.
    pub fn migrate(&mut self, slot: usize) {
        let district = &self.slots[slot];
        let Some(life) = &district.life else { return };
        if matches!(district.beginning, Beginning::Generation(_)) {
            // Somebody goes back to a checkpoint that this could be the end of.
            return;
        }
        if district.state == State::Stopping {
            // The next life would have to wait for it, and does it if there is much to do.
            return;
        }
        let (state, id, files) = (self.host.directory.path().to_owned(), district.id, district.memory.files.clone());
        let (size, epoch, generation) = (district.record.spec.memory, district.epoch, life.generation);
        let under = Under { state, id, size, epoch, generation };
        let begun = self.jobs.begin(move |_| {
            let mut changes = jobs::lock(&files);
            *changes += 1;
            let seal = migrate_under(&under);
            Box::new(move |event_loop: &mut EventLoop| event_loop.migrated(id, seal)) as Then
        });
        if let Err(error) = begun {
            log::warn!("district {}: its log stays as long as it is: {error}", self.slots[slot].name);
        }
    }

    fn migrated(&mut self, id: DistrictId, seals: Result<[Option<Seal>; 2]>) {
        let Some(slot) = self.slot_of(id) else { return };
        let memory = &mut self.slots[slot].memory;
        match seals {
            Ok([before, after]) => {
                // All that goes into an image is checked on the way. So one that was checked still is, and so is a new one.
                let is_new = after.is_some_and(|after| before.is_none_or(|before| !before.is_same_file(&after)));
                if is_new || before.is_some() && before == memory.verified {
                    memory.verified = after;
                }
            }
            Err(error) => {
                log::error!("district {}: its log cannot go to its image: {error:#}", self.slots[slot].name);
            }
        }
    }

    /// Whether a segment with so many bytes is full.
    pub fn is_full(log_bytes: u64) -> bool {
        log_bytes > SEGMENT_BYTES
    }
}
