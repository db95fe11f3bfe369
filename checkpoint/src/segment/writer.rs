//! Writing checkpoints to a segment: the only thing that the vmm process of a running district does here.

use std::io::{self, IoSlice};

use super::header::{FileKind, SegmentHeader};
use super::record::{Place, Stamp, Tally, batches};
use crate::error::{Error, WriteError};
use crate::field::Block;
use crate::format::{BLOCK_SIZE, PAGE_SIZE, STATE_MAX};
use crate::page::Run;
use crate::storage::Storage;

/// In a checkpoint of more bytes the disk does not wait for the last one: this much is given to it at a time.
const WRITE_OUT: u64 = 4 << 20;

/// What a checkpoint is committed with, besides its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitInfo {
    /// When it was taken, in nanoseconds since 1970.
    pub time: u64,
    /// The epoch that it was taken in.
    pub epoch: u64,
}

/// What a committed checkpoint cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes in the segment.
    pub bytes: u64,
    /// Pages written with data; one that was put twice counts twice.
    pub data_pages: u64,
    /// Pages recorded as zero.
    pub zero_pages: u64,
}

/// Appends checkpoints to one segment.
///
/// After a failed write or sync nobody knows what is on the disk: a later sync that succeeds proves nothing about pages
/// that an earlier one has dropped. So a writer that has failed once refuses everything from then on, and the district
/// goes on in a new segment. What was committed before stays committed.
#[derive(Debug)]
pub struct SegmentWriter<F> {
    file: F,
    header: SegmentHeader,
    /// Where the next checkpoint begins: the end of the last that was committed.
    position: u64,
    /// Number of the last record that was written, committed or not. None is used twice, so that what an abandoned
    /// checkpoint has left is never taken for a part of a later one.
    sequence: u64,
    /// The newest generation that was begun.
    generation: u64,
    failed: bool,
}

impl<F: Storage> SegmentWriter<F> {
    /// Begins a segment in an empty file, and makes the header durable. The file's name is the caller's to make durable.
    pub fn create(file: F, header: &SegmentHeader) -> Result<Self, Error> {
        Self::write_header(&file, header)?;
        file.sync_data().map_err(Error::storage("cannot sync a log segment"))?;
        Ok(Self::new(file, *header))
    }

    pub(crate) fn write_header(file: &F, header: &SegmentHeader) -> Result<(), Error> {
        super::check_size(header.memory_size)?;
        let block = header.encode(FileKind::Segment);
        file.write_at(0, &[IoSlice::new(&block)]).map_err(Error::storage("cannot write the header of a log segment"))
    }

    /// Takes a segment that has a header and nothing else. There is no going on in a segment with records: each life of a
    /// district has its own.
    pub fn open(file: F) -> Result<Self, Error> {
        let header = SegmentHeader::read(&file)?;
        let size = file.size().map_err(Error::storage("cannot tell the length of a log segment"))?;
        if size != BLOCK_SIZE as u64 {
            return Err(Error::Foreign { what: FileKind::Segment.name(), why: "it is not empty" });
        }
        Ok(Self::new(file, header))
    }

    fn new(file: F, header: SegmentHeader) -> Self {
        let generation = header.floor;
        SegmentWriter { file, header, position: BLOCK_SIZE as u64, sequence: 0, generation, failed: false }
    }

    /// What the segment says of itself.
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Bytes in the segment that are committed.
    pub fn committed(&self) -> u64 {
        self.position
    }

    /// Whether an earlier write or sync has failed.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Begins a checkpoint. `generation` must be greater than the floor and every one begun before, committed or not;
    /// `parent` must be less, and 0 if the checkpoint is going to have all memory that is not zero.
    pub fn begin(&mut self, generation: u64, parent: u64) -> Result<Checkpoint<'_, F>, WriteError> {
        if self.failed {
            return Err(WriteError::Failed);
        }
        if generation <= self.generation {
            return Err(WriteError::Refused("the generation is not greater than all before it"));
        }
        if parent >= generation {
            return Err(WriteError::Refused("the parent is not less than the generation"));
        }
        self.generation = generation;
        let (position, stamp) = (self.position, Stamp { generation, parent, ..Stamp::default() });
        Ok(Checkpoint { writer: self, position, written_out: position, stamp, tally: Tally::default() })
    }

    /// Notes whether that worked: if not, nothing works from now on.
    fn note(&mut self, doing: &'static str, result: io::Result<()>) -> Result<(), WriteError> {
        result.map_err(|source| {
            self.failed = true;
            self.retract();
            WriteError::Storage { doing, source }
        })
    }

    /// Takes back what was not committed, as well as that can be done. After a failed sync, reads may go on showing what is
    /// not on the disk and never will be: nobody must take it for a checkpoint and build on it. A batch of nothing stays, so
    /// that its number is not given to another one, for it may be on the disk nevertheless.
    fn retract(&mut self) {
        self.sequence += 1;
        let SegmentWriter { position: offset, sequence, generation, header: SegmentHeader { salt, .. }, .. } = *self;
        let (head, _) = Place { offset, sequence, generation, salt }.batch(&[], &[]);
        // The failure has been reported; one here could only say the same.
        let _ = self.file.set_len(offset);
        let _ = self.file.write_at(offset, &[IoSlice::new(&head)]);
    }
}

/// A checkpoint that is being written. Dropping it abandons it: the next one overwrites what it has written.
#[derive(Debug)]
#[must_use = "a checkpoint that is not committed is none"]
pub struct Checkpoint<'w, F> {
    writer: &'w mut SegmentWriter<F>,
    position: u64,
    /// Up to here the disk has been told to begin.
    written_out: u64,
    stamp: Stamp,
    tally: Tally,
}

/// A batch that is ready to be written.
type Ready<'d> = (Block, &'d [u8]);

impl<F: Storage> Checkpoint<'_, F> {
    /// Writes pages: `data` has those of the runs that are not zero, in their order. A page may be put again; the later
    /// one counts. Nothing is durable before the commit.
    pub fn put(&mut self, runs: &[Run], data: &[u8]) -> Result<(), WriteError> {
        self.check(runs, data)?;
        for (runs, data) in batches(runs, data) {
            let (head, data) = self.ready(&runs, data);
            self.write(&[IoSlice::new(&head), IoSlice::new(data)])?;
        }
        Ok(())
    }

    /// Commits what was put: when this returns, the checkpoint is durable. `state` is opaque, [`STATE_MAX`] bytes at most.
    pub fn commit(self, info: &CommitInfo, state: &[u8]) -> Result<Written, WriteError> {
        self.put_and_commit(&[], &[], info, state)
    }

    /// Puts the last pages and commits, in as few system calls as possible: the last batch goes out with the commit.
    pub fn put_and_commit(
        mut self,
        runs: &[Run],
        data: &[u8],
        info: &CommitInfo,
        state: &[u8],
    ) -> Result<Written, WriteError> {
        self.check(runs, data)?;
        if state.len() > STATE_MAX {
            return Err(WriteError::Refused("the state is too long"));
        }
        let mut last: Option<Ready<'_>> = None;
        for (runs, data) in batches(runs, data) {
            if let Some((head, data)) = last.take() {
                self.write(&[IoSlice::new(&head), IoSlice::new(data)])?;
            }
            last = Some(self.ready(&runs, data));
        }
        let batch_len = last.as_ref().map_or(0, |(head, data)| head.len() + data.len()) as u64;
        let stamp = Stamp { time: info.time, epoch: info.epoch, ..self.stamp };
        let place = self.place(batch_len);
        let (head, body) = place.commit(&stamp, &self.tally, state);
        match &last {
            None => self.write(&[IoSlice::new(&head), IoSlice::new(&body)])?,
            Some((batch, data)) => self.write(&[batch, *data, &head, &body].map(IoSlice::new))?,
        }
        let synced = self.writer.file.sync_data();
        self.writer.note("cannot sync the checkpoint", synced)?;
        let bytes = self.position - self.writer.position;
        self.writer.position = self.position;
        Ok(Written { bytes, data_pages: self.tally.data_pages, zero_pages: self.tally.zero_pages })
    }

    fn check(&self, runs: &[Run], data: &[u8]) -> Result<(), WriteError> {
        let pages = self.writer.header.pages();
        let mut data_pages = 0;
        for run in runs {
            let inside = run.first < pages && run.count <= pages - run.first;
            if run.count == 0 || !inside {
                return Err(WriteError::Refused("a run is empty or goes beyond the end of memory"));
            }
            data_pages += u128::from(if run.zero { 0 } else { run.count });
        }
        if data_pages * PAGE_SIZE as u128 != data.len() as u128 {
            return Err(WriteError::Refused("the data is not that of the runs"));
        }
        Ok(())
    }

    /// The next record's place, `ahead` bytes from what was written.
    fn place(&mut self, ahead: u64) -> Place {
        self.writer.sequence += 1;
        let SegmentWriter { sequence, header: SegmentHeader { salt, .. }, .. } = *self.writer;
        Place { offset: self.position + ahead, sequence, generation: self.stamp.generation, salt }
    }

    fn ready<'d>(&mut self, runs: &[Run], data: &'d [u8]) -> Ready<'d> {
        let place = self.place(0);
        let (head, checksum) = place.batch(runs, data);
        self.tally.add(runs, checksum, place.salt);
        (head, data)
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> Result<(), WriteError> {
        let written = self.writer.file.write_at(self.position, slices);
        self.writer.note("cannot write the checkpoint", written)?;
        self.position += slices.iter().map(|slice| slice.len() as u64).sum::<u64>();
        let behind = self.position - self.written_out;
        if behind >= WRITE_OUT {
            self.writer.file.begin_write_out(self.written_out, behind);
            self.written_out = self.position;
        }
        Ok(())
    }
}
