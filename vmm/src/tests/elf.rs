//! A writer of small ELF files, good and bad ones.

use std::fs::File;
use std::io::Write;

use rustix::fs::{MemfdFlags, memfd_create};

pub(crate) const EXECUTE: u32 = 1;
pub(crate) const WRITE: u32 = 2;
pub(crate) const READ: u32 = 4;

const HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;

struct Segment {
    kind: u32,
    address: u64,
    flags: u32,
    bytes: Vec<u8>,
    memory_size: u64,
}

pub(crate) struct Elf {
    entry: u64,
    segments: Vec<Segment>,
}

impl Elf {
    pub(crate) fn new(entry: u64) -> Self {
        Self { entry, segments: Vec::new() }
    }

    pub(crate) fn segment(self, address: u64, flags: u32, bytes: &[u8]) -> Self {
        self.larger_segment(address, flags, bytes, bytes.len() as u64)
    }

    /// A segment that goes on beyond its bytes.
    pub(crate) fn larger_segment(mut self, address: u64, flags: u32, bytes: &[u8], memory_size: u64) -> Self {
        self.segments.push(Segment { kind: 1, address, flags, bytes: bytes.to_vec(), memory_size });
        self
    }

    /// A program header of another type than `PT_LOAD`.
    pub(crate) fn other(mut self, kind: u32) -> Self {
        self.segments.push(Segment { kind, address: 0, flags: READ, bytes: vec![0; 8], memory_size: 8 });
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0; usize::from(HEADER) + usize::from(PROGRAM_HEADER) * self.segments.len()];
        out[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(16, &2u16.to_le_bytes());
        put(18, &62u16.to_le_bytes());
        put(20, &1u32.to_le_bytes());
        put(24, &self.entry.to_le_bytes());
        put(32, &u64::from(HEADER).to_le_bytes());
        put(52, &HEADER.to_le_bytes());
        put(54, &PROGRAM_HEADER.to_le_bytes());
        put(56, &u16::try_from(self.segments.len()).unwrap().to_le_bytes());
        for (index, segment) in self.segments.iter().enumerate() {
            let offset = out.len() as u64;
            let at = usize::from(HEADER) + index * usize::from(PROGRAM_HEADER);
            let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
            put(at, &segment.kind.to_le_bytes());
            put(at + 4, &segment.flags.to_le_bytes());
            for (place, value) in [
                (8, offset),
                (16, segment.address),
                (24, segment.address),
                (32, segment.bytes.len() as u64),
                (40, segment.memory_size),
                (48, 1),
            ] {
                put(at + place, &value.to_le_bytes());
            }
            out.extend_from_slice(&segment.bytes);
        }
        out
    }

    pub(crate) fn file(&self) -> File {
        file(&self.bytes())
    }
}

/// A file with these bytes.
pub(crate) fn file(bytes: &[u8]) -> File {
    let mut file = File::from(memfd_create("program", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(bytes).unwrap();
    file
}
