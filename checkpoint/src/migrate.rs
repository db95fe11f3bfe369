//! From the log to the image.
//!
//! In place, the order is what makes it safe: (1) both slots say `Migrating`, durable; (2) pages and table are written,
//! durable; (3) both slots say `At` the target, durable; (4) segments that nobody needs are removed. From (1) on, and
//! until (3), every page that may be half written is in the log, on the way of each generation that can be restored.

use std::collections::BTreeSet;

use crate::error::Error;
use crate::image::builder::{Builder, Identity, put, remove_if_there, temporary};
use crate::image::{Image, Phase, Progress, Slot, pages_offset};
use crate::lineage::{BASE, HOME, Lineage, segment_name};
use crate::overlay::Source;
use crate::page::Content;
use crate::restore::Restore;
use crate::segment::record::Stamp;
use crate::storage::{Access, Directory, Storage};

/// How to migrate.
#[derive(Debug, Clone, Copy)]
pub struct Migration<'a> {
    /// The generation that the image is to be at; [`Lineage::migration_target`] proposes one.
    pub target: u64,
    /// The generation that the memory of the running district comes from: its newest checkpoint in this life, or what it
    /// was restored from. 0 if none runs, or if it began with nothing and has no checkpoint yet.
    ///
    /// Its next checkpoint is going to build on that generation, and it may have mapped the image and look at all pages
    /// that are not its own yet. So the target must be one that it builds on, or itself.
    pub running: u64,
    /// Number of the first segment that somebody may still append to: from it on, none is removed.
    pub writing: u64,
    /// The description of an image that has to be made anew.
    pub description: &'a [u8],
}

impl<D: Directory> Lineage<D> {
    /// What to migrate to, if there is anything: the parent of the newest generation that can be restored, so that both
    /// can be restored afterwards; or, if what is `running` ([`Migration::running`]) does not build on that, the newest
    /// that both build on.
    pub fn migration_target(&self, running: u64) -> Option<u64> {
        self.history.migration_target(running)
    }

    /// Brings the image to the target, and removes the segments that hold nothing that is needed any more.
    ///
    /// All data is checked before the image is touched. May be repeated after any failure or power cut, from a lineage
    /// that was opened anew. What builds on the target can be restored at every instant; what does not is lost.
    pub fn migrate(&mut self, migration: &Migration<'_>, progress: &mut Progress<'_>) -> Result<(), Error> {
        let target = migration.target;
        if !self.history.restorable(target) {
            return Err(Error::NotRestorable(target));
        }
        let running = migration.running;
        if running != 0 && !self.chain(running)?.contains(&target) {
            return Err(Error::OffTheWay { target, running });
        }
        let in_place = self.own && self.history.builds_on_image(target);
        if in_place && let Some(Phase::Migrating { to, .. }) = self.image().map(|image| image.phase) {
            self.migrate_in_place(to, progress)?;
        }
        if !self.own || self.history.at() != Some(target) {
            if in_place {
                self.migrate_in_place(target, progress)?;
            } else {
                self.build_home(migration, progress)?;
            }
        }
        self.clean(migration.writing)
    }

    fn migrate_in_place(&mut self, target: u64, progress: &mut Progress<'_>) -> Result<(), Error> {
        let file = self.directory.open(HOME, Access::Write).map_err(Error::storage("cannot open the image"))?;
        let mut image = Image::open(file)?;
        let restore = self.restore(target)?;
        restore.check_data()?;
        let written = write_chain(&mut image, &restore, progress);
        drop(restore);
        self.image = Some(image);
        self.judge();
        written
    }

    /// Makes an image of its own where there is none, or one that is shared, or one that the target does not build on.
    fn build_home(&mut self, migration: &Migration<'_>, progress: &mut Progress<'_>) -> Result<(), Error> {
        let identity = Identity { lineage: self.id, description: migration.description };
        let image = write_image(&self.directory, HOME, &self.restore(migration.target)?, &identity, progress)?;
        (self.image, self.own) = (Some(image), true);
        self.judge();
        Ok(())
    }

    /// Removes what an interrupted migration has left, and segments with numbers less than `writing` that nothing needs:
    /// not those that hold what builds on the image or what the newest generation is made of, and never the last one.
    pub fn clean(&mut self, writing: u64) -> Result<(), Error> {
        let Some(newest) = self.history.newest() else { return Ok(()) };
        if self.image().is_some_and(|image| matches!(image.phase, Phase::Migrating { .. })) {
            // All that is there may be needed to finish.
            return Ok(());
        }
        self.heal()?;
        let mut needed: BTreeSet<usize> = BTreeSet::new();
        needed.extend(self.history.chain(newest).iter().flat_map(|chain| &chain.entries).map(|entry| entry.segment));
        for entry in self.history.entries() {
            // Without an image of its own, a lineage needs all of its log.
            if !self.own || self.history.builds_on_image(entry.found.stamp.generation) {
                needed.insert(entry.segment);
            }
        }
        let mut removed = remove_leftovers(&self.directory, self.own)?;
        let unneeded = self.segments.iter().enumerate().filter(|(index, _)| !needed.contains(index));
        let numbers = unneeded.map(|(_, segment)| segment.number).chain(self.unfinished.iter().copied());
        let numbers: BTreeSet<u64> = numbers.filter(|number| *number < writing && *number < self.last()).collect();
        if !numbers.is_empty() {
            // The name of the image that makes them superfluous comes first.
            self.directory.sync().map_err(Error::storage("cannot sync the directory of a lineage"))?;
        }
        for number in &numbers {
            remove_if_there(&self.directory, &segment_name(*number))?;
            removed = true;
        }
        if removed {
            self.directory.sync().map_err(Error::storage("cannot sync the directory of a lineage"))?;
        }
        self.forget(&numbers);
        Ok(())
    }

    /// Makes both slots of the own image say the same again: one that was left from before would need its segments.
    fn heal(&mut self) -> Result<(), Error> {
        if !self.own || self.image().is_none_or(|image| image.both_slots) {
            return Ok(());
        }
        let file = self.directory.open(HOME, Access::Write).map_err(Error::storage("cannot open the image"))?;
        let mut image = Image::open(file)?;
        image.set_slot(image.slot().clone())?;
        self.image = Some(image);
        self.judge();
        Ok(())
    }
}

fn remove_leftovers<D: Directory>(directory: &D, own: bool) -> Result<bool, Error> {
    let names = directory.names().map_err(Error::storage("cannot list the files of a lineage"))?;
    let mut removed = false;
    for (name, leftover) in [(temporary(HOME), true), (BASE.to_owned(), own)] {
        if leftover && names.contains(&name) {
            remove_if_there(directory, &name)?;
            removed = true;
        }
    }
    Ok(removed)
}

/// Steps 1 to 3, on an image that is at what the chain begins with, or on its way along it to the same target.
fn write_chain<F: Storage, G: Storage>(
    image: &mut Image<F>,
    restore: &Restore<G>,
    progress: &mut Progress<'_>,
) -> Result<(), Error> {
    let overlay = restore.overlay();
    let target = restore.stamp();
    let mut table = restore.image_table(image)?;
    let slot = image.slot().clone();
    let (Phase::At(from) | Phase::Migrating { from, .. }) = slot.phase;
    let table_checksum = table.checksum_without(&|page| overlay.covers(page));
    let phase = Phase::Migrating { from, to: target.generation };
    image.set_slot(Slot { phase, table_checksum, state: Vec::new(), ..slot })?;

    let pages_at = pages_offset(restore.memory_size());
    let total = overlay.pieces().map(|piece| piece.count).sum();
    let mut done = 0;
    for piece in overlay.pieces().filter(|piece| piece.source == Source::Zero) {
        put(image.file(), pages_at, &mut table, piece.first, Content::Zero(piece.count))?;
        done += piece.count;
        progress(done, total);
    }
    restore.each_data(&mut |first, data| {
        put(image.file(), pages_at, &mut table, first, Content::Data(data))?;
        done += (data.len() / crate::format::PAGE_SIZE) as u64;
        progress(done, total);
        Ok(())
    })?;
    table.write(image.file())?;
    image.file().sync_data().map_err(Error::storage("cannot sync the image"))?;

    let (phase, state) = (Phase::At(target.generation), restore.state().to_vec());
    let slot = Slot { sequence: 0, phase, stamp: target, table_checksum: table.checksum(), state };
    image.set_slot(slot)
}

/// Writes an image of a generation under a name in a directory: sparse, durable, and complete as soon as it has that name.
/// In phase `At` for ever, unless it is the `home` of a lineage.
pub fn write_image<D: Directory, F: Storage>(
    directory: &D,
    name: &str,
    restore: &Restore<F>,
    identity: &Identity<'_>,
    progress: &mut Progress<'_>,
) -> Result<Image<D::File>, Error> {
    let mut builder = Builder::create(directory, name, restore.memory_size(), identity)?;
    let put = restore.each_page(progress, &mut |first, data| builder.put(first, data));
    let stamp: Stamp = restore.stamp();
    match put {
        Ok(()) => builder.finish(stamp, restore.state()),
        Err(error) => {
            builder.abandon();
            Err(error)
        }
    }
}
