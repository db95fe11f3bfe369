//! Reading a segment: which checkpoints are complete in it, and what else there is.
//!
//! All that is read here may have been written by a vmm process that somebody has taken over, and may change while it is
//! read. So nothing that one pass has found holds for the next: each checks again what it uses.

use super::header::SegmentHeader;
use super::record::{Head, Kind, Stamp, Tally};
use crate::error::{Damage, Error};
use crate::field::ZEROS;
use crate::format::{BLOCK_SIZE, PAGE_SIZE, STATE_MAX, batch, commit};
use crate::page::Run;
use crate::storage::Storage;

const BLOCK: u64 = BLOCK_SIZE as u64;
/// The longest record: as far from a damaged head may the next good one be, if no more than that is damaged.
const RECORD_MAX: u64 = BLOCK + (batch::PAGES_MAX * PAGE_SIZE) as u64;
const _: () = assert!(STATE_MAX - commit::STATE_IN_HEAD <= batch::PAGES_MAX * PAGE_SIZE);

/// A complete checkpoint in a segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub start: u64,
    pub commit_at: u64,
    pub end: u64,
    pub stamp: Stamp,
    pub tally: Tally,
    /// Whether everything of it that was looked at is as it was written.
    pub intact: bool,
}

/// What is in a segment.
#[derive(Debug)]
pub(crate) struct Scan {
    pub header: SegmentHeader,
    /// By ascending generation.
    pub checkpoints: Vec<Found>,
    /// Length of the file in bytes.
    pub size: u64,
    /// The greatest generation that any record is of, committed or not.
    pub highest: u64,
    /// Where something is wrong that cannot be an unfinished write: a complete checkpoint follows, which was only begun
    /// when everything before it was durable.
    pub damaged: Option<u64>,
}

impl Scan {
    /// Bytes of the file after the last complete checkpoint: torn, unfinished or damaged.
    pub(crate) fn ignored(&self) -> u64 {
        self.size.saturating_sub(self.checkpoints.last().map_or(BLOCK, |found| found.end))
    }
}

/// Batches that no commit has followed yet.
struct Open {
    generation: u64,
    start: u64,
    tally: Tally,
}

struct Scanner<'f, F> {
    file: &'f F,
    scan: Scan,
    sequence: u64,
    open: Option<Open>,
    /// First generation seen since the last commit.
    seen: Option<u64>,
    /// First thing since the last commit that is not as it should be.
    suspect: Option<u64>,
}

/// Reads the heads of all records. Bodies of batches are not read; see [`verify`].
pub(crate) fn scan<F: Storage>(file: &F, header: SegmentHeader) -> Result<Scan, Error> {
    let size = file.size().map_err(Error::storage("cannot tell the length of a log segment"))?;
    let scan = Scan { header, checkpoints: Vec::new(), size, highest: header.floor, damaged: None };
    let mut scanner = Scanner { file, scan, sequence: 0, open: None, seen: None, suspect: None };
    let mut at = BLOCK;
    while let Some((found, head)) = scanner.next(at) {
        at = found + head.len();
        scanner.accept(found, &head);
    }
    Ok(scanner.scan)
}

impl<F: Storage> Scanner<'_, F> {
    /// The first record from `at` on. One damaged head does not take the records after it along.
    fn next(&mut self, at: u64) -> Option<(u64, Head)> {
        let end = at.saturating_add(RECORD_MAX).saturating_add(1).min(self.scan.size);
        let mut now = at;
        while now < end {
            if let Some(head) = self.record(now) {
                return Some((now, head));
            }
            self.suspect.get_or_insert(now);
            self.open = None;
            now += BLOCK;
        }
        None
    }

    /// The record at `at`, if it can have been written after all before it.
    fn record(&self, at: u64) -> Option<Head> {
        let head = read_head(self.file, &self.scan.header, at)?;
        let committed = self.scan.checkpoints.last().map_or(self.scan.header.floor, |found| found.stamp.generation);
        let follows = head.sequence > self.sequence
            && head.generation > committed
            && self.seen.is_none_or(|seen| head.generation >= seen)
            && at.checked_add(head.len()).is_some_and(|end| end <= self.scan.size)
            && !matches!(head.kind, Kind::Description(_));
        follows.then_some(head)
    }

    fn accept(&mut self, at: u64, head: &Head) {
        self.sequence = head.sequence;
        self.scan.highest = self.scan.highest.max(head.generation);
        // What an abandoned checkpoint has left, or one whose commit is lost.
        self.open.take_if(|open| open.generation != head.generation);
        self.seen = Some(head.generation);
        match &head.kind {
            Kind::Batch(runs) => {
                let generation = head.generation;
                let open = self.open.get_or_insert_with(|| Open { generation, start: at, tally: Tally::default() });
                open.tally.add(runs, head.checksum, self.scan.header.salt);
            }
            Kind::Commit { stamp, tally, .. } => self.commit(at, head, stamp, tally),
            Kind::Description(_) => {}
        }
    }

    fn commit(&mut self, at: u64, head: &Head, stamp: &Stamp, tally: &Tally) {
        let open = self.open.take();
        let start = open.as_ref().map_or(at, |open| open.start);
        if open.map_or_else(Tally::default, |open| open.tally) != *tally {
            self.suspect.get_or_insert(start);
            return;
        }
        if let Some(suspect) = self.suspect.take() {
            self.scan.damaged.get_or_insert(suspect);
        }
        self.seen = None;
        let intact = read_body(self.file, &self.scan.header, at, head).is_some();
        let (end, stamp, tally) = (at + head.len(), *stamp, *tally);
        self.scan.checkpoints.push(Found { start, commit_at: at, end, stamp, tally, intact });
    }
}

fn read_head(file: &impl Storage, header: &SegmentHeader, at: u64) -> Option<Head> {
    let mut block = ZEROS;
    // What cannot be read is as good as damaged.
    file.read_at(at, &mut block).ok()?;
    Head::decode(&mut block, at, header.salt, header.pages())
}

fn read_body(file: &impl Storage, header: &SegmentHeader, at: u64, head: &Head) -> Option<Vec<u8>> {
    let mut body = vec![0; head.body_len];
    file.read_at(at + BLOCK, &mut body).ok()?;
    head.fits(&body, header.salt).then_some(body)
}

/// Takes a batch: its offset, head and runs.
pub(crate) type EachBatch<'a> = dyn FnMut(u64, &Head, &[Run]) -> Result<(), Error> + 'a;

/// Goes through the batches of a checkpoint in order, with the offset of each and its runs.
pub(crate) fn walk<F: Storage>(
    file: &F,
    header: &SegmentHeader,
    found: &Found,
    each: &mut EachBatch<'_>,
) -> Result<(), Error> {
    let damage = |offset| Damage::Record { segment: header.number, offset };
    let (mut at, mut tally) = (found.start, Tally::default());
    while at < found.commit_at {
        let head = read_head(file, header, at).filter(|head| head.generation == found.stamp.generation);
        let head = head.ok_or(damage(at))?;
        let Kind::Batch(runs) = &head.kind else { return Err(damage(at).into()) };
        tally.add(runs, head.checksum, header.salt);
        each(at, &head, runs)?;
        at += head.len();
    }
    if at != found.commit_at || tally != found.tally {
        return Err(damage(found.start).into());
    }
    Ok(())
}

/// The state of a checkpoint.
pub(crate) fn read_state(file: &impl Storage, header: &SegmentHeader, found: &Found) -> Result<Vec<u8>, Error> {
    let damage = Damage::Record { segment: header.number, offset: found.commit_at };
    let head = read_head(file, header, found.commit_at).ok_or(damage)?;
    let body = read_body(file, header, found.commit_at, &head).ok_or(damage)?;
    match head.kind {
        Kind::Commit { stamp, tally, state_len, mut state } if (stamp, tally) == (found.stamp, found.tally) => {
            state.extend_from_slice(&body[..state_len - state.len()]);
            Ok(state)
        }
        _ => Err(damage.into()),
    }
}

/// Whether all data of a checkpoint is as it was written.
pub(crate) fn verify<F: Storage>(file: &F, header: &SegmentHeader, found: &Found) -> bool {
    let mut body = Vec::new();
    let whole = walk(file, header, found, &mut |at, head, _| {
        body.resize(head.body_len, 0);
        read_batch(file, header, at, head.body_checksum, &mut body)
    });
    whole.is_ok()
}

/// Reads the body of the batch at `at` into `body`, which has its length, and checks it.
pub(crate) fn read_batch(
    file: &impl Storage,
    header: &SegmentHeader,
    at: u64,
    checksum: u64,
    body: &mut [u8],
) -> Result<(), Error> {
    let damage = Damage::Record { segment: header.number, offset: at };
    file.read_at(at + BLOCK, body).map_err(Error::reading(damage))?;
    let right = xxhash_rust::xxh3::xxh3_64_with_seed(body, header.salt) == checksum;
    if right { Ok(()) } else { Err(damage.into()) }
}
