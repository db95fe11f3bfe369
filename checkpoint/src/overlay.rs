//! Which of many versions of a page counts: the last one that was put.

use std::collections::BTreeMap;

/// Where a page's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nowhere: it is zero.
    Zero,
    /// The page with that index in that batch of the plan.
    Data { batch: u32, index: u32 },
}

impl Source {
    /// The source of the page `pages` further on.
    fn further(self, pages: u64) -> Source {
        match self {
            Source::Zero => Source::Zero,
            Source::Data { batch, index } => {
                Source::Data { batch, index: index.saturating_add(u32::try_from(pages).unwrap_or(u32::MAX)) }
            }
        }
    }
}

/// Pages in a row with one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub first: u64,
    pub count: u64,
    pub source: Source,
}

/// A map from pages to where their newest content is, by ranges: a run costs the same however long it is, so nothing
/// in a file can make this slow.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overlay {
    /// First page -> (first page beyond, source). They do not overlap.
    pieces: BTreeMap<u64, (u64, Source)>,
}

impl Overlay {
    /// Puts pages over what was there. `first + count` does not overflow: it lies within memory.
    pub(crate) fn put(&mut self, first: u64, count: u64, source: Source) {
        let end = first + count;
        let before = self.pieces.range_mut(..first).next_back();
        if let Some((&start, piece)) = before
            && piece.0 > first
        {
            let (old_end, old) = *piece;
            piece.0 = first;
            if old_end > end {
                self.pieces.insert(end, (old_end, old.further(end - start)));
            }
        }
        while let Some((&start, &(old_end, old))) = self.pieces.range(first..end).next() {
            self.pieces.remove(&start);
            if old_end > end {
                self.pieces.insert(end, (old_end, old.further(end - start)));
            }
        }
        self.pieces.insert(first, (end, source));
    }

    /// Whether it has something about the page.
    pub(crate) fn covers(&self, page: u64) -> bool {
        self.pieces.range(..=page).next_back().is_some_and(|(_, piece)| piece.0 > page)
    }

    /// Everything, by ascending page.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Piece> {
        self.pieces.iter().map(|(&first, &(end, source))| Piece { first, count: end - first, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_says_what_a_table_of_all_pages_says(
            puts in prop::collection::vec((0_u64..64, 1_u64..20, any::<bool>()), 0..40),
        ) {
            let mut overlay = Overlay::default();
            let mut table = [None; 96];
            for (batch, (first, count, zero)) in puts.into_iter().enumerate() {
                let batch = u32::try_from(batch).unwrap();
                let source = if zero { Source::Zero } else { Source::Data { batch, index: 5 } };
                overlay.put(first, count, source);
                for page in 0..count {
                    table[usize::try_from(first + page).unwrap()] = Some(source.further(page));
                }
            }
            let mut found = [None; 96];
            for piece in overlay.pieces() {
                for page in 0..piece.count {
                    let place = &mut found[usize::try_from(piece.first + page).unwrap()];
                    prop_assert_eq!(place.replace(piece.source.further(page)), None);
                }
            }
            prop_assert_eq!(found, table);
            for (page, source) in (0..).zip(table) {
                prop_assert_eq!(overlay.covers(page), source.is_some());
            }
        }
    }
}
