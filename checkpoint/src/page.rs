//! Pages, and runs of them.

use xxhash_rust::xxh3::xxh3_64;

use crate::field::ZEROS;
use crate::format::PAGE_SIZE;

/// Whether a page is all zero. Ends at the first byte that is not.
pub fn is_zero(page: &[u8]) -> bool {
    page.chunks(PAGE_SIZE).all(|page| *page == ZEROS[..page.len()])
}

/// What an image's table says of a page: 0 if it is zero, and never otherwise.
pub(crate) fn page_checksum(page: &[u8]) -> u64 {
    if is_zero(page) { 0 } else { xxh3_64(page).max(1) }
}

/// Pages in a row, either all zero or with data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Number of the first page.
    pub first: u64,
    /// Number of pages, 1 at least.
    pub count: u64,
    /// Whether they are zero: then they have no data.
    pub zero: bool,
}

impl Run {
    /// Pages with data.
    pub fn data(first: u64, count: u64) -> Run {
        Run { first, count, zero: false }
    }

    /// Pages that are zero.
    pub fn zero(first: u64, count: u64) -> Run {
        Run { first, count, zero: true }
    }
}

/// What pages contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// That many pages of zeros.
    Zero(u64),
    /// The bytes of whole pages.
    Data(&'a [u8]),
}

/// Turns pages, in ascending order, each with whether it is zero, into the fewest runs.
pub fn runs(pages: impl IntoIterator<Item = (u64, bool)>) -> impl Iterator<Item = Run> {
    let mut pages = pages.into_iter().peekable();
    std::iter::from_fn(move || {
        let (first, zero) = pages.next()?;
        let mut run = Run { first, count: 1, zero };
        while pages.next_if_eq(&(run.first.saturating_add(run.count), zero)).is_some() {
            run.count += 1;
        }
        Some(run)
    })
}

/// Checks a size of memory and gives its number of pages.
pub(crate) fn pages_of(memory_size: u64) -> Option<u64> {
    let pages = memory_size / PAGE_SIZE as u64;
    let fits = memory_size.is_multiple_of(PAGE_SIZE as u64) && memory_size <= crate::format::MEMORY_SIZE_MAX;
    (fits && pages > 0).then_some(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_as_long_as_can_be() {
        let pages = [(3, false), (4, false), (5, true), (6, true), (8, true), (9, false)];
        let expected = [Run::data(3, 2), Run::zero(5, 2), Run::zero(8, 1), Run::data(9, 1)];
        assert!(runs(pages).eq(expected));
        assert_eq!(runs([]).count(), 0);
        assert!(runs([(u64::MAX, false)]).eq([Run::data(u64::MAX, 1)]));
    }

    #[test]
    fn one_bit_makes_a_page_not_zero() {
        let mut page = vec![0; 2 * PAGE_SIZE];
        assert!(is_zero(&page));
        page[2 * PAGE_SIZE - 1] = 0x80;
        assert!(!is_zero(&page));
        assert_eq!(page_checksum(&page[..PAGE_SIZE]), 0);
        assert_ne!(page_checksum(&page[PAGE_SIZE..]), 0);
    }
}
