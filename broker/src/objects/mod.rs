//! What each kind of key does when it is called: one file per kind, in each one `match` on the operation.
//!
//! An operation that a kind does not know is answered with `NoSuchOperation`, and nothing has changed.

pub(crate) mod clock;
pub(crate) mod directory;
pub(crate) mod entry;
pub(crate) mod log;
pub(crate) mod notify;
pub(crate) mod number;
pub(crate) mod random;
pub(crate) mod reply;
pub(crate) mod supervisor;

use district_protocol::status::{Argument, Status};

use crate::core::request::Request;

/// Refuses keys where an operation takes none.
fn no_keys(request: &Request) -> Result<(), Status> {
    if request.header.keys[0].is_some() { Err(Status::BadArgument(Argument::key(0))) } else { Ok(()) }
}

/// Refuses data where an operation takes none.
fn no_data(request: &Request) -> Result<(), Status> {
    fixed::<0>(request).map(|_| ())
}

/// The data of an operation that takes exactly so many bytes.
fn fixed<const N: usize>(request: &Request) -> Result<[u8; N], Status> {
    request.data().try_into().map_err(|_| Status::BadArgument(Argument::DATA))
}
