//! Every number of the format, once. `docs/checkpoint-format.md` says the same for people who write readers in other
//! languages, and a test compares the two.
//!
//! All numbers in files are little-endian. Everything is in blocks of [`BLOCK_SIZE`] bytes, so that no block that has been
//! committed is ever written again by what is appended after it.

use district_protocol::layout;

/// Version of everything here. It stands at the same place in every file ([`header::VERSION`], [`image::VERSION`]), and a
/// reader looks at it before anything else but the magic number.
pub const VERSION: u32 = 1;

/// Bytes in a block, and in a page of memory.
pub const BLOCK_SIZE: usize = 4096;
/// Bytes in a page of memory.
pub const PAGE_SIZE: usize = BLOCK_SIZE;
/// Most bytes of memory that a checkpoint can have.
pub const MEMORY_SIZE_MAX: u64 = layout::RAM_SIZE_MAX;
/// Most bytes of the caller's state in a checkpoint.
pub const STATE_MAX: usize = 64 << 10;
/// Most bytes of a description.
pub const DESCRIPTION_MAX: usize = 64 << 10;

/// The header block of a segment and of an export.
pub mod header {
    /// Magic number of a segment.
    pub const SEGMENT: [u8; 8] = *b"DISTLOG\n";
    /// Magic number of an export.
    pub const EXPORT: [u8; 8] = *b"DISTEXP\n";

    /// 8 bytes: magic number.
    pub const MAGIC: usize = 0;
    /// u32: format version.
    pub const VERSION: usize = 8;
    /// u32: bytes in a page.
    pub const PAGE_SIZE: usize = 12;
    /// u64: bytes of memory.
    pub const MEMORY_SIZE: usize = 16;
    /// 16 bytes: identity of the lineage.
    pub const LINEAGE: usize = 24;
    /// u64: number of the segment; 0 in an export.
    pub const NUMBER: usize = 40;
    /// u64: random number that seeds the checksum of each record.
    pub const SALT: usize = 48;
    /// u64: all generations in the file are greater.
    pub const FLOOR: usize = 56;
    /// u64: checksum of all bytes of the block before it.
    pub const CHECKSUM: usize = 4088;
}

/// The first block of a record, its *head*. A *body* of whole blocks follows.
pub mod record {
    /// Magic number of a record.
    pub const HEAD: [u8; 4] = *b"DREC";
    /// Kind: pages.
    pub const BATCH: u32 = 1;
    /// Kind: what makes the batches before it a checkpoint.
    pub const COMMIT: u32 = 2;
    /// Kind: the description in an export.
    pub const DESCRIPTION: u32 = 3;

    /// 4 bytes: magic number.
    pub const MAGIC: usize = 0;
    /// u32: kind.
    pub const KIND: usize = 4;
    /// u64: generation that the record is of.
    pub const GENERATION: usize = 8;
    /// u64: number of the record, greater than that of each record before it.
    pub const SEQUENCE: usize = 16;
    /// u64: bytes of body.
    pub const BODY_LEN: usize = 24;
    /// u64: checksum of the body.
    pub const BODY_CHECKSUM: usize = 32;
    /// u64: checksum of the head with the record's offset in the file in place of this field.
    pub const CHECKSUM: usize = 40;
}

/// The rest of the head of a batch. Its body is the pages of its data runs in their order.
pub mod batch {
    /// Most runs in a batch.
    pub const RUNS_MAX: usize = 504;
    /// Most pages of data in a batch.
    pub const PAGES_MAX: usize = 128;
    /// The bit of a run's count that says that its pages are zero.
    pub const ZERO: u32 = 1 << 31;

    /// u32: number of runs.
    pub const RUN_COUNT: usize = 48;
    /// u32: number of pages in data runs.
    pub const DATA_PAGES: usize = 52;
    /// 8 bytes each: runs.
    pub const RUNS: usize = 64;
    /// Bytes of a run: first page (u32), number of pages and [`ZERO`] (u32).
    pub const RUN_SIZE: usize = 8;
}

/// The rest of the head of a commit. The state goes on in the body.
pub mod commit {
    /// u64: generation that the checkpoint builds on; 0: none.
    pub const PARENT: usize = 48;
    /// u64: when, in nanoseconds since 1970.
    pub const TIME: usize = 56;
    /// u64: epoch.
    pub const EPOCH: usize = 64;
    /// u64: number of batches.
    pub const BATCHES: usize = 72;
    /// u64: pages in data runs of all batches.
    pub const DATA_PAGES: usize = 80;
    /// u64: pages in zero runs of all batches.
    pub const ZERO_PAGES: usize = 88;
    /// u64: running checksum over the batches.
    pub const RUNNING: usize = 96;
    /// u32: bytes of state.
    pub const STATE_LEN: usize = 104;
    /// First byte of the state.
    pub const STATE: usize = 112;
    /// Bytes of state in the head.
    pub const STATE_IN_HEAD: usize = super::BLOCK_SIZE - STATE;
}

/// The rest of the head of a description. Its body is the text, padded with zeros.
pub mod description {
    /// u32: bytes of description.
    pub const LEN: usize = 48;
}

/// The first block of an image, written once.
pub mod image {
    /// Magic number of an image.
    pub const IMAGE: [u8; 8] = *b"DISTIMG\n";

    /// 8 bytes: magic number.
    pub const MAGIC: usize = 0;
    /// u32: format version.
    pub const VERSION: usize = 8;
    /// u32: bytes in a page.
    pub const PAGE_SIZE: usize = 12;
    /// u64: bytes of memory.
    pub const MEMORY_SIZE: usize = 16;
    /// 16 bytes: identity of the lineage.
    pub const LINEAGE: usize = 24;
    /// u32: bytes of description.
    pub const DESCRIPTION_LEN: usize = 40;
    /// u64: checksum of the description.
    pub const DESCRIPTION_CHECKSUM: usize = 48;
    /// u64: offset of the pages in the file.
    pub const PAGES_OFFSET: usize = 56;
    /// u64: checksum of all bytes of the block before it.
    pub const CHECKSUM: usize = 4088;

    /// Offset of the description in the file.
    pub const DESCRIPTION_AT: u64 = 0x1000;
    /// Offsets of the two slots in the file.
    pub const SLOTS_AT: [u64; 2] = [0x2_0000, 0x4_0000];
    /// Offset of the table of page checksums in the file.
    pub const TABLE_AT: u64 = 0x6_0000;
    /// The pages begin at the first multiple of this after the table: the size of a huge page.
    pub const PAGES_ALIGN: u64 = 2 << 20;
}

/// A slot of an image: this block, then the state.
pub mod slot {
    /// Magic number of a slot.
    pub const SLOT: [u8; 4] = *b"DSLT";
    /// Phase: the image is the memory of one generation.
    pub const AT: u32 = 1;
    /// Phase: the image is on its way from one generation to another.
    pub const MIGRATING: u32 = 2;

    /// 4 bytes: magic number.
    pub const MAGIC: usize = 0;
    /// u32: phase.
    pub const PHASE: usize = 4;
    /// u64: number of the change of phase; of two intact slots the greater one counts.
    pub const SEQUENCE: usize = 8;
    /// u64: generation that the image is at or comes from.
    pub const GENERATION: usize = 16;
    /// u64: generation that it is on its way to; 0 in phase [`AT`].
    pub const TARGET: usize = 24;
    /// u64: parent of the generation in [`GENERATION`].
    pub const PARENT: usize = 32;
    /// u64: when it was taken, in nanoseconds since 1970.
    pub const TIME: usize = 40;
    /// u64: its epoch.
    pub const EPOCH: usize = 48;
    /// u64: checksum of the table.
    pub const TABLE_CHECKSUM: usize = 56;
    /// u32: bytes of state; 0 in phase [`MIGRATING`].
    pub const STATE_LEN: usize = 64;
    /// u64: checksum of the state.
    pub const STATE_CHECKSUM: usize = 72;
    /// u64: checksum of the block with the slot's offset in the file in place of this field.
    pub const CHECKSUM: usize = 80;
    /// Offset of the state in the slot.
    pub const STATE: u64 = 4096;
}

const _: () = {
    // docs/checkpoint-format.md, sections 1 to 4.
    assert!(VERSION == 1);
    assert!(BLOCK_SIZE == 4096 && PAGE_SIZE as u64 == layout::PAGE_SIZE);
    assert!(MEMORY_SIZE_MAX == 1 << 36);
    // Page numbers and counts of pages leave the bit that tells zero runs.
    assert!(MEMORY_SIZE_MAX / (PAGE_SIZE as u64) < batch::ZERO as u64);
    assert!(STATE_MAX == 65_536 && DESCRIPTION_MAX == 65_536);
    assert!(header::VERSION == image::VERSION && header::VERSION == 8);
    assert!(header::CHECKSUM + 8 == BLOCK_SIZE && image::CHECKSUM + 8 == BLOCK_SIZE);
    assert!(batch::RUNS + batch::RUNS_MAX * batch::RUN_SIZE == BLOCK_SIZE);
    assert!(commit::STATE_IN_HEAD == 3984);
    assert!(image::DESCRIPTION_AT + DESCRIPTION_MAX as u64 <= image::SLOTS_AT[0]);
    assert!(image::SLOTS_AT[0] + slot::STATE + STATE_MAX as u64 <= image::SLOTS_AT[1]);
    assert!(image::SLOTS_AT[1] + slot::STATE + STATE_MAX as u64 <= image::TABLE_AT);
};
