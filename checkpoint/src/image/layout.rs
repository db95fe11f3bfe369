//! What never changes in an image: its first block, and where the rest is.

use std::io::IoSlice;

use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Damage, Error};
use crate::field::{Block, ZEROS, get_bytes, get_u32, get_u64, put_bytes, put_u32, put_u64};
use crate::format::{DESCRIPTION_MAX, PAGE_SIZE, VERSION, image};
use crate::page::pages_of;
use crate::segment::header::{PAGE_SIZE_FIELD, check_version};
use crate::storage::Storage;

/// How errors call it.
const WHAT: &str = "image";

/// Where the pages begin in the image of a memory of so many bytes.
pub(crate) fn pages_offset(memory_size: u64) -> u64 {
    let table = memory_size / PAGE_SIZE as u64 * 8;
    (image::TABLE_AT + table).next_multiple_of(image::PAGES_ALIGN)
}

/// The first block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fixed {
    pub memory_size: u64,
    pub lineage: [u8; 16],
    pub description_len: usize,
    pub description_checksum: u64,
}

impl Fixed {
    pub(crate) fn pages(&self) -> u64 {
        self.memory_size / PAGE_SIZE as u64
    }

    pub(crate) fn read(file: &impl Storage) -> Result<Fixed, Error> {
        let mut block = ZEROS;
        file.read_at(0, &mut block).map_err(Error::reading(Damage::Header(WHAT)))?;
        check_version(&block, image::IMAGE, WHAT)?;
        Fixed::decode(&block).ok_or_else(|| Damage::Header(WHAT).into())
    }

    fn decode(block: &Block) -> Option<Fixed> {
        let fixed = Fixed {
            memory_size: get_u64(block, image::MEMORY_SIZE),
            lineage: get_bytes(block, image::LINEAGE),
            description_len: usize::try_from(get_u32(block, image::DESCRIPTION_LEN)).ok()?,
            description_checksum: get_u64(block, image::DESCRIPTION_CHECKSUM),
        };
        pages_of(fixed.memory_size)?;
        let right = get_u64(block, image::CHECKSUM) == xxh3_64(&block[..image::CHECKSUM])
            && get_bytes(block, image::PAGE_SIZE) == PAGE_SIZE_FIELD
            && get_u64(block, image::PAGES_OFFSET) == pages_offset(fixed.memory_size)
            && fixed.description_len <= DESCRIPTION_MAX;
        right.then_some(fixed)
    }

    /// Writes the block and the description that it is about.
    pub(crate) fn write(file: &impl Storage, memory_size: u64, lineage: [u8; 16], text: &[u8]) -> Result<Fixed, Error> {
        let description_len = u32::try_from(text.len()).unwrap_or(u32::MAX);
        let mut block = ZEROS;
        put_bytes(&mut block, image::MAGIC, image::IMAGE);
        put_u32(&mut block, image::VERSION, VERSION);
        put_bytes(&mut block, image::PAGE_SIZE, PAGE_SIZE_FIELD);
        put_u64(&mut block, image::MEMORY_SIZE, memory_size);
        put_bytes(&mut block, image::LINEAGE, lineage);
        put_u32(&mut block, image::DESCRIPTION_LEN, description_len);
        put_u64(&mut block, image::DESCRIPTION_CHECKSUM, xxh3_64(text));
        put_u64(&mut block, image::PAGES_OFFSET, pages_offset(memory_size));
        let checksum = xxh3_64(&block[..image::CHECKSUM]);
        put_u64(&mut block, image::CHECKSUM, checksum);
        let slices = [IoSlice::new(&block), IoSlice::new(text)];
        file.write_at(0, &slices).map_err(Error::storage("cannot write the header of an image"))?;
        Ok(Fixed { memory_size, lineage, description_len: text.len(), description_checksum: xxh3_64(text) })
    }
}

const _: () = assert!(image::DESCRIPTION_AT == crate::format::BLOCK_SIZE as u64);
