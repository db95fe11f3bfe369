//! What the core asks of the shell around it.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use district_protocol::frame::CompletionHeader;

/// A district's permanent identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DistrictId(pub [u8; 16]);

impl fmt::Display for DistrictId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DistrictId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The data of a completion: the tail of the frame that it came in, so that it need not be copied.
#[derive(Clone, Default)]
pub struct Data {
    bytes: Vec<u8>,
    skip: usize,
}

impl Data {
    pub(crate) fn tail(bytes: Vec<u8>, skip: usize) -> Self {
        Data { skip: skip.min(bytes.len()), bytes }
    }
}

impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Self {
        Data { bytes, skip: 0 }
    }
}

impl Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.skip..]
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

/// The durable part of a binding (semantics, section 9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingRecord {
    /// The district that may publish the name.
    pub owner: DistrictId,
    /// The name.
    pub name: Arc<str>,
    /// How many times it has been bound.
    pub version: u64,
}

/// Something for the shell to do. Effects are carried out in the order in which the core gives them; each is complete
/// before the next begins.
#[derive(Debug)]
pub enum Effect {
    /// End a request: write header and data into the writable part of its chain.
    Complete {
        /// Whose request it is.
        district: DistrictId,
        /// The chain that the request came in.
        chain: u16,
        /// The header; its `data_len` is that of `data`.
        header: CompletionHeader,
        /// The data, no longer than the capacity that came with the request.
        data: Data,
    },
    /// The district has deliveries now and had none before.
    Deliverable(DistrictId),
    /// Text for the log of this district, as the guest wrote it: valid UTF-8, but with any control characters.
    Log {
        /// Whose log.
        district: DistrictId,
        /// One line or several.
        text: String,
    },
    /// End a request with status `Ok` and `count` unpredictable bytes. For the core it has ended.
    FillRandom {
        /// Whose request it is.
        district: DistrictId,
        /// The chain that the request came in.
        chain: u16,
        /// For the completion's header.
        token: u64,
        /// How many bytes; no more than the request's capacity.
        count: u32,
    },
    /// A name was bound: make this durable in place of any older record of the same owner and name.
    Bound(BindingRecord),
    /// The owner is gone for good: remove its record of this name.
    Unbound(BindingRecord),
    /// A call wants a checkpoint of this district: begin one soon, once none is under way. The first thing then is
    /// [`crate::Core::checkpoint_begins`]; when it is durable or has failed, [`crate::Core::checkpointed`]. Not said again
    /// before one has begun, however many calls want one.
    Checkpoint(DistrictId),
    /// Reserve more serials for this district and then call [`crate::Core::serials_reserved`].
    ReserveSerials(DistrictId),
}
