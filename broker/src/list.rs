//! Lists threaded through the records of a slab, so that a record leaves any list that it is in without a search.

use crate::slab::{Id, Slab};

/// A record's place in one list.
#[derive(Debug)]
pub(crate) struct Link<T> {
    previous: Option<Id<T>>,
    pub(crate) next: Option<Id<T>>,
}

impl<T> Default for Link<T> {
    fn default() -> Self {
        Link { previous: None, next: None }
    }
}

/// First and last record of a list.
#[derive(Debug)]
pub(crate) struct List<T> {
    pub(crate) first: Option<Id<T>>,
    last: Option<Id<T>>,
}

impl<T> Clone for List<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for List<T> {}

impl<T> Default for List<T> {
    fn default() -> Self {
        List { first: None, last: None }
    }
}

impl<T: Default> List<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Appends a record that is in no list of this kind. `link` says which of its links is meant.
    pub(crate) fn push(&mut self, slab: &mut Slab<T>, id: Id<T>, link: impl Fn(&mut T) -> &mut Link<T>) {
        *link(&mut slab[id]) = Link { previous: self.last, next: None };
        match self.last {
            Some(last) => link(&mut slab[last]).next = Some(id),
            None => self.first = Some(id),
        }
        self.last = Some(id);
    }

    /// Takes a record out of the list that it is in, which must be this one.
    pub(crate) fn remove(&mut self, slab: &mut Slab<T>, id: Id<T>, link: impl Fn(&mut T) -> &mut Link<T>) {
        let Link { previous, next } = std::mem::take(link(&mut slab[id]));
        match previous {
            Some(previous) => link(&mut slab[previous]).next = next,
            None => self.first = next,
        }
        match next {
            Some(next) => link(&mut slab[next]).previous = previous,
            None => self.last = previous,
        }
    }

    /// The records of the list, in order.
    pub(crate) fn iter<'a>(
        &self,
        slab: &'a Slab<T>,
        link: impl Fn(&T) -> &Link<T> + 'a,
    ) -> impl Iterator<Item = Id<T>> + 'a {
        std::iter::successors(self.first, move |id| link(&slab[*id]).next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Record {
        link: Link<Record>,
    }

    #[test]
    fn records_leave_from_anywhere() {
        let mut slab = Slab::default();
        let ids: Vec<_> = (0..4).map(|_| slab.insert(Record::default())).collect();
        let mut list = List::default();
        for id in &ids {
            list.push(&mut slab, *id, |record| &mut record.link);
        }
        for (leaving, rest) in [(1, vec![0, 2, 3]), (0, vec![2, 3]), (3, vec![2]), (2, vec![])] {
            list.remove(&mut slab, ids[leaving], |record| &mut record.link);
            let expected: Vec<_> = rest.into_iter().map(|at| ids[at]).collect();
            assert_eq!(list.iter(&slab, |record| &record.link).collect::<Vec<_>>(), expected);
        }
        assert!(list.is_empty());
    }
}
