//! Storage for the broker's records: dense, reused, and addressed by typed numbers.
//!
//! Numbers given out here never come from a guest, so that indexing with them cannot go wrong; a slot that is free holds
//! the default of its type.

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::ops::{Index, IndexMut};

/// Number of a record in a [`Slab`].
pub(crate) struct Id<T>(NonZeroU32, PhantomData<fn() -> T>);

impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Id<T> {}

impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T> Eq for Id<T> {}

impl<T> PartialOrd for Id<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Id<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

impl<T> fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl<T> Id<T> {
    fn at(index: usize) -> Self {
        let offset = u32::try_from(index).unwrap_or(u32::MAX);
        Id(NonZeroU32::MIN.saturating_add(offset), PhantomData)
    }

    /// Position in the slab, for tables that run parallel to it.
    pub(crate) fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// Records of one type.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<T>,
    free: Vec<Id<T>>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T: Default> Slab<T> {
    /// Stores a record.
    pub(crate) fn insert(&mut self, value: T) -> Id<T> {
        if let Some(id) = self.free.pop() {
            self[id] = value;
            return id;
        }
        self.entries.push(value);
        Id::at(self.entries.len() - 1)
    }

    /// Takes a record out; its number is free for another from now on.
    pub(crate) fn remove(&mut self, id: Id<T>) -> T {
        self.free.push(id);
        std::mem::take(&mut self[id])
    }

    /// How many records are stored.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// All slots in order, the free ones too.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (Id<T>, &T)> {
        self.entries.iter().enumerate().map(|(index, value)| (Id::at(index), value))
    }
}

impl<T> Index<Id<T>> for Slab<T> {
    type Output = T;

    fn index(&self, id: Id<T>) -> &T {
        &self.entries[id.index()]
    }
}

impl<T> IndexMut<Id<T>> for Slab<T> {
    fn index_mut(&mut self, id: Id<T>) -> &mut T {
        &mut self.entries[id.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_reused_and_records_are_not() {
        let mut slab = Slab::default();
        let first = slab.insert(String::from("first"));
        let second = slab.insert(String::from("second"));
        assert_eq!(slab.remove(first), "first");
        assert_eq!(slab.len(), 1);
        assert_eq!(slab[first], "");
        assert_eq!(slab.insert(String::from("third")), first);
        assert_eq!((slab[first].as_str(), slab[second].as_str()), ("third", "second"));
        assert_eq!(slab.slots().count(), 2);
    }
}
