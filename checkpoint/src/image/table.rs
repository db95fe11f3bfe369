//! The checksum of each page of an image.

use std::collections::BTreeSet;
use std::io::IoSlice;

use xxhash_rust::xxh3::Xxh3;

use crate::error::{Damage, Error};
use crate::format::{BLOCK_SIZE, image};
use crate::storage::Storage;

/// Entries in a block.
const PER_BLOCK: u64 = (BLOCK_SIZE / 8) as u64;

/// Which entries count.
pub(crate) enum Whole<'a> {
    /// All.
    All,
    /// Those of these pages count as zero.
    Without(&'a dyn Fn(u64) -> bool),
}

/// The table in memory: 8 bytes a page, little-endian as in the file.
#[derive(Debug)]
pub(crate) struct Table {
    entries: Vec<[u8; 8]>,
    /// Blocks that are not as in the file.
    changed: BTreeSet<u64>,
}

fn index(page: u64) -> usize {
    usize::try_from(page).unwrap_or(usize::MAX)
}

impl Table {
    /// The table of a memory that is all zero.
    pub(crate) fn new(pages: u64) -> Table {
        Table { entries: vec![[0; 8]; index(pages)], changed: BTreeSet::new() }
    }

    /// Reads the table. Nothing is checked yet.
    pub(crate) fn read(file: &impl Storage, pages: u64, whole: &Whole<'_>) -> Result<Table, Error> {
        let mut table = Table::new(pages);
        let bytes = table.entries.as_flattened_mut();
        file.read_at(image::TABLE_AT, bytes).map_err(Error::reading(Damage::Table))?;
        if let Whole::Without(left_out) = whole {
            for (page, entry) in (0..).zip(&mut table.entries) {
                if left_out(page) {
                    *entry = [0; 8];
                }
            }
        }
        Ok(table)
    }

    pub(crate) fn get(&self, page: u64) -> u64 {
        self.entries.get(index(page)).map_or(0, |entry| u64::from_le_bytes(*entry))
    }

    pub(crate) fn set(&mut self, page: u64, checksum: u64) {
        if let Some(entry) = self.entries.get_mut(index(page)) {
            *entry = checksum.to_le_bytes();
            self.changed.insert(page / PER_BLOCK);
        }
    }

    /// Checksum of the whole table.
    pub(crate) fn checksum(&self) -> u64 {
        self.checksum_without(&|_| false)
    }

    /// Checksum with zero in place of the entries of some pages.
    pub(crate) fn checksum_without(&self, left_out: &dyn Fn(u64) -> bool) -> u64 {
        let mut hash = Xxh3::new();
        let mut block = [[0; 8]; BLOCK_SIZE / 8];
        let mut page = 0;
        for entries in self.entries.chunks(block.len()) {
            for (entry, copy) in entries.iter().zip(&mut block) {
                *copy = if left_out(page) { [0; 8] } else { *entry };
                page += 1;
            }
            hash.update(block[..entries.len()].as_flattened());
        }
        hash.digest()
    }

    /// Writes the blocks that have changed.
    pub(crate) fn write(&mut self, file: &impl Storage) -> Result<(), Error> {
        for block in std::mem::take(&mut self.changed) {
            let entries = self.entries.chunks(BLOCK_SIZE / 8).nth(index(block)).unwrap_or_default();
            let at = image::TABLE_AT + block * BLOCK_SIZE as u64;
            file.write_at(at, &[IoSlice::new(entries.as_flattened())])
                .map_err(Error::storage("cannot write the table of an image"))?;
        }
        Ok(())
    }
}
