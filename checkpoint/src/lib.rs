//! Checkpointed memory on disk: its format, byte by byte in `docs/checkpoint-format.md`, and its store.
//!
//! A *lineage* is one memory over time, in a directory: at most one *image*, a complete memory that can be mapped, and the
//! *segments* of a log of checkpoints. A checkpoint is what has changed since its *parent*; it is committed by one record
//! at its end and one `fdatasync`. *Migration* moves checkpoints from the log to the image.
//!
//! Two kinds of process use this. The vmm process of a district gets open descriptors: it appends to one segment
//! ([`SegmentWriter`]) and, when a life begins, puts its memory together ([`Restore`]). The daemon owns the directory
//! ([`Lineage`], [`write_image`], [`export`], [`import`]). A vmm process that somebody has taken over can write whatever it
//! likes to its segment, while the daemon reads it. So files are read with `pread` and never mapped; what is checked is
//! the very buffer that is used then; what one pass over a file has found is checked again by the next; and neither
//! time nor memory depend on anything that a file merely claims.
//!
//! The crate knows files and pages: nothing of KVM, keys, or the names of districts.

mod error;
mod field;
pub mod format;
mod history;
mod image;
mod lineage;
mod migrate;
mod overlay;
mod page;
mod restore;
mod segment;
#[cfg(feature = "simulated")]
pub mod simulated;
mod storage;
mod transfer;

pub use error::{Damage, Error, WriteError};
pub use image::builder::Identity;
pub use image::{Image, ImageInfo, Phase, Progress};
pub use lineage::{
    BASE, Depth, GenerationInfo, HOME, Lineage, RestoreFiles, SegmentInfo, begin_segment, create_segment, log_size,
};
pub use migrate::{Migration, write_image};
pub use page::{Content, Run, is_zero, runs};
pub use restore::{Apply, Restore};
pub use segment::header::SegmentHeader;
pub use segment::record::Stamp;
pub use segment::writer::{Checkpoint, CommitInfo, SegmentWriter, Written};
pub use storage::{Access, Directory, Folder, Storage};
pub use transfer::{ImportLimits, Imported, export, import};
