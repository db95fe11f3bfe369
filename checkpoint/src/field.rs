//! Little-endian fields of a block.

use crate::format::BLOCK_SIZE;

/// The unit in which everything here is read, checked and written.
pub(crate) type Block = [u8; BLOCK_SIZE];

/// A block of zeros.
pub(crate) const ZEROS: Block = [0; BLOCK_SIZE];

/// The four bytes at `at`. Offsets are constants of [`crate::format`], within the block.
pub(crate) fn get_u32(block: &Block, at: usize) -> u32 {
    block[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// The eight bytes at `at`.
pub(crate) fn get_u64(block: &Block, at: usize) -> u64 {
    block[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The `N` bytes at `at`.
pub(crate) fn get_bytes<const N: usize>(block: &Block, at: usize) -> [u8; N] {
    block[at..].first_chunk().copied().unwrap_or([0; N])
}

pub(crate) fn put_u32(block: &mut Block, at: usize, value: u32) {
    put_bytes(block, at, value.to_le_bytes());
}

pub(crate) fn put_u64(block: &mut Block, at: usize, value: u64) {
    put_bytes(block, at, value.to_le_bytes());
}

pub(crate) fn put_bytes<const N: usize>(block: &mut Block, at: usize, bytes: [u8; N]) {
    if let Some(place) = block[at..].first_chunk_mut() {
        *place = bytes;
    }
}

/// `len` bytes, rounded up to whole blocks.
pub(crate) const fn padded(len: usize) -> usize {
    len.next_multiple_of(BLOCK_SIZE)
}
