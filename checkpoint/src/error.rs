//! Why something cannot be read or written.

use std::io;

use crate::format::VERSION;

/// Why stored memory cannot be read, or not be made into something else.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is of another version of the format: nothing in it was looked at, nothing changed.
    #[error(
        "{what}: format version {found}, this program knows version {VERSION}; use the district version that wrote it"
    )]
    Version {
        /// Which kind of file.
        what: &'static str,
        /// The version that it says.
        found: u32,
    },
    /// The file is no longer, or never was, what was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The file is whole, but not of this lineage, or of another memory size.
    #[error("{what}: {why}")]
    Foreign {
        /// Which kind of file.
        what: &'static str,
        /// What does not fit.
        why: &'static str,
    },
    /// There is no such generation, or a part of what it builds on is missing or damaged.
    #[error("generation {0} cannot be restored: it, or one that it builds on, is missing or damaged")]
    NotRestorable(u64),
    /// The image would lose what the running district builds on. Nothing has changed.
    #[error("cannot migrate to generation {target}: generation {running}, which is running, does not build on it")]
    OffTheWay {
        /// What the image was to be migrated to.
        target: u64,
        /// What is running.
        running: u64,
    },
    /// There is damage, and no generation without it is left.
    #[error("no generation is left that can be restored; first damage: {0}")]
    NothingLeft(Damage),
    /// An argument of the caller is beyond what the format allows. Nothing has changed.
    #[error("{what}: {value}, and {limit} is the limit")]
    Limit {
        /// Of what.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The greatest that is possible.
        limit: u64,
    },
    /// The host failed; the operating system's answer is the source.
    #[error("{doing}")]
    Storage {
        /// What was tried.
        doing: &'static str,
        /// The answer.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn storage(doing: &'static str) -> impl Fn(io::Error) -> Error {
        move |source| Error::Storage { doing, source }
    }

    /// For reading what `damage` describes: a file that ends too early is damaged.
    pub(crate) fn reading(damage: Damage) -> impl Fn(io::Error) -> Error {
        move |source| match source.kind() {
            io::ErrorKind::UnexpectedEof => Error::Damaged(damage),
            _ => Error::Storage { doing: "cannot read", source },
        }
    }
}

/// What is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A file does not begin as it should.
    #[error("{0}: the header is damaged")]
    Header(&'static str),
    /// A file of a lineage cannot be used.
    #[error("log.{0}: the header is damaged or of something else")]
    SegmentHeader(u64),
    /// A record of a segment is damaged.
    #[error("log.{segment}: damaged at offset {offset}")]
    Record {
        /// Number of the segment.
        segment: u64,
        /// Where in it.
        offset: u64,
    },
    /// A record breaks the rules of the format, although its checksum is right.
    #[error("record at offset {0}: against the format")]
    Malformed(u64),
    /// One of the two slots of an image is damaged, or was being written when the power was cut: the other counts.
    #[error("image: one of two slots is damaged or was being written")]
    Slot,
    /// Both slots of an image are damaged.
    #[error("image: both slots are damaged")]
    Slots,
    /// An image ends before its last page.
    #[error("image: it has been cut off")]
    ImageLength,
    /// The description of an image or export is damaged.
    #[error("the description is damaged")]
    Description,
    /// The table of page checksums of an image is damaged.
    #[error("image: the table of checksums is damaged")]
    Table,
    /// A page of an image is damaged.
    #[error("image: page {0} is damaged")]
    Page(u64),
    /// There are checkpoints, and none of them builds on anything that is there.
    #[error("what the checkpoints build on is missing")]
    Missing,
    /// An export ends too early or goes on after its end.
    #[error("export: not complete, or something follows its end")]
    Length,
}

/// Why a checkpoint was not written. None of them leaves a checkpoint behind; those before it stay.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The caller asked for what the format does not allow. Nothing was written; the writer can be used.
    #[error("{0}")]
    Refused(&'static str),
    /// An earlier write or sync has failed, and nobody knows what of it is on the disk: a new segment is needed.
    #[error("an earlier write to this segment failed; it needs a new one")]
    Failed,
    /// The write or sync failed now. The writer refuses everything from here on.
    #[error("{doing}")]
    Storage {
        /// What was tried.
        doing: &'static str,
        /// The answer.
        #[source]
        source: io::Error,
    },
}
