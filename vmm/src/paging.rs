//! Page tables (Intel SDM volume 3, 4.5; AMD64 manual volume 2, 5.3): four levels, identity-mapped, fixed for life.
//!
//! Nothing is writable and executable, because [`Access`] cannot say so. Large pages are used wherever a region covers
//! one. The tables are outside of everything that is mapped. Accessed and dirty bits are set from the start, so that the
//! processor never writes to a table.

use std::collections::BTreeMap;
use std::ops::Range;

use district_protocol::layout::PAGE_SIZE;
use thiserror::Error;

use crate::loader::Access;
use crate::memory::{MemoryError, Ram};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

/// Tables allow everything; the entries for pages decide.
const TABLE: u64 = PRESENT | WRITABLE | USER | ACCESSED;
/// The level of the root; level 0 maps 4 KiB pages, level 1 large pages of 2 MiB.
const ROOT_LEVEL: u32 = 3;
const LARGE_LEVEL: u32 = 1;

/// Who may use a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ring {
    /// The shim and the processor.
    Zero,
    /// The program (and ring 0).
    Three,
}

/// A mapped piece of the address space, in whole pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) addresses: Range<u64>,
    pub(crate) access: Access,
    pub(crate) ring: Ring,
}

impl Region {
    fn flags(&self) -> u64 {
        let access = match self.access {
            Access::Read => NO_EXECUTE,
            Access::ReadWrite => NO_EXECUTE | WRITABLE,
            Access::ReadExecute => 0,
        };
        let user = if self.ring == Ring::Three { USER } else { 0 };
        PRESENT | ACCESSED | DIRTY | access | user
    }
}

/// Why page tables could not be written.
#[derive(Debug, Error)]
pub(crate) enum PagingError {
    #[error("page tables need more than the {0} bytes set aside for them")]
    Room(u64),
    #[error("page tables: {0}")]
    Memory(#[from] MemoryError),
}

/// Bytes that one entry of a table at `level` covers, as a power of two.
const fn shift(level: u32) -> u32 {
    12 + 9 * level
}

/// How many tables it takes to map `regions`, which are in ascending order and do not overlap.
pub(crate) fn tables_needed(regions: &[Region]) -> u64 {
    let mut count = 1;
    for level in 1..=ROOT_LEVEL {
        let unit = 1 << shift(level);
        // The first entry of this level that is not known to point to a table.
        let mut fresh = 0;
        for Range { start, end } in regions.iter().map(|region| &region.addresses) {
            let (first, last) = (start / unit, (end - 1) / unit);
            if level > LARGE_LEVEL {
                count += (last + 1).saturating_sub(first.max(fresh));
                fresh = last + 1;
                continue;
            }
            // Entries that the region fills are large pages; only its ends may need a table.
            let ends = [(first, start % unit != 0 || end - start < unit), (last, end % unit != 0)];
            for (entry, _) in ends.into_iter().filter(|(_, partial)| *partial) {
                if entry >= fresh {
                    count += 1;
                    fresh = entry + 1;
                }
            }
        }
    }
    count
}

/// Writes the page tables for `regions` to `room`, the root first.
pub(crate) fn write(ram: &Ram, room: &Range<u64>, regions: &[Region]) -> Result<(), PagingError> {
    let mut tables = Tables { ram, room, next: room.start, children: BTreeMap::new() };
    let root = tables.allocate()?;
    for region in regions {
        tables.map(root, ROOT_LEVEL, region.addresses.clone(), region.flags())?;
    }
    Ok(())
}

/// Page tables as they grow; fresh RAM is zero, and a zero entry maps nothing.
struct Tables<'a> {
    ram: &'a Ram,
    room: &'a Range<u64>,
    next: u64,
    /// Entry -> the table that it points to. To read the entries instead would put the kernel's page of zeros into RAM
    /// first, and taking that away again takes longer than all the rest.
    children: BTreeMap<u64, u64>,
}

impl Tables<'_> {
    fn allocate(&mut self) -> Result<u64, PagingError> {
        let table = self.next;
        if table + PAGE_SIZE > self.room.end {
            return Err(PagingError::Room(self.room.end - self.room.start));
        }
        self.next += PAGE_SIZE;
        Ok(table)
    }

    /// Maps what of `addresses` one table covers. Recursion goes down one level at a time, so it ends.
    fn map(&mut self, table: u64, level: u32, addresses: Range<u64>, flags: u64) -> Result<(), PagingError> {
        let unit = 1u64 << shift(level);
        let index = |address: u64| (address >> shift(level)) % 512;
        let mut leaves: Vec<u8> = Vec::new();
        let first = index(addresses.start);
        let mut at = addresses.start;
        while at < addresses.end {
            let next = (at / unit + 1).saturating_mul(unit).min(addresses.end);
            let slot = table + index(at) * 8;
            if level == 0 {
                leaves.extend_from_slice(&(at | flags).to_le_bytes());
            } else if level == LARGE_LEVEL && next - at == unit {
                self.ram.write(slot, &(at | flags | LARGE).to_le_bytes())?;
            } else {
                let child = self.child(slot)?;
                self.map(child, level - 1, at..next, flags)?;
            }
            at = next;
        }
        Ok(self.ram.write(table + first * 8, &leaves)?)
    }

    /// The table that the entry at `slot` points to, made if there is none.
    fn child(&mut self, slot: u64) -> Result<u64, PagingError> {
        if let Some(child) = self.children.get(&slot) {
            return Ok(*child);
        }
        let child = self.allocate()?;
        self.ram.write(slot, &(child | TABLE).to_le_bytes())?;
        self.children.insert(slot, child);
        Ok(child)
    }
}
