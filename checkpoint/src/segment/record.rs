//! Records: the first block of each, its *head*, which says what the record is, and checksums over it and the rest.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::field::{Block, ZEROS, get_bytes, get_u32, get_u64, padded, put_bytes, put_u32, put_u64};
use crate::format::{BLOCK_SIZE, DESCRIPTION_MAX, PAGE_SIZE, STATE_MAX, batch, commit, description, record};
use crate::page::Run;

/// Which checkpoint something is, and when it was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Its number.
    pub generation: u64,
    /// The generation that it builds on; 0: none, it has all of the memory that is not zero.
    pub parent: u64,
    /// When it was taken, in nanoseconds since 1970.
    pub time: u64,
    /// The epoch that it was taken in.
    pub epoch: u64,
}

/// What a commit says of the batches before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub batches: u64,
    pub data_pages: u64,
    pub zero_pages: u64,
    /// Checksum over the heads' checksums.
    pub running: u64,
}

impl Tally {
    /// Counts one more batch.
    pub(crate) fn add(&mut self, runs: &[Run], head_checksum: u64, salt: u64) {
        self.batches = self.batches.saturating_add(1);
        for run in runs {
            let pages = if run.zero { &mut self.zero_pages } else { &mut self.data_pages };
            *pages = pages.saturating_add(run.count);
        }
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.running.to_le_bytes());
        bytes[8..].copy_from_slice(&head_checksum.to_le_bytes());
        self.running = xxh3_64_with_seed(&bytes, salt);
    }
}

/// A head that has been checked.
#[derive(Debug)]
pub(crate) struct Head {
    pub generation: u64,
    pub sequence: u64,
    pub body_len: usize,
    pub body_checksum: u64,
    /// Checksum of the head itself.
    pub checksum: u64,
    pub kind: Kind,
}

/// What a record is.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Pages: the runs are in order, do not overlap and lie within memory.
    Batch(Vec<Run>),
    /// The end of a checkpoint. The state's first bytes are in the head.
    Commit { stamp: Stamp, tally: Tally, state_len: usize, state: Vec<u8> },
    /// A description of so many bytes.
    Description(usize),
}

impl Head {
    /// Bytes from the head's beginning to the body's end.
    pub(crate) fn len(&self) -> u64 {
        (BLOCK_SIZE + self.body_len) as u64
    }

    /// Checks a block that should be the head of a record at `offset` of a file with this salt, about so many `pages` of
    /// memory. `None` if it is none, or is against the rules.
    pub(crate) fn decode(block: &mut Block, offset: u64, salt: u64, pages: u64) -> Option<Head> {
        if get_bytes(block, record::MAGIC) != record::HEAD {
            return None;
        }
        let checksum = get_u64(block, record::CHECKSUM);
        put_u64(block, record::CHECKSUM, offset);
        if xxh3_64_with_seed(block, salt) != checksum {
            return None;
        }
        let generation = get_u64(block, record::GENERATION);
        let (kind, body_len) = match get_u32(block, record::KIND) {
            record::BATCH => decode_batch(block, pages)?,
            record::COMMIT => decode_commit(block, generation)?,
            record::DESCRIPTION => {
                let len = limited(get_u32(block, description::LEN), DESCRIPTION_MAX)?;
                (Kind::Description(len), padded(len))
            }
            _ => return None,
        };
        (get_u64(block, record::BODY_LEN) == body_len as u64).then_some(Head {
            generation,
            sequence: get_u64(block, record::SEQUENCE),
            body_len,
            body_checksum: get_u64(block, record::BODY_CHECKSUM),
            checksum,
            kind,
        })
    }

    /// Whether that is the body.
    pub(crate) fn fits(&self, body: &[u8], salt: u64) -> bool {
        body.len() == self.body_len && xxh3_64_with_seed(body, salt) == self.body_checksum
    }
}

fn limited(value: u32, limit: usize) -> Option<usize> {
    usize::try_from(value).ok().filter(|value| *value <= limit)
}

fn decode_batch(block: &Block, pages: u64) -> Option<(Kind, usize)> {
    let count = limited(get_u32(block, batch::RUN_COUNT), batch::RUNS_MAX)?;
    let data_pages = limited(get_u32(block, batch::DATA_PAGES), batch::PAGES_MAX)?;
    let mut runs = Vec::with_capacity(count);
    let (mut end, mut found) = (0, 0);
    for index in 0..count {
        let at = batch::RUNS + index * batch::RUN_SIZE;
        let word = get_u32(block, at + 4);
        let zero = word & batch::ZERO != 0;
        let run = Run { first: get_u32(block, at).into(), count: (word & !batch::ZERO).into(), zero };
        if run.count == 0 || run.first < end {
            return None;
        }
        end = run.first + run.count;
        found += if zero { 0 } else { run.count };
        runs.push(run);
    }
    (end <= pages && found == data_pages as u64).then_some((Kind::Batch(runs), data_pages * PAGE_SIZE))
}

fn decode_commit(block: &Block, generation: u64) -> Option<(Kind, usize)> {
    let state_len = limited(get_u32(block, commit::STATE_LEN), STATE_MAX)?;
    let stamp = Stamp {
        generation,
        parent: get_u64(block, commit::PARENT),
        time: get_u64(block, commit::TIME),
        epoch: get_u64(block, commit::EPOCH),
    };
    let tally = Tally {
        batches: get_u64(block, commit::BATCHES),
        data_pages: get_u64(block, commit::DATA_PAGES),
        zero_pages: get_u64(block, commit::ZERO_PAGES),
        running: get_u64(block, commit::RUNNING),
    };
    let in_head = state_len.min(commit::STATE_IN_HEAD);
    let state = block[commit::STATE..][..in_head].to_vec();
    // A checkpoint builds on an older one: so no chain of parents is endless.
    let kind = Kind::Commit { stamp, tally, state_len, state };
    (stamp.parent < generation).then_some((kind, padded(state_len - in_head)))
}

/// Where a record is going to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub offset: u64,
    pub sequence: u64,
    pub generation: u64,
    pub salt: u64,
}

impl Place {
    /// The head of a batch of these runs with that data, and its checksum. The runs keep the rules.
    pub(crate) fn batch(self, runs: &[Run], data: &[u8]) -> (Block, u64) {
        let mut block = ZEROS;
        put_u32(&mut block, batch::RUN_COUNT, fitting(runs.len() as u64));
        put_u32(&mut block, batch::DATA_PAGES, fitting((data.len() / PAGE_SIZE) as u64));
        for (index, run) in runs.iter().enumerate() {
            let at = batch::RUNS + index * batch::RUN_SIZE;
            put_u32(&mut block, at, fitting(run.first));
            put_u32(&mut block, at + 4, fitting(run.count) | if run.zero { batch::ZERO } else { 0 });
        }
        self.seal(block, record::BATCH, data)
    }

    /// The head of a commit and its body. The state is not too long.
    pub(crate) fn commit(self, stamp: &Stamp, tally: &Tally, state: &[u8]) -> (Block, Vec<u8>) {
        let mut block = ZEROS;
        put_u64(&mut block, commit::PARENT, stamp.parent);
        put_u64(&mut block, commit::TIME, stamp.time);
        put_u64(&mut block, commit::EPOCH, stamp.epoch);
        put_u64(&mut block, commit::BATCHES, tally.batches);
        put_u64(&mut block, commit::DATA_PAGES, tally.data_pages);
        put_u64(&mut block, commit::ZERO_PAGES, tally.zero_pages);
        put_u64(&mut block, commit::RUNNING, tally.running);
        put_u32(&mut block, commit::STATE_LEN, fitting(state.len() as u64));
        let (first, rest) = state.split_at(state.len().min(commit::STATE_IN_HEAD));
        block[commit::STATE..][..first.len()].copy_from_slice(first);
        let mut body = rest.to_vec();
        body.resize(padded(rest.len()), 0);
        (self.seal(block, record::COMMIT, &body).0, body)
    }

    /// The head of a description and its body. The text is not too long.
    pub(crate) fn description(self, text: &[u8]) -> (Block, Vec<u8>) {
        let mut block = ZEROS;
        put_u32(&mut block, description::LEN, fitting(text.len() as u64));
        let mut body = text.to_vec();
        body.resize(padded(text.len()), 0);
        (self.seal(block, record::DESCRIPTION, &body).0, body)
    }

    fn seal(self, mut block: Block, kind: u32, body: &[u8]) -> (Block, u64) {
        put_bytes(&mut block, record::MAGIC, record::HEAD);
        put_u32(&mut block, record::KIND, kind);
        put_u64(&mut block, record::GENERATION, self.generation);
        put_u64(&mut block, record::SEQUENCE, self.sequence);
        put_u64(&mut block, record::BODY_LEN, body.len() as u64);
        put_u64(&mut block, record::BODY_CHECKSUM, xxh3_64_with_seed(body, self.salt));
        put_u64(&mut block, record::CHECKSUM, self.offset);
        let checksum = xxh3_64_with_seed(&block, self.salt);
        put_u64(&mut block, record::CHECKSUM, checksum);
        (block, checksum)
    }
}

/// A number whose limit, checked before, is far below.
fn fitting(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Cuts runs, with the data of those that have any, into what fits into a batch each, in order.
pub(crate) fn batches<'d>(runs: &[Run], mut data: &'d [u8]) -> impl Iterator<Item = (Vec<Run>, &'d [u8])> {
    let mut left = runs.iter().copied();
    let mut next = left.next();
    std::iter::from_fn(move || {
        let (mut batch, mut pages, mut end) = (Vec::new(), 0, 0);
        while let Some(run) = next {
            let room = if run.zero { u64::MAX } else { batch::PAGES_MAX as u64 - pages };
            // Within a batch, runs are in order: what comes twice starts a new one.
            if room == 0 || batch.len() == batch::RUNS_MAX || run.first < end {
                break;
            }
            let now = Run { count: run.count.min(room), ..run };
            let rest = Run { first: now.first + now.count, count: run.count - now.count, zero: run.zero };
            next = if rest.count > 0 { Some(rest) } else { left.next() };
            pages += if now.zero { 0 } else { now.count };
            end = rest.first;
            batch.push(now);
        }
        let bytes = usize::try_from(pages).unwrap_or(usize::MAX).saturating_mul(PAGE_SIZE).min(data.len());
        let (now, rest) = data.split_at(bytes);
        data = rest;
        (!batch.is_empty()).then_some((batch, now))
    })
}
