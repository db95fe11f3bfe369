//! A district's checkpoints in a directory: the daemon's view.

mod report;

use std::collections::BTreeSet;

use crate::error::{Damage, Error};
use crate::field::ZEROS;
use crate::format::BLOCK_SIZE;
use crate::history::History;
use crate::image::{Image, Phase, Progress};
use crate::restore::Restore;
use crate::segment::header::{FileKind, SegmentHeader};
use crate::segment::scan::{Scan, scan, verify};
use crate::segment::{check_size, writer::SegmentWriter};
use crate::storage::{Access, Directory, Storage};
pub use report::{GenerationInfo, SegmentInfo};

/// Name of a lineage's own image, which is migrated into in place.
pub const HOME: &str = "home";
/// Name of an image that other lineages share by hard link: it is never written.
pub const BASE: &str = "base";

/// How much [`Lineage::open`] looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What generations there are; that their data is intact shows when it is used.
    Heads,
    /// All data of the log as well.
    Data,
}

/// The files that a generation is restored from, opened for reading: for [`Restore::plan`] in another process.
#[derive(Debug)]
pub struct RestoreFiles<F> {
    /// The image, if it is needed.
    pub image: Option<F>,
    /// The segments, oldest first.
    pub segments: Vec<F>,
}

pub(crate) struct Segment<F> {
    pub number: u64,
    pub file: F,
    pub scan: Scan,
}

/// An open lineage. It shows the directory as it was when it was opened, and what this value has changed since.
pub struct Lineage<D: Directory> {
    pub(crate) directory: D,
    pub(crate) id: [u8; 16],
    pub(crate) memory_size: u64,
    pub(crate) image: Option<Image<D::File>>,
    /// Whether the image is the lineage's own.
    pub(crate) own: bool,
    pub(crate) segments: Vec<Segment<D::File>>,
    /// Names of segments that hold nothing: they were being created when the power was cut.
    pub(crate) unfinished: Vec<u64>,
    pub(crate) history: History,
    damage: Vec<Damage>,
    highest_number: u64,
    highest_generation: u64,
}

/// The name of a segment.
pub(crate) fn segment_name(number: u64) -> String {
    format!("log.{number}")
}

/// The number of the segment with that name, if it is one.
fn segment_number(name: &str) -> Option<u64> {
    let number = name.strip_prefix("log.")?.parse().ok()?;
    (segment_name(number) == name).then_some(number)
}

impl<D: Directory> Lineage<D> {
    /// Opens the lineage `id`, whose memory has `memory_size` bytes. The directory may be empty.
    ///
    /// Damage is not an error: see [`Lineage::damage`] and [`Lineage::newest`]. A file of another format version is one,
    /// because what it holds might be newer than all the rest. Nothing is written.
    pub fn open(directory: D, id: [u8; 16], memory_size: u64, depth: Depth) -> Result<Lineage<D>, Error> {
        check_size(memory_size)?;
        let names = directory.names().map_err(Error::storage("cannot list the files of a lineage"))?;
        let mut lineage = Lineage {
            directory,
            id,
            memory_size,
            image: None,
            own: false,
            segments: Vec::new(),
            unfinished: Vec::new(),
            history: History::default(),
            damage: Vec::new(),
            highest_number: 0,
            highest_generation: 0,
        };
        for (name, own) in [(HOME, true), (BASE, false)] {
            // Where there are both, `base` was about to be removed.
            if lineage.image.is_none() && names.iter().any(|other| other == name) {
                lineage.open_image(name, own)?;
            }
        }
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
        numbers.sort_unstable();
        for number in numbers {
            lineage.highest_number = number;
            lineage.open_segment(number)?;
        }
        lineage.collect(depth);
        Ok(lineage)
    }

    fn open_image(&mut self, name: &str, own: bool) -> Result<(), Error> {
        let file = self.directory.open(name, Access::Read).map_err(Error::storage("cannot open the image"))?;
        let image = match Image::open(file) {
            Ok(image) => image,
            Err(Error::Damaged(damage)) => {
                self.damage.push(damage);
                return Ok(());
            }
            Err(other) => return Err(other),
        };
        let info = image.info();
        let phase_fits = own || matches!(info.phase, Phase::At(_));
        if info.memory_size != self.memory_size || (own && info.lineage != self.id) || !phase_fits {
            let why = "it is of another lineage, or of other memory";
            return Err(Error::Foreign { what: if own { HOME } else { BASE }, why });
        }
        if !info.both_slots {
            self.damage.push(Damage::Slot);
        }
        let (Phase::At(newest) | Phase::Migrating { to: newest, .. }) = info.phase;
        self.highest_generation = self.highest_generation.max(newest);
        (self.image, self.own) = (Some(image), own);
        Ok(())
    }

    fn open_segment(&mut self, number: u64) -> Result<(), Error> {
        let name = segment_name(number);
        let file = self.directory.open(&name, Access::Read).map_err(Error::storage("cannot open a log segment"))?;
        let size = file.size().map_err(Error::storage("cannot tell the length of a log segment"))?;
        let mut block = ZEROS;
        let header = file.read_at(0, &mut block).map_err(Error::reading(Damage::SegmentHeader(number)));
        let header = match header.and_then(|()| SegmentHeader::decode(&block, FileKind::Segment)) {
            Err(version @ Error::Version { .. }) => return Err(version),
            other => other.ok(),
        };
        let ours = |header: &SegmentHeader| {
            header.number == number && header.lineage == self.id && header.memory_size == self.memory_size
        };
        match header.filter(ours) {
            Some(header) => {
                let scan = scan(&file, header)?;
                self.highest_generation = self.highest_generation.max(scan.highest);
                self.segments.push(Segment { number, file, scan });
            }
            // A header is durable before anything is written after it.
            None if header.is_none() && size <= BLOCK_SIZE as u64 => self.unfinished.push(number),
            None => {
                // Each generation takes a block at least: so many may have been in there.
                self.highest_generation = self.highest_generation.saturating_add(size / BLOCK_SIZE as u64);
                self.damage.push(Damage::SegmentHeader(number));
            }
        }
        Ok(())
    }

    /// Finds out which generations there are, and which are intact.
    fn collect(&mut self, depth: Depth) {
        for (index, segment) in self.segments.iter_mut().enumerate() {
            let Segment { number, file, scan } = segment;
            let header = scan.header;
            let mut first_bad = scan.damaged;
            let last = scan.checkpoints.len().saturating_sub(1);
            for (position, found) in scan.checkpoints.iter_mut().enumerate() {
                found.intact &= depth == Depth::Heads || verify(file, &header, found);
                // The last one may be what a power cut has left of one that was not committed yet.
                if !found.intact && position != last {
                    first_bad = Some(first_bad.map_or(found.start, |bad| bad.min(found.start)));
                }
            }
            let disorder = self.history.add(index, scan);
            if let Some(offset) = first_bad.or(disorder) {
                self.damage.push(Damage::Record { segment: *number, offset });
            }
        }
        self.find_lost_ends();
        self.judge();
    }

    /// The last checkpoint of a segment that is not intact looks like one that was never committed, unless another one
    /// builds on it.
    fn find_lost_ends(&mut self) {
        for (index, Segment { number, scan, .. }) in self.segments.iter().enumerate() {
            let last = scan.checkpoints.last();
            let broken = last.filter(|found| !found.intact).map(|found| found.stamp.generation);
            let whole = last.map_or(scan.header.floor, |found| found.stamp.generation);
            // What was in a segment before the next one was begun is no greater than the floor of that.
            let next = self.segments.get(index + 1).filter(|next| next.number == number + 1);
            let floor = next.map_or(whole, |next| next.scan.header.floor);
            let offset = last.map_or(BLOCK_SIZE as u64, |found| if found.intact { found.end } else { found.start });
            let lost = self.history.entries().map(|entry| entry.found.stamp.parent).any(|parent| {
                let cut_off = parent > whole && parent <= floor && !self.history.has(parent);
                broken == Some(parent) || cut_off
            });
            let damage = Damage::Record { segment: *number, offset };
            if lost
                && !self.damage.iter().any(|known| matches!(known, Damage::Record { segment, .. } if segment == number))
            {
                self.damage.push(damage);
            }
        }
    }

    pub(crate) fn judge(&mut self) {
        self.history.judge(self.image.as_ref().map(|image| image.info().phase));
    }

    /// Number of the last segment.
    pub(crate) fn last(&self) -> u64 {
        self.highest_number
    }

    /// Takes segments that were removed out of the picture.
    pub(crate) fn forget(&mut self, numbers: &BTreeSet<u64>) {
        self.unfinished.retain(|number| !numbers.contains(number));
        self.segments.retain(|segment| !numbers.contains(&segment.number));
        self.history = History::default();
        for (index, segment) in self.segments.iter().enumerate() {
            // That there is disorder was said when they were read.
            let _ = self.history.add(index, &segment.scan);
        }
        self.judge();
    }

    /// Begins the next segment: durable, empty, for [`SegmentWriter::open`] in the process that is going to write it.
    /// `salt` is random.
    ///
    /// What is in the log becomes durable first: a process may have ended between writing a checkpoint and its sync, and
    /// what is going to be committed to the new segment builds on what was read here.
    pub fn create_segment(&mut self, salt: u64) -> Result<D::File, Error> {
        for segment in &self.segments {
            segment.file.sync_data().map_err(Error::storage("cannot sync a log segment"))?;
        }
        let header = self.next_header(salt)?;
        create_segment(&self.directory, &header)
    }

    fn next_header(&mut self, salt: u64) -> Result<SegmentHeader, Error> {
        let limit = Error::Limit { what: "segments", value: u64::MAX, limit: u64::MAX };
        let number = self.highest_number.checked_add(1).ok_or(limit)?;
        // Whatever becomes of it, the number is used.
        self.highest_number = number;
        let (memory_size, lineage) = (self.memory_size, self.id);
        Ok(SegmentHeader { memory_size, lineage, number, salt, floor: self.highest_generation })
    }

    /// Begins the next segment as [`Lineage::create_segment`] does, but leaves what makes it durable to
    /// [`Lineage::sync_log`] and [`Lineage::sync_segment`]: nobody may write to it before both have returned. One that an
    /// earlier life has left as it was made gets a new header and is used again. No process may have it open for writing any more.
    pub fn begin_segment(&mut self, salt: u64) -> Result<D::File, Error> {
        if let Some(Segment { number, scan, .. }) = self.segments.last()
            && scan.size == BLOCK_SIZE as u64
            && *number == self.highest_number
            && scan.header.floor == self.highest_generation
        {
            let file = self.directory.open(&segment_name(*number), Access::Write);
            let file = file.map_err(Error::storage("cannot open a log segment"))?;
            // With another salt, whatever somebody may have failed to write there.
            SegmentWriter::write_header(&file, &SegmentHeader { salt, ..scan.header })?;
            return Ok(file);
        }
        let header = self.next_header(salt)?;
        begin_segment(&self.directory, &header)
    }

    fn written(&self) -> impl Iterator<Item = &Segment<D::File>> {
        self.segments.iter().filter(|segment| segment.scan.size != BLOCK_SIZE as u64)
    }

    /// Whether [`Lineage::sync_log`] has nothing to do.
    pub fn log_is_empty(&self) -> bool {
        self.written().next().is_none()
    }

    /// Makes durable what is in the log, as it was when the lineage was opened. Segments that hold nothing are left out.
    pub fn sync_log(&self) -> Result<(), Error> {
        for segment in self.written() {
            segment.file.sync_data().map_err(Error::storage("cannot sync a log segment"))?;
        }
        Ok(())
    }

    /// Makes a segment durable that was begun, and its name.
    pub fn sync_segment(&self, segment: &D::File) -> Result<(), Error> {
        segment.sync_data().map_err(Error::storage("cannot sync a log segment"))?;
        self.directory.sync().map_err(Error::storage("cannot sync the directory of a lineage"))
    }

    /// Plans to restore a generation in this process.
    pub fn restore(&self, generation: u64) -> Result<Restore<&D::File>, Error> {
        let chain = self.history.chain(generation).ok_or(Error::NotRestorable(generation))?;
        let segments = self.segments.iter().map(|segment| (&segment.file, segment.scan.header)).collect();
        let image = self.image.as_ref().map(|image| Image::open(image.file())).transpose()?;
        Restore::new(image, segments, &chain, generation)
    }

    /// How many segments a generation is restored from.
    pub fn segments_of(&self, generation: u64) -> Result<usize, Error> {
        let chain = self.history.chain(generation).ok_or(Error::NotRestorable(generation))?;
        Ok(chain.entries.chunk_by(|one, next| one.segment == next.segment).count())
    }

    /// Opens the files that a generation is restored from, so that another process can do it.
    pub fn restore_files(&self, generation: u64) -> Result<RestoreFiles<D::File>, Error> {
        let chain = self.history.chain(generation).ok_or(Error::NotRestorable(generation))?;
        let open = |name: &str| {
            self.directory.open(name, Access::Read).map_err(Error::storage("cannot open a file of the lineage"))
        };
        let image = chain.image.then(|| open(if self.own { HOME } else { BASE })).transpose()?;
        let mut segments = Vec::new();
        let mut wanted: Vec<usize> = chain.entries.iter().map(|entry| entry.segment).collect();
        wanted.dedup();
        for segment in wanted.iter().filter_map(|index| self.segments.get(*index)) {
            segments.push(open(&segment_name(segment.number))?);
        }
        if chain.entries.is_empty() && image.is_none() {
            return Err(Error::NotRestorable(generation));
        }
        Ok(RestoreFiles { image, segments })
    }

    /// Checks every page of the image against its table; of one that is being migrated into, those that count.
    pub fn verify_image(&self, progress: &mut Progress<'_>) -> Result<(), Error> {
        let Some(image) = &self.image else { return Ok(()) };
        match image.info().phase {
            Phase::At(_) => image.verify(&|_| false, progress),
            Phase::Migrating { to, .. } => {
                let restore = self.restore(to)?;
                image.verify(&|page| restore.overlay().covers(page), progress)
            }
        }
    }
}

/// Bytes and number of the segments in a directory, whatever is in them: what reading the log is going to take.
pub fn log_size<D: Directory>(directory: &D) -> Result<(u64, usize), Error> {
    let names = directory.names().map_err(Error::storage("cannot list the directory of a lineage"))?;
    let (mut bytes, mut count) = (0_u64, 0);
    for name in names.iter().filter(|name| segment_number(name).is_some()) {
        let file = directory.open(name, Access::Read).map_err(Error::storage("cannot open a log segment"))?;
        let size = file.size().map_err(Error::storage("cannot tell the length of a log segment"))?;
        (bytes, count) = (bytes.saturating_add(size), count + 1);
    }
    Ok((bytes, count))
}

/// Begins a segment with that header in a directory: both are durable when this returns. For a caller who knows the next
/// number and the newest generation without opening the lineage.
pub fn create_segment<D: Directory>(directory: &D, header: &SegmentHeader) -> Result<D::File, Error> {
    let file = begin_segment(directory, header)?;
    if let Err(error) = file.sync_data() {
        // On a full disk this is tried again and again.
        let _ = directory.remove(&segment_name(header.number));
        return Err(Error::storage("cannot sync a log segment")(error));
    }
    directory.sync().map_err(Error::storage("cannot sync the directory of a lineage"))?;
    Ok(file)
}

/// The same, but nothing is durable before the file and the directory are synced.
pub fn begin_segment<D: Directory>(directory: &D, header: &SegmentHeader) -> Result<D::File, Error> {
    let name = segment_name(header.number);
    let file = directory.create_new(&name).map_err(Error::storage("cannot create a log segment"))?;
    if let Err(error) = SegmentWriter::write_header(&file, header) {
        let _ = directory.remove(&name);
        return Err(error);
    }
    Ok(file)
}
