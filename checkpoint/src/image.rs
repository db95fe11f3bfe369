//! Images: a complete memory at one generation, in a sparse file that can be mapped.

pub(crate) mod builder;
mod layout;
pub(crate) mod slot;
pub(crate) mod table;

use std::io::IoSlice;

use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Damage, Error};
use crate::format::{PAGE_SIZE, image};
use crate::page::page_checksum;
use crate::segment::record::Stamp;
use crate::storage::Storage;
pub(crate) use layout::{Fixed, pages_offset};
pub use slot::Phase;
pub(crate) use slot::Slot;
use table::{Table, Whole};

/// What is told of how far something is: pages done, of how many.
pub type Progress<'a> = dyn FnMut(u64, u64) + 'a;

/// Pages that are read at a time: 512 KiB.
pub(crate) const STRIDE: u64 = 128;

/// What an image says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageInfo {
    /// Bytes of memory.
    pub memory_size: u64,
    /// Identity of the lineage.
    pub lineage: [u8; 16],
    /// What the image is.
    pub phase: Phase,
    /// The generation that it is at; in phase `Migrating` the one that it comes from.
    pub stamp: Stamp,
    /// Where in the file memory begins: a multiple of 2 MiB.
    pub pages_offset: u64,
    /// Whether both copies of this are intact. One is enough.
    pub both_slots: bool,
}

/// An image, its header checked. Its pages are not: [`Image::verify`] does that.
#[derive(Debug)]
pub struct Image<F> {
    file: F,
    fixed: Fixed,
    slot: Slot,
    /// Index of the slot that `slot` was read from.
    newest: usize,
    both_slots: bool,
}

impl<F: Storage> Image<F> {
    /// Reads the header of an image.
    pub fn open(file: F) -> Result<Image<F>, Error> {
        let fixed = Fixed::read(&file)?;
        let slots = image::SLOTS_AT.map(|at| Slot::read(&file, at));
        let [first, second] = slots;
        let both_slots = first.is_some() && first == second;
        let second_is_newer = match (&first, &second) {
            (Some(first), Some(second)) => second.sequence > first.sequence,
            (first, _) => first.is_none(),
        };
        let slot = if second_is_newer { second } else { first }.ok_or(Damage::Slots)?;
        // What is mapped must be there to its end.
        let size = file.size().map_err(Error::storage("cannot tell the length of an image"))?;
        if size < pages_offset(fixed.memory_size) + fixed.memory_size {
            return Err(Damage::ImageLength.into());
        }
        Ok(Image { file, fixed, slot, newest: second_is_newer.into(), both_slots })
    }

    /// What the image says of itself.
    pub fn info(&self) -> ImageInfo {
        ImageInfo {
            memory_size: self.fixed.memory_size,
            lineage: self.fixed.lineage,
            phase: self.slot.phase,
            stamp: self.slot.stamp,
            pages_offset: pages_offset(self.fixed.memory_size),
            both_slots: self.both_slots,
        }
    }

    /// The description that it was made with.
    pub fn description(&self) -> Result<Vec<u8>, Error> {
        let mut description = vec![0; self.fixed.description_len];
        let damaged = Error::reading(Damage::Description);
        self.file.read_at(image::DESCRIPTION_AT, &mut description).map_err(damaged)?;
        let right = xxh3_64(&description) == self.fixed.description_checksum;
        if right { Ok(description) } else { Err(Damage::Description.into()) }
    }

    /// The caller's state at the image's generation; none in phase `Migrating`.
    pub fn state(&self) -> &[u8] {
        &self.slot.state
    }

    /// Reads the whole file and compares each page with the table, and the table with the header. Pages that `skip` says
    /// are left out. In phase `Migrating`, `skip` must name exactly the pages that the generations up to the target
    /// contain; [`crate::Lineage::verify_image`] does.
    pub fn verify(&self, skip: &dyn Fn(u64) -> bool, progress: &mut Progress<'_>) -> Result<(), Error> {
        self.description()?;
        let whole = match self.slot.phase {
            Phase::At(_) => Whole::All,
            Phase::Migrating { .. } => Whole::Without(skip),
        };
        let table = self.table(&whole)?;
        let pages = self.fixed.pages();
        let mut data = Vec::new();
        for first in (0..pages).step_by(usize::try_from(STRIDE).unwrap_or(1)) {
            let count = STRIDE.min(pages - first);
            self.read_pages(first, count, &mut data)?;
            for (page, bytes) in (first..).zip(data.chunks(PAGE_SIZE)) {
                if !skip(page) && page_checksum(bytes) != table.get(page) {
                    return Err(Damage::Page(page).into());
                }
            }
            progress(first + count, pages);
        }
        Ok(())
    }

    pub(crate) fn file(&self) -> &F {
        &self.file
    }

    pub(crate) fn slot(&self) -> &Slot {
        &self.slot
    }

    pub(crate) fn pages(&self) -> u64 {
        self.fixed.pages()
    }

    /// The table, checked against the header. During a migration nobody knows the entries of the pages that it writes.
    pub(crate) fn table(&self, whole: &Whole<'_>) -> Result<Table, Error> {
        let table = Table::read(&self.file, self.fixed.pages(), whole)?;
        let right = table.checksum() == self.slot.table_checksum;
        if right { Ok(table) } else { Err(Damage::Table.into()) }
    }

    /// Where a page is in the file.
    pub(crate) fn offset(&self, page: u64) -> u64 {
        pages_offset(self.fixed.memory_size) + page * PAGE_SIZE as u64
    }

    /// Reads pages, which are within memory, into `data`.
    pub(crate) fn read_pages(&self, first: u64, count: u64, data: &mut Vec<u8>) -> Result<(), Error> {
        data.resize(usize::try_from(count).unwrap_or(0) * PAGE_SIZE, 0);
        self.file.read_at(self.offset(first), data).map_err(Error::reading(Damage::Page(first)))
    }

    /// Makes both slots say the same and durable, the older first: at every instant one of them is whole, and while pages
    /// change neither says anything else.
    pub(crate) fn set_slot(&mut self, mut slot: Slot) -> Result<(), Error> {
        slot.sequence = self.slot.sequence.checked_add(1).ok_or(Damage::Slots)?;
        let mut places = image::SLOTS_AT;
        if self.newest == 0 {
            places.reverse();
        }
        for at in places {
            let (block, state) = slot.encode(at);
            let slices = [IoSlice::new(&block), IoSlice::new(state)];
            self.file.write_at(at, &slices).map_err(Error::storage("cannot write the header of the image"))?;
            self.file.sync_data().map_err(Error::storage("cannot sync the header of the image"))?;
        }
        (self.slot, self.both_slots) = (slot, true);
        Ok(())
    }
}
