//! Which pages of RAM a checkpoint has to hold.

use std::ops::Range;

use district_protocol::layout::{PAGE_SIZE, RAM_BASE};

/// A set of pages of RAM, numbered from its first one: a bit each, as in KVM's dirty log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DirtyPages {
    words: Vec<u64>,
}

impl DirtyPages {
    /// None of `memory` bytes.
    pub(crate) fn none(memory: u64) -> Self {
        let words = (memory / PAGE_SIZE).div_ceil(64);
        Self { words: vec![0; usize::try_from(words).unwrap_or(0)] }
    }

    /// Adds the pages of a dirty log. Its bits beyond RAM are nobody's.
    pub(crate) fn add_log(&mut self, log: &[u64]) {
        self.words.iter_mut().zip(log).for_each(|(word, log)| *word |= log);
    }

    /// Adds the pages that have any byte in `addresses`, which are in RAM.
    pub(crate) fn add(&mut self, addresses: &Range<u64>) {
        if addresses.is_empty() {
            return;
        }
        for page in page(addresses.start)..=page(addresses.end - 1) {
            if let Some(word) = usize::try_from(page / 64).ok().and_then(|index| self.words.get_mut(index)) {
                *word |= 1 << (page % 64);
            }
        }
    }

    /// Adds the pages of another set.
    pub(crate) fn merge(&mut self, other: &DirtyPages) {
        self.add_log(&other.words);
    }

    /// Removes the page at this address.
    pub(crate) fn remove(&mut self, address: u64) {
        let page = page(address);
        if let Some(word) = usize::try_from(page / 64).ok().and_then(|index| self.words.get_mut(index)) {
            *word &= !(1 << (page % 64));
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The numbers of the pages, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().zip((0u32..).step_by(64)).flat_map(|(&word, first)| {
            let mut left = word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                (left != 0).then(|| {
                    left &= left - 1;
                    first + bit
                })
            })
        })
    }
}

fn page(address: u64) -> u64 {
    address.saturating_sub(RAM_BASE) / PAGE_SIZE
}

/// Address of a page of RAM.
pub(crate) fn address(page: u32) -> u64 {
    RAM_BASE + u64::from(page) * PAGE_SIZE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_out_in_order_and_once() {
        let mut dirty = DirtyPages::none(200 * PAGE_SIZE);
        dirty.add(&(RAM_BASE + 5..RAM_BASE + 6));
        dirty.add(&(RAM_BASE + PAGE_SIZE - 1..RAM_BASE + 2 * PAGE_SIZE + 1));
        dirty.add(&(RAM_BASE + 199 * PAGE_SIZE..RAM_BASE + 200 * PAGE_SIZE));
        dirty.add(&(RAM_BASE + 9..RAM_BASE + 9));
        dirty.add_log(&[1 << 63, 1, 0, 0, u64::MAX]);
        assert_eq!(dirty.iter().collect::<Vec<_>>(), [0, 1, 2, 63, 64, 199]);
        assert_eq!(dirty.count(), 6);
        dirty.remove(address(63));
        assert_eq!(dirty.count(), 5);
        let mut other = DirtyPages::none(200 * PAGE_SIZE);
        other.merge(&dirty);
        assert_eq!(other, dirty);
    }
}
