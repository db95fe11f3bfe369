//! The memory that the district shares with the broker. The other side may change any byte of it at any time, so
//! nothing here hands out a reference: every access is one copy in or out.

use core::ptr;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use alloc::vec::Vec;

use crate::machine;

/// The window. Offsets are in bytes from its beginning.
#[derive(Debug)]
pub(super) struct Window {
    memory: *mut u8,
    address: u64,
    size: u64,
}

impl Window {
    /// The window at this guest-physical address, as the boot page names it.
    pub(super) fn new(address: u64, size: u64) -> Self {
        Window { memory: machine::memory(address), address, size }
    }

    /// What the device calls the place at `offset`.
    pub(super) fn address(&self, offset: u64) -> u64 {
        self.address + offset
    }

    /// The place of `len` bytes at `offset`. All offsets are this library's own, so one outside of the window is an
    /// error in it, and ends the program.
    fn at(&self, offset: u64, len: usize) -> *mut u8 {
        machine::step();
        assert!(offset.checked_add(len as u64).is_some_and(|end| end <= self.size), "outside of the window");
        #[allow(clippy::cast_possible_truncation)] // x86-64: both have 64 bits
        self.memory.wrapping_add(offset as usize)
    }

    fn atomic_u16(&self, offset: u64) -> &AtomicU16 {
        let place = self.at(offset, 2);
        assert!(place.cast::<u16>().is_aligned());
        // SAFETY: aligned, inside of the window, which is mapped for the district's whole life, and the other side
        // accesses ring indices atomically too.
        unsafe { AtomicU16::from_ptr(place.cast()) }
    }

    /// Reads a ring index, and after it whatever the other side wrote before it.
    pub(super) fn load_u16(&self, offset: u64) -> u16 {
        self.atomic_u16(offset).load(Ordering::Acquire)
    }

    /// Writes a ring index, after whatever was written before it.
    pub(super) fn store_u16(&self, offset: u64, value: u16) {
        self.atomic_u16(offset).store(value, Ordering::Release);
    }

    /// Writes a counter that the host reads when the district has ended.
    pub(super) fn store_u64(&self, offset: u64, value: u64) {
        let place = self.at(offset, 8);
        assert!(place.cast::<u64>().is_aligned());
        // SAFETY: as for ring indices.
        unsafe { AtomicU64::from_ptr(place.cast()) }.store(value, Ordering::SeqCst);
    }

    /// Copies `bytes` to `offset`.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) {
        let place = self.at(offset, bytes.len());
        // SAFETY: the destination is inside of the window, which nothing else in the program points into; the source
        // is private memory. The broker reads such bytes only after a later `store_u16`.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) }
    }

    /// Zeroes `len` bytes at `offset`.
    pub(super) fn clear(&self, offset: u64, len: usize) {
        // SAFETY: inside of the window, and nothing else in the program points into it.
        unsafe { ptr::write_bytes(self.at(offset, len), 0, len) }
    }

    /// Copies bytes at `offset`, a multiple of 4, out. They may be anything, but each is read once: what is checked is
    /// what is used.
    pub(super) fn read<const N: usize>(&self, offset: u64) -> [u8; N] {
        const { assert!(N.is_multiple_of(4)) };
        let place = self.at(offset, N).cast::<u32>();
        assert!(place.is_aligned());
        let mut bytes = [0; N];
        for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
            machine::step();
            // SAFETY: aligned and inside of the window, which is mapped for the district's whole life. The broker has no
            // business writing there after the `load_u16` that made the caller look; if it does, the value is
            // unspecified and nothing else.
            let word = unsafe { place.wrapping_add(index).read_volatile() };
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Appends `len` bytes at `offset` to `out`. They may be anything.
    pub(super) fn read_into(&self, offset: u64, len: usize, out: &mut Vec<u8>) {
        out.reserve(len);
        // SAFETY: the source is inside of the window, and may change meanwhile as for `read`; nothing looks at these bytes
        // but the program. The destination is the spare capacity that `reserve` has made.
        unsafe { ptr::copy_nonoverlapping(self.at(offset, len), out.spare_capacity_mut().as_mut_ptr().cast(), len) }
        // SAFETY: the capacity is there, and the bytes up to the new length have just been written.
        unsafe { out.set_len(out.len() + len) }
    }
}
