//! What a lineage says of itself.

use super::{Lineage, Segment};
use crate::error::{Damage, Error};
use crate::image::{Image, ImageInfo};
use crate::segment::record::Stamp;
use crate::storage::Directory;

/// What a checkpoint is, and whether it can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerationInfo {
    /// Its number, what it builds on, and when it was taken.
    pub stamp: Stamp,
    /// Pages written with data; 0 if only the image has it.
    pub data_pages: u64,
    /// Pages recorded as zero.
    pub zero_pages: u64,
    /// Bytes in the log.
    pub bytes: u64,
    /// Number of the segment that it is in; `None` if only the image has it.
    pub segment: Option<u64>,
    /// Whether everything of itself that was looked at is as it was written.
    pub intact: bool,
    /// Whether that is also so for all that it builds on.
    pub restorable: bool,
}

/// What a segment is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub number: u64,
    /// Its length in bytes.
    pub size: u64,
    /// Complete checkpoints in it.
    pub checkpoints: u64,
    /// Bytes after the last complete one: unfinished, or torn by a power cut, or damaged.
    pub ignored: u64,
}

impl<D: Directory> Lineage<D> {
    /// All generations that the log and the image have, by number. Those of a branch that was rolled back are among them.
    pub fn generations(&self) -> Vec<GenerationInfo> {
        let mut all: Vec<GenerationInfo> = Vec::new();
        for entry in self.history.entries() {
            let found = &entry.found;
            all.push(GenerationInfo {
                stamp: found.stamp,
                data_pages: found.tally.data_pages,
                zero_pages: found.tally.zero_pages,
                bytes: found.end - found.start,
                segment: self.segments.get(entry.segment).map(|segment| segment.number),
                intact: found.intact,
                restorable: self.history.restorable(found.stamp.generation),
            });
        }
        if let (Some(at), Some(image)) = (self.history.at(), &self.image)
            && let Err(place) = all.binary_search_by_key(&at, |info| info.stamp.generation)
        {
            let stamp = image.info().stamp;
            let (data_pages, zero_pages, bytes) = (0, 0, 0);
            let only =
                GenerationInfo { stamp, data_pages, zero_pages, bytes, segment: None, intact: true, restorable: true };
            all.insert(place, only);
        }
        all
    }

    /// The newest generation that can be restored; `None` if there never was one. An error if there is damage, and none
    /// is left that can.
    pub fn newest(&self) -> Result<Option<u64>, Error> {
        match (self.history.newest(), self.damage.iter().find(|damage| **damage != Damage::Slot)) {
            (None, Some(damage)) => Err(Error::NothingLeft(*damage)),
            (None, None) if self.history.entries().any(|entry| entry.found.intact) => {
                Err(Error::NothingLeft(Damage::Missing))
            }
            (newest, _) => Ok(newest),
        }
    }

    /// A number for the next checkpoint, greater than any that was ever used here as far as anybody can tell. `None` if
    /// there is none left, which only a hostile segment can bring about.
    pub fn next_generation(&self) -> Option<u64> {
        self.highest_generation.checked_add(1)
    }

    /// The generations that `generation` builds on, from the image's or the first on, and itself.
    pub fn chain(&self, generation: u64) -> Result<Vec<u64>, Error> {
        self.history.way(generation).ok_or(Error::NotRestorable(generation))
    }

    /// What is known to be damaged. An unfinished or torn end of a segment is none: see [`SegmentInfo::ignored`].
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// The segments, by number.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let info = |Segment { number, scan, .. }: &Segment<D::File>| SegmentInfo {
            number: *number,
            size: scan.size,
            checkpoints: scan.checkpoints.len() as u64,
            ignored: scan.ignored(),
        };
        self.segments.iter().map(info).collect()
    }

    /// Bytes in all segments.
    pub fn size_of_log(&self) -> u64 {
        self.segments.iter().fold(0, |sum, segment| sum.saturating_add(segment.scan.size))
    }

    /// The image, if there is one that can be read.
    pub fn image(&self) -> Option<ImageInfo> {
        self.image.as_ref().map(Image::info)
    }

    /// The directory.
    pub fn directory(&self) -> &D {
        &self.directory
    }
}
