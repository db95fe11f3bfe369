//! What is in a file, and what of it survives a power cut.

use std::collections::BTreeMap;
use std::io;

use super::Random;

/// What a disk writes at once or not at all.
const SECTOR_SIZE: usize = 512;
const SECTOR: u64 = SECTOR_SIZE as u64;
type Sector = [u8; SECTOR_SIZE];

#[derive(Debug, Clone, Default)]
pub(super) struct Contents {
    pub len: u64,
    sectors: BTreeMap<u64, Sector>,
}

#[derive(Debug, Clone)]
pub(super) enum Change {
    Write(u64, Vec<u8>),
    Hole(u64, u64),
    Len(u64),
}

#[derive(Debug, Default)]
pub(super) struct Inode {
    pub live: Contents,
    pub durable: Contents,
    pub pending: Vec<Change>,
}

impl Contents {
    fn write(&mut self, offset: u64, data: &[u8]) {
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let within = usize::try_from(at % SECTOR).unwrap_or(0);
            let (now, after) = rest.split_at((SECTOR_SIZE - within).min(rest.len()));
            self.sectors.entry(at / SECTOR).or_insert([0; SECTOR_SIZE])[within..within + now.len()]
                .copy_from_slice(now);
            at += now.len() as u64;
            rest = after;
        }
        self.len = self.len.max(at);
    }

    fn cut(&mut self, from: u64, to: u64) {
        let (first, last) = (from.div_ceil(SECTOR), to / SECTOR);
        self.sectors.retain(|sector, _| *sector < first || *sector >= last);
        if from < first.saturating_mul(SECTOR).min(to) {
            self.zero(from, first.saturating_mul(SECTOR).min(to));
        }
        if first <= last && last.saturating_mul(SECTOR) < to {
            self.zero(last.saturating_mul(SECTOR), to);
        }
    }

    fn zero(&mut self, from: u64, to: u64) {
        let (len, zeros) = (self.len, vec![0; usize::try_from(to - from).unwrap_or(0)]);
        if self.sectors.contains_key(&(from / SECTOR)) {
            self.write(from, &zeros);
        }
        self.len = len;
    }

    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Write(offset, data) => self.write(*offset, data),
            Change::Hole(offset, len) => self.cut(*offset, offset.saturating_add(*len)),
            Change::Len(len) => {
                if *len < self.len {
                    self.cut(*len, self.len.next_multiple_of(SECTOR));
                }
                self.len = *len;
            }
        }
    }

    /// Some sectors of a write reach the disk and others do not.
    fn tear(&mut self, offset: u64, data: &[u8], random: &mut Random) {
        let prefix = random.coin().then(|| random.below(data.len() as u64 + 1));
        let mut at = offset;
        while at < offset + data.len() as u64 {
            let end = (at / SECTOR + 1).saturating_mul(SECTOR).min(offset + data.len() as u64);
            let kept = prefix.map_or_else(|| random.coin(), |prefix| end - offset <= prefix);
            let [from, to] = [at, end].map(|at| usize::try_from(at - offset).unwrap_or(0));
            if let Some(part) = data.get(from..to).filter(|_| kept) {
                self.write(at, part);
            }
            at = end;
        }
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = buffer;
        let mut at = offset;
        while !rest.is_empty() {
            let within = usize::try_from(at % SECTOR).unwrap_or(0);
            let (now, after) = rest.split_at_mut((SECTOR_SIZE - within).min(rest.len()));
            match self.sectors.get(&(at / SECTOR)) {
                Some(sector) => now.copy_from_slice(&sector[within..within + now.len()]),
                None => now.fill(0),
            }
            at += now.len() as u64;
            rest = after;
        }
        Ok(())
    }
}

/// What of `changes` reaches the disk: none, all, the first few, or any; of those, `true` for the ones that arrive whole.
pub(super) fn survivors<T: Clone>(changes: &[T], random: &mut Random) -> Vec<(T, bool)> {
    let whole = |changes: &[T]| changes.iter().map(|change| (change.clone(), true)).collect();
    match random.below(6) {
        0 => Vec::new(),
        1 => whole(changes),
        2 => {
            let count = usize::try_from(random.below(changes.len() as u64 + 1)).unwrap_or(0);
            whole(changes.get(..count).unwrap_or_default())
        }
        _ => {
            let picked = changes.iter().filter_map(|change| match random.below(3) {
                0 => None,
                1 => Some((change.clone(), true)),
                _ => Some((change.clone(), false)),
            });
            picked.collect()
        }
    }
}

impl Inode {
    pub(super) fn change(&mut self, change: Change) {
        self.live.apply(&change);
        self.pending.push(change);
    }

    pub(super) fn lose(&mut self, random: &mut Random) {
        for (change, whole) in survivors(&self.pending, random) {
            match &change {
                Change::Write(offset, data) if !whole => self.durable.tear(*offset, data, random),
                _ => self.durable.apply(&change),
            }
        }
        self.pending.clear();
    }
}
