//! Objects that have an owner: exports, notifiers, and what the host serves on behalf of one district.

use crate::district::DistrictIx;
use crate::key::Key;
use crate::list::{Link, List};
use crate::slab::Id;

/// Number of an object.
pub(crate) type ObjectId = Id<Object>;

/// What part of its owner's names a directory shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// The grants.
    Root,
    /// The names that may be published.
    Publish,
    /// One of them, by its number.
    Name(usize),
}

/// What an object does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum ObjectKind {
    /// Passes messages to its owner.
    #[default]
    Entry,
    /// Collects bits for its owner.
    Notifier {
        /// Bits since the last delivery.
        bits: u64,
        /// Whether a delivery waits.
        queued: bool,
    },
    /// Its owner's log.
    Log,
    /// Looks after its owner.
    Supervisor,
    /// Its owner's names.
    Directory(View),
}

/// An object. It is gone when its owner's session ends, or when nobody has a key to an export.
#[derive(Debug, Default)]
pub(crate) struct Object {
    pub owner: Option<DistrictIx>,
    pub kind: ObjectKind,
    /// By what the owner knows it.
    pub export: u64,
    pub keys: List<Key>,
    /// Whether its owner is being told that nobody has a key.
    pub unreferenced: bool,
    /// Place among its owner's objects.
    pub owned: Link<Object>,
}
