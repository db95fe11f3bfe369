//! Which parts of the window are in use by requests. The bookkeeping is private memory: the broker cannot reach it.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// What is handed out is a multiple of this many bytes.
pub(super) const UNIT: u64 = 256;
const WORD_BITS: usize = u64::BITS as usize;

/// A first-fit allocator of ranges of the window, one bit for each unit.
#[derive(Debug)]
pub(super) struct Space {
    base: u64,
    units: usize,
    free: usize,
    /// No unit below this one is free.
    lowest: usize,
    used: Vec<u64>,
}

#[allow(clippy::cast_possible_truncation)] // x86-64: both have 64 bits
fn units(bytes: u64) -> usize {
    bytes.div_ceil(UNIT) as usize
}

impl Space {
    /// All of `range`, free.
    pub(super) fn new(range: Range<u64>) -> Self {
        let base = range.start.next_multiple_of(UNIT);
        let units = units(range.end.saturating_sub(base) & !(UNIT - 1));
        Space { base, units, free: units, lowest: 0, used: vec![0; units.div_ceil(WORD_BITS)] }
    }

    /// Bytes that are free, in however many pieces.
    pub(super) fn free_bytes(&self) -> u64 {
        self.free as u64 * UNIT
    }

    /// Bytes that there are.
    pub(super) fn bytes(&self) -> u64 {
        self.units as u64 * UNIT
    }

    /// Offset in the window of `bytes` contiguous bytes, if there are any.
    pub(super) fn allocate(&mut self, bytes: u64) -> Option<u64> {
        let wanted = units(bytes);
        if wanted > self.free {
            return None;
        }
        let first_free = self.next(self.lowest, false);
        let mut start = first_free;
        while start + wanted <= self.units {
            let end = self.next(start, true);
            if end - start >= wanted {
                self.mark(start..start + wanted, true);
                self.free -= wanted;
                self.lowest = if start == first_free { start + wanted } else { first_free };
                return Some(self.base + start as u64 * UNIT);
            }
            start = self.next(end, false);
        }
        self.lowest = first_free;
        None
    }

    /// Takes back what `allocate(bytes)` gave.
    pub(super) fn release(&mut self, offset: u64, bytes: u64) {
        let start = units(offset - self.base);
        let count = units(bytes);
        self.mark(start..start + count, false);
        self.free += count;
        self.lowest = self.lowest.min(start);
    }

    /// The first unit from `from` on that is used or free, as asked; the number of units if there is none.
    fn next(&self, from: usize, used: bool) -> usize {
        let flip = if used { 0 } else { u64::MAX };
        let mut word = from / WORD_BITS;
        let mut mask = u64::MAX << (from % WORD_BITS);
        while let Some(bits) = self.used.get(word) {
            let hits = (bits ^ flip) & mask;
            if hits != 0 {
                return (word * WORD_BITS + hits.trailing_zeros() as usize).min(self.units);
            }
            mask = u64::MAX;
            word += 1;
        }
        self.units
    }

    fn mark(&mut self, range: Range<usize>, used: bool) {
        let mut at = range.start;
        while at < range.end {
            let bit = at % WORD_BITS;
            let count = (WORD_BITS - bit).min(range.end - at);
            let mask = (u64::MAX >> (WORD_BITS - count)) << bit;
            let word = &mut self.used[at / WORD_BITS];
            *word = if used { *word | mask } else { *word & !mask };
            at += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_out_every_byte_once() {
        let mut space = Space::new(100..UNIT * 131 + 17);
        assert_eq!(space.bytes(), UNIT * 130);
        let all: Vec<u64> = core::iter::from_fn(|| space.allocate(1)).collect();
        assert_eq!(all, (1..131).map(|unit| unit * UNIT).collect::<Vec<_>>());
        assert_eq!(space.free_bytes(), 0);
        for offset in all {
            space.release(offset, 1);
        }
        assert_eq!(space.free_bytes(), space.bytes());
        assert_eq!(space.allocate(UNIT * 130), Some(UNIT));
    }

    #[test]
    fn takes_the_first_gap_that_is_long_enough() {
        let mut space = Space::new(0..UNIT * 300);
        let pieces: Vec<u64> = core::iter::from_fn(|| space.allocate(UNIT * 3)).collect();
        assert_eq!(pieces.len(), 100);
        space.release(pieces[50], UNIT * 3);
        space.release(pieces[20], UNIT * 3);
        space.release(pieces[21], UNIT * 3);
        assert_eq!(space.allocate(UNIT * 7), None);
        assert_eq!(space.allocate(UNIT * 6), Some(pieces[20]));
        assert_eq!(space.allocate(UNIT * 2), Some(pieces[50]));
        assert_eq!(space.allocate(UNIT * 2), None);
        assert_eq!(space.allocate(UNIT), Some(pieces[50] + UNIT * 2));
        assert_eq!(space.allocate(1), None);
    }

    #[test]
    fn random_use_never_overlaps() {
        let mut space = Space::new(64..UNIT * 1000);
        let mut held: Vec<(u64, u64)> = Vec::new();
        let mut seed = 1u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let bytes = (seed >> 33) % 9000 + 1;
            if seed >> 63 == 0 || held.is_empty() {
                if let Some(offset) = space.allocate(bytes) {
                    assert!(offset >= 64 && offset + bytes <= UNIT * 1000);
                    assert!(held.iter().all(|&(at, len)| offset + bytes <= at || at + len <= offset));
                    held.push((offset, bytes));
                }
            } else {
                let (offset, bytes) = held.swap_remove(usize::try_from(seed >> 40).unwrap() % held.len());
                space.release(offset, bytes);
            }
        }
        for (offset, bytes) in held {
            space.release(offset, bytes);
        }
        assert_eq!(space.free_bytes(), space.bytes());
    }
}
