//! Which generations there are, what each builds on, and which can be restored.

use std::collections::BTreeMap;

use crate::image::Phase;
use crate::segment::scan::{Found, Scan};

/// A checkpoint in a segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    /// Index of the segment.
    pub segment: usize,
    pub found: Found,
}

/// What a checkpoint's chain of parents ends at.
#[derive(Debug, Clone, Copy, Default)]
struct Reach {
    /// It begins with a checkpoint that is complete in itself.
    complete: bool,
    /// It gets to the image, in a state of it that the chain can build on.
    image: bool,
    /// It gets to the image, whatever its state.
    touches: bool,
}

/// The checkpoints of a lineage, and its image.
#[derive(Debug, Default)]
pub(crate) struct History {
    image: Option<Phase>,
    entries: BTreeMap<u64, Entry>,
    reach: BTreeMap<u64, Reach>,
}

/// A generation's way back, oldest first.
#[derive(Debug)]
pub(crate) struct Chain {
    /// Whether it begins with the image.
    pub image: bool,
    pub entries: Vec<Entry>,
}

impl History {
    /// Adds what a segment holds; those with lower numbers come first. Generations that are not greater than all before
    /// are against the format and do not count; the offset of the first such is returned.
    pub(crate) fn add(&mut self, segment: usize, scan: &Scan) -> Option<u64> {
        let mut wrong = None;
        for found in &scan.checkpoints {
            let newest = self.entries.last_key_value().map_or(0, |(newest, _)| *newest);
            if found.stamp.generation > newest {
                self.entries.insert(found.stamp.generation, Entry { segment, found: *found });
            } else {
                wrong.get_or_insert(found.start);
            }
        }
        wrong
    }

    /// Decides what can be restored, with an image in that phase.
    pub(crate) fn judge(&mut self, image: Option<Phase>) {
        self.image = image;
        self.reach.clear();
        for (&generation, entry) in &self.entries {
            let parent = entry.found.stamp.parent;
            if !entry.found.intact {
                continue;
            }
            // Parents are less than their children, so they have been judged.
            let mut reach = self.reach.get(&parent).copied().unwrap_or_default();
            reach.complete |= parent == 0;
            match image {
                None => {}
                Some(Phase::At(at)) if parent == at => (reach.image, reach.touches) = (true, true),
                Some(Phase::At(_)) => {}
                // Pages of the generations up to the target may be half written: only who has all of them can build on it.
                Some(Phase::Migrating { from, to }) => {
                    reach.touches |= parent == from;
                    reach.image |= reach.touches && generation == to;
                }
            }
            self.reach.insert(generation, reach);
        }
    }

    pub(crate) fn has(&self, generation: u64) -> bool {
        self.entries.contains_key(&generation)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// The generation of the image, if it is the memory of one.
    pub(crate) fn at(&self) -> Option<u64> {
        match self.image {
            Some(Phase::At(generation)) => Some(generation),
            _ => None,
        }
    }

    pub(crate) fn restorable(&self, generation: u64) -> bool {
        self.at() == Some(generation) || self.reach.get(&generation).is_some_and(|reach| reach.complete || reach.image)
    }

    /// Whether the generation builds on the image and can be restored.
    pub(crate) fn builds_on_image(&self, generation: u64) -> bool {
        self.reach.get(&generation).is_some_and(|reach| reach.image)
    }

    pub(crate) fn newest(&self) -> Option<u64> {
        let logged = self.reach.iter().rev().find(|(_, reach)| reach.complete || reach.image);
        logged.map(|(generation, _)| *generation).max(self.at())
    }

    /// What a generation that can be restored is made of.
    pub(crate) fn chain(&self, generation: u64) -> Option<Chain> {
        if !self.restorable(generation) {
            return None;
        }
        let from = match self.image {
            Some(Phase::At(at)) => at,
            Some(Phase::Migrating { from, .. }) => from,
            None => 0,
        };
        let image = self.at() == Some(generation) || self.builds_on_image(generation);
        let end = if image { from } else { 0 };
        let (mut entries, mut now) = (Vec::new(), generation);
        while now != end {
            let entry = *self.entries.get(&now)?;
            entries.push(entry);
            now = entry.found.stamp.parent;
        }
        entries.reverse();
        Some(Chain { image, entries })
    }

    /// The generations that one which can be restored builds on, from the image's or the first on, and itself.
    pub(crate) fn way(&self, generation: u64) -> Option<Vec<u64>> {
        let chain = self.chain(generation)?;
        let image = self.at().filter(|_| chain.image);
        Some(image.into_iter().chain(chain.entries.iter().map(|entry| entry.found.stamp.generation)).collect())
    }

    /// What the image should be migrated to: the newest generation that both the newest and what is `running` build on, but
    /// not the newest itself.
    pub(crate) fn migration_target(&self, running: u64) -> Option<u64> {
        let newest = self.newest()?;
        let way = self.way(newest)?;
        let running = if running == 0 { way.clone() } else { self.way(running)? };
        let common = way.iter().filter(|one| **one != newest && running.contains(one)).max().copied();
        match self.image {
            // What was begun is finished first.
            Some(Phase::Migrating { to, .. }) if self.builds_on_image(newest) => {
                common.max(Some(to)).filter(|target| running.contains(target))
            }
            Some(Phase::At(at)) => common.filter(|target| *target != at),
            _ => common,
        }
    }
}
