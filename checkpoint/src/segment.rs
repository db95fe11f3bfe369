//! Segments of the log: a header block, then records, each a *head* of one block and a *body* of whole blocks.

pub(crate) mod header;
pub(crate) mod record;
pub(crate) mod scan;
pub(crate) mod writer;

use crate::error::Error;
use crate::format::MEMORY_SIZE_MAX;
use crate::page::pages_of;

/// Refuses a size of memory that the format cannot have.
pub(crate) fn check_size(memory_size: u64) -> Result<u64, Error> {
    pages_of(memory_size).ok_or(Error::Limit { what: "bytes of memory", value: memory_size, limit: MEMORY_SIZE_MAX })
}
