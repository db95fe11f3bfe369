//! Writing the pages of an image.

use std::io::IoSlice;

use super::{Fixed, Image, Phase, Slot, Table, pages_offset};
use crate::error::Error;
use crate::format::{DESCRIPTION_MAX, PAGE_SIZE};
use crate::page::{Content, page_checksum};
use crate::segment::check_size;
use crate::segment::record::Stamp;
use crate::storage::{Directory, Storage};

/// What an image is made as.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// Identity of the lineage that it belongs to.
    pub lineage: [u8; 16],
    /// What the caller wants to know of it, [`DESCRIPTION_MAX`] bytes at most.
    pub description: &'a [u8],
}

/// Puts content at a place in an image: pages with data are written, others become holes. The table follows.
pub(crate) fn put<F: Storage>(
    file: &F,
    pages_at: u64,
    table: &mut Table,
    first: u64,
    content: Content<'_>,
) -> Result<(), Error> {
    let offset = |page: u64| pages_at + page * PAGE_SIZE as u64;
    let hole = |page: u64, count: u64| {
        let punched = file.punch_hole(offset(page), count * PAGE_SIZE as u64);
        punched.map_err(Error::storage("cannot make a hole in an image"))
    };
    let data = match content {
        Content::Data(data) => data,
        Content::Zero(count) => {
            (first..first + count).for_each(|page| table.set(page, 0));
            return hole(first, count);
        }
    };
    let mut page = first;
    let sums: Vec<u64> = data.chunks(PAGE_SIZE).map(page_checksum).collect();
    let mut rest = data;
    for alike in sums.chunk_by(|one, next| (*one == 0) == (*next == 0)) {
        let (now, after) = rest.split_at((alike.len() * PAGE_SIZE).min(rest.len()));
        rest = after;
        let count = alike.len() as u64;
        if alike.first() == Some(&0) {
            hole(page, count)?;
        } else {
            let written = file.write_at(offset(page), &[IoSlice::new(now)]);
            written.map_err(Error::storage("cannot write pages of an image"))?;
        }
        (page..).zip(alike).for_each(|(page, sum)| table.set(page, *sum));
        page += count;
    }
    Ok(())
}

/// A new image, under a temporary name until it is complete and durable.
pub(crate) struct Builder<'d, D: Directory> {
    directory: &'d D,
    name: String,
    file: D::File,
    fixed: Fixed,
    table: Table,
}

/// The name of an image that is not complete yet.
pub(crate) fn temporary(name: &str) -> String {
    format!("{name}.new")
}

impl<'d, D: Directory> Builder<'d, D> {
    /// Begins an image; what an earlier attempt has left is removed.
    pub(crate) fn create(
        directory: &'d D,
        name: &str,
        memory_size: u64,
        identity: &Identity<'_>,
    ) -> Result<Self, Error> {
        check_size(memory_size)?;
        let len = identity.description.len() as u64;
        if len > DESCRIPTION_MAX as u64 {
            return Err(Error::Limit { what: "bytes of description", value: len, limit: DESCRIPTION_MAX as u64 });
        }
        let unfinished = temporary(name);
        remove_if_there(directory, &unfinished)?;
        let file = directory.create_new(&unfinished).map_err(Error::storage("cannot create an image"))?;
        file.set_len(pages_offset(memory_size) + memory_size).map_err(Error::storage("cannot extend an image"))?;
        let fixed = Fixed::write(&file, memory_size, identity.lineage, identity.description)?;
        let table = Table::new(fixed.pages());
        Ok(Builder { directory, name: name.to_owned(), file, fixed, table })
    }

    /// Puts pages that have not been put before.
    pub(crate) fn put(&mut self, first: u64, data: &[u8]) -> Result<(), Error> {
        put(&self.file, pages_offset(self.fixed.memory_size), &mut self.table, first, Content::Data(data))
    }

    /// Whether the page has been put, and is not zero.
    pub(crate) fn has(&self, page: u64) -> bool {
        self.table.get(page) != 0
    }

    /// Makes the image complete and durable, and gives it its name.
    pub(crate) fn finish(mut self, stamp: Stamp, state: &[u8]) -> Result<Image<D::File>, Error> {
        let table_checksum = self.table.checksum();
        self.table.write(&self.file)?;
        let phase = Phase::At(stamp.generation);
        let slot = Slot { sequence: 0, phase, stamp, table_checksum, state: state.to_vec() };
        let mut image = Image { file: self.file, fixed: self.fixed, slot: slot.clone(), newest: 0, both_slots: false };
        image.set_slot(slot)?;
        let renamed = self.directory.rename(&temporary(&self.name), &self.name);
        renamed.map_err(Error::storage("cannot give an image its name"))?;
        self.directory.sync().map_err(Error::storage("cannot sync the directory of an image"))?;
        Ok(image)
    }

    /// Removes what there is of it.
    pub(crate) fn abandon(self) {
        // If that fails, too, the next attempt does it.
        let _ = self.directory.remove(&temporary(&self.name));
    }
}

/// Removes a name that may not be there.
pub(crate) fn remove_if_there<D: Directory>(directory: &D, name: &str) -> Result<(), Error> {
    match directory.remove(name) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::storage("cannot remove a file")),
    }
}
