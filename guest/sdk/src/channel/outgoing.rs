//! A request as the program makes it, before it is known whether its keys are of the present connection.

use core::time::Duration;

use district_protocol::frame::{KeySlot, RequestHeader, RequestKind};
use district_protocol::handle::Handle;

use crate::boot::Connection;
use crate::{Error, time};

/// A handle, with the connection on which it means anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyName {
    pub(crate) handle: Handle,
    pub(crate) connection: Connection,
}

/// A request as the program makes it.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) kind: RequestKind,
    /// `None` for requests that use no key.
    pub(crate) target: Option<KeyName>,
    pub(crate) flags: u8,
    pub(crate) operation: u64,
    pub(crate) argument: u64,
    pub(crate) timeout: Option<Duration>,
    pub(crate) data: &'a [u8],
    /// Each with the rights that go along, and whether it is a copy.
    pub(crate) keys: &'a [(KeyName, u32, bool)],
    pub(crate) reply_capacity: u32,
    /// Whether somebody will ask for the outcome.
    pub(crate) wanted: bool,
}

impl<'a> Outgoing<'a> {
    /// A request of this kind whose outcome is wanted, with all else zero.
    pub(crate) fn new(kind: RequestKind, target: Option<KeyName>) -> Self {
        Outgoing {
            kind,
            target,
            flags: 0,
            operation: 0,
            argument: 0,
            timeout: None,
            data: &[],
            keys: &[],
            reply_capacity: 0,
            wanted: true,
        }
    }

    /// The header, if all keys are of this connection.
    pub(super) fn header(&self, present: Connection) -> Result<RequestHeader, Error> {
        let target = self.target.map_or(Ok(Handle(0)), |key| key.on(present))?;
        let mut header = RequestHeader::new(self.kind, target);
        header.flags = self.flags;
        header.operation = self.operation;
        header.argument = self.argument;
        header.timeout = self.timeout.map_or(0, |timeout| time::nanoseconds(timeout).max(1));
        if self.keys.len() > header.keys.len() {
            return Err(Error::TooManyKeys);
        }
        for (slot, &(key, rights, copy)) in header.keys.iter_mut().zip(self.keys) {
            *slot = Some(KeySlot { handle: key.on(present)?, rights, copy });
        }
        Ok(header)
    }
}

impl KeyName {
    fn on(self, present: Connection) -> Result<Handle, Error> {
        if self.handle == Handle::BOOTSTRAP || self.connection == present {
            Ok(self.handle)
        } else {
            Err(Error::Broken(self.connection.lost_because(present)))
        }
    }
}
