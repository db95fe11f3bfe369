//! The first block of a segment, and of an export.

use crate::error::{Damage, Error};
use crate::field::{Block, ZEROS, get_bytes, get_u32, get_u64, put_bytes, put_u32, put_u64};
use crate::format::{PAGE_SIZE, VERSION, header};
use crate::page::pages_of;
use crate::storage::Storage;
use xxhash_rust::xxh3::xxh3_64;

/// What a segment says of itself in its first block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Bytes of memory: a multiple of the page size, 64 GiB at most.
    pub memory_size: u64,
    /// Identity of the lineage.
    pub lineage: [u8; 16],
    /// Number of the segment in it.
    pub number: u64,
    /// A random number of its own. It enters every checksum, so that what the file's blocks held before is never taken
    /// for something written to this segment.
    pub salt: u64,
    /// All generations in the segment are greater.
    pub floor: u64,
}

/// Which of the two kinds of file begins with such a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    Segment,
    Export,
}

impl FileKind {
    fn magic(self) -> [u8; 8] {
        match self {
            FileKind::Segment => header::SEGMENT,
            FileKind::Export => header::EXPORT,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            FileKind::Segment => "log segment",
            FileKind::Export => "export",
        }
    }
}

impl SegmentHeader {
    pub(crate) fn pages(&self) -> u64 {
        self.memory_size / PAGE_SIZE as u64
    }

    pub(crate) fn encode(&self, kind: FileKind) -> Block {
        let mut block = ZEROS;
        put_bytes(&mut block, header::MAGIC, kind.magic());
        put_u32(&mut block, header::VERSION, VERSION);
        put_bytes(&mut block, header::PAGE_SIZE, PAGE_SIZE_FIELD);
        put_u64(&mut block, header::MEMORY_SIZE, self.memory_size);
        put_bytes(&mut block, header::LINEAGE, self.lineage);
        put_u64(&mut block, header::NUMBER, self.number);
        put_u64(&mut block, header::SALT, self.salt);
        put_u64(&mut block, header::FLOOR, self.floor);
        let checksum = xxh3_64(&block[..header::CHECKSUM]);
        put_u64(&mut block, header::CHECKSUM, checksum);
        block
    }

    pub(crate) fn decode(block: &Block, kind: FileKind) -> Result<SegmentHeader, Error> {
        check_version(block, kind.magic(), kind.name())?;
        let header = SegmentHeader {
            memory_size: get_u64(block, header::MEMORY_SIZE),
            lineage: get_bytes(block, header::LINEAGE),
            number: get_u64(block, header::NUMBER),
            salt: get_u64(block, header::SALT),
            floor: get_u64(block, header::FLOOR),
        };
        let right = get_u64(block, header::CHECKSUM) == xxh3_64(&block[..header::CHECKSUM])
            && get_bytes(block, header::PAGE_SIZE) == PAGE_SIZE_FIELD
            && pages_of(header.memory_size).is_some();
        if right { Ok(header) } else { Err(Damage::Header(kind.name()).into()) }
    }

    /// Reads the header of a segment.
    pub(crate) fn read(file: &impl Storage) -> Result<SegmentHeader, Error> {
        let mut block = ZEROS;
        file.read_at(0, &mut block).map_err(Error::reading(Damage::Header(FileKind::Segment.name())))?;
        SegmentHeader::decode(&block, FileKind::Segment)
    }
}

/// The page size as it stands in a header.
pub(crate) const PAGE_SIZE_FIELD: [u8; 4] = 4096_u32.to_le_bytes();
const _: () = assert!(PAGE_SIZE == 4096);

/// Checks magic number and version, which come before everything else: a later version may have moved all the rest.
pub(crate) fn check_version(block: &Block, magic: [u8; 8], what: &'static str) -> Result<(), Error> {
    if get_bytes(block, header::MAGIC) != magic {
        return Err(Damage::Header(what).into());
    }
    match get_u32(block, header::VERSION) {
        VERSION => Ok(()),
        found => Err(Error::Version { what, found }),
    }
}
