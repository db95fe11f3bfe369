//! A district's program: a static ELF executable (ELF specification 1.2; System V ABI, AMD64 supplement).
//!
//! [`Image::read`] is the only step between a file that anybody may have written and addresses that the rest of the
//! crate relies on. What it returns keeps: segments in ascending order, none sharing a byte with another, none sharing a
//! page with one of other permissions, none writable and executable, all within what a guest may be given.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use district_protocol::layout::{PAGE_SIZE, PROGRAM_BASE, RAM_BASE, RAM_SIZE_MAX};
use object::LittleEndian;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};
use thiserror::Error;

use crate::memory::{MemoryError, Ram};

/// Only the first bytes of a file may hold its program headers; real ones need a few hundred.
const HEADERS_MAX: usize = 64 << 10;

type Header = elf::FileHeader64<LittleEndian>;

/// Why a file is not a district's program. The fix is always in how the program was built.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageError {
    /// Another kind of file.
    #[error("not an ELF file")]
    NotElf,
    /// 32 bits.
    #[error("ELF class {0}: districts run 64-bit programs")]
    Class(u8),
    /// Big-endian.
    #[error("ELF data encoding {0}: districts run little-endian programs")]
    Encoding(u8),
    /// Another processor's.
    #[error("ELF machine {0}: districts run x86-64 programs (machine 62)")]
    Machine(u16),
    /// A position-independent executable, a library or an object file.
    #[error(
        "ELF type {0} is not a fixed-address executable: link with `-static -no-pie`, in Rust with `-C relocation-model=static`"
    )]
    Type(u16),
    /// It needs a dynamic loader.
    #[error("the program asks for a dynamic loader: link with `-static -no-pie`")]
    Dynamic,
    /// The header contradicts itself.
    #[error("malformed ELF file: {0}")]
    Malformed(&'static str),
    /// Nothing to load.
    #[error("the program has no loadable segment")]
    Empty,
    /// A segment where no segment may be.
    #[error("segment {0:#x}..{1:#x} is outside {base:#x}..{end:#x}", base = PROGRAM_BASE, end = RAM_BASE + RAM_SIZE_MAX)]
    Outside(u64, u64),
    /// Two segments at one place, or on one page with different permissions.
    #[error("segments at {0:#x} and {1:#x} overlap, or share a page with different permissions")]
    Overlap(u64, u64),
    /// A segment that could be written and then run.
    #[error("segment at {0:#x} is writable and executable")]
    WritableCode(u64),
    /// A segment that nobody could use.
    #[error("segment at {0:#x} has no permission at all")]
    NoPermission(u64),
    /// The entry point is not code.
    #[error("entry point {0:#x} is not in an executable segment")]
    Entry(u64),
    /// The file ends before what its headers promise.
    #[error("file of {found} bytes is cut off: segment at {address:#x} ends at {needed}")]
    Truncated {
        /// Where the segment goes.
        address: u64,
        /// Bytes that the file has.
        found: u64,
        /// Bytes that it would need.
        needed: u64,
    },
    /// The file cannot be read.
    #[error("cannot read the program: {0}")]
    Io(std::io::ErrorKind),
}

/// What ring 3 may do with a piece of memory. There is no way to say "write and execute".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    Read,
    /// Read and write.
    ReadWrite,
    /// Read and execute.
    ReadExecute,
}

/// One loadable piece of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where it goes; not aligned to anything.
    pub addresses: Range<u64>,
    /// What the program may do with it.
    pub access: Access,
    file_offset: u64,
    file_size: u64,
}

impl Segment {
    /// The pages that the segment touches.
    pub fn pages(&self) -> Range<u64> {
        self.addresses.start & !(PAGE_SIZE - 1)..self.addresses.end.next_multiple_of(PAGE_SIZE)
    }
}

/// A checked program; its bytes are still in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Address of the first instruction, in an executable segment.
    pub entry: u64,
    /// Never empty, in ascending order.
    pub segments: Vec<Segment>,
}

impl Image {
    /// Reads and checks a program's headers.
    pub fn read(file: &File) -> Result<Self, ImageError> {
        let io = |error: std::io::Error| ImageError::Io(error.kind());
        let length = file.metadata().map_err(io)?.len();
        let mut start = vec![0; usize::try_from(length.min(PAGE_SIZE)).unwrap_or(0)];
        file.read_exact_at(&mut start, 0).map_err(io)?;
        let end = headers_end(&start)?;
        if end > start.len() {
            start.resize(end, 0);
            file.read_exact_at(&mut start, 0).map_err(|_| ImageError::Malformed("no program headers where it says"))?;
        }
        Self::parse(&start, length)
    }

    /// Checks the headers in `start`, the first bytes of a file of `length` bytes.
    fn parse(start: &[u8], length: u64) -> Result<Self, ImageError> {
        let header = header(start)?;
        let headers = header
            .program_headers(LittleEndian, start)
            .map_err(|_| ImageError::Malformed("no program headers where it says"))?;
        if headers.iter().any(|header| header.p_type(LittleEndian) == elf::PT_INTERP) {
            return Err(ImageError::Dynamic);
        }
        let mut segments = Vec::new();
        for header in headers.iter().filter(|header| header.p_type(LittleEndian) == elf::PT_LOAD) {
            segments.extend(segment(header, length)?);
        }
        segments.sort_by_key(|segment| segment.addresses.start);
        for pair in segments.windows(2) {
            let (low, high) = (&pair[0], &pair[1]);
            let shared_page = low.pages().end > high.pages().start && low.access != high.access;
            if low.addresses.end > high.addresses.start || shared_page {
                return Err(ImageError::Overlap(low.addresses.start, high.addresses.start));
            }
        }
        let entry = header.e_entry(LittleEndian);
        if segments.is_empty() {
            return Err(ImageError::Empty);
        }
        if !segments.iter().any(|it| it.access == Access::ReadExecute && it.addresses.contains(&entry)) {
            return Err(ImageError::Entry(entry));
        }
        Ok(Self { entry, segments })
    }

    /// First page beyond the last segment.
    pub fn end(&self) -> u64 {
        self.segments.last().map_or(PROGRAM_BASE, |segment| segment.pages().end)
    }

    /// Copies the segments into RAM. What is not in the file is left alone: fresh RAM is zero.
    pub(crate) fn load(&self, file: &File, ram: &Ram) -> Result<(), MemoryError> {
        for segment in &self.segments {
            ram.read_file(segment.addresses.start, file, segment.file_offset, segment.file_size)?;
        }
        Ok(())
    }
}

/// The file header, if it is one of a program that could run here.
fn header(start: &[u8]) -> Result<&Header, ImageError> {
    if start.len() < 6 || start[..4] != elf::ELFMAG {
        return Err(ImageError::NotElf);
    }
    if start[4] != elf::ELFCLASS64.0 {
        return Err(ImageError::Class(start[4]));
    }
    if start[5] != elf::ELFDATA2LSB.0 {
        return Err(ImageError::Encoding(start[5]));
    }
    let header = Header::parse(start).map_err(|_| ImageError::Malformed("no complete file header"))?;
    if header.e_machine(LittleEndian) != elf::EM_X86_64 {
        return Err(ImageError::Machine(header.e_machine(LittleEndian).0));
    }
    if header.e_type(LittleEndian) != elf::ET_EXEC {
        return Err(ImageError::Type(header.e_type(LittleEndian).0));
    }
    Ok(header)
}

/// Where the program headers end in the file, at most [`HEADERS_MAX`].
fn headers_end(start: &[u8]) -> Result<usize, ImageError> {
    let header = header(start)?;
    let bytes = u64::from(header.e_phnum(LittleEndian)) * u64::from(header.e_phentsize(LittleEndian));
    header
        .e_phoff(LittleEndian)
        .checked_add(bytes)
        .and_then(|end| usize::try_from(end).ok())
        .filter(|&end| end <= HEADERS_MAX)
        .ok_or(ImageError::Malformed("program headers are far into the file"))
}

/// The segment that a `PT_LOAD` header describes; none if it is empty.
fn segment(header: &elf::ProgramHeader64<LittleEndian>, length: u64) -> Result<Option<Segment>, ImageError> {
    let address = header.p_vaddr(LittleEndian);
    let (size, file_size) = (header.p_memsz(LittleEndian), header.p_filesz(LittleEndian));
    let file_offset = header.p_offset(LittleEndian);
    if file_size > size {
        return Err(ImageError::Malformed("a segment has more bytes in the file than in memory"));
    }
    if size == 0 {
        return Ok(None);
    }
    let end = address.checked_add(size).filter(|&end| end <= RAM_BASE + RAM_SIZE_MAX);
    let end = end.ok_or(ImageError::Outside(address, address.saturating_add(size)))?;
    if address < PROGRAM_BASE {
        return Err(ImageError::Outside(address, end));
    }
    let needed = file_offset.saturating_add(file_size);
    if needed > length {
        return Err(ImageError::Truncated { address, found: length, needed });
    }
    let flags = header.p_flags(LittleEndian);
    let has = |flag| flags & flag != elf::ProgramFlags(0);
    let access = match (has(elf::PF_W), has(elf::PF_X)) {
        (true, true) => return Err(ImageError::WritableCode(address)),
        (true, false) => Access::ReadWrite,
        (false, true) => Access::ReadExecute,
        (false, false) if has(elf::PF_R) => Access::Read,
        (false, false) => return Err(ImageError::NoPermission(address)),
    };
    Ok(Some(Segment { addresses: address..end, access, file_offset, file_size }))
}

const _: () = assert!(HEADERS_MAX as u64 >= PAGE_SIZE);

#[cfg(test)]
mod tests;
