//! Calls that have no outcome yet (semantics, section 6).

use district_protocol::rights::Rights;

use crate::district::DistrictIx;
use crate::key::KeyId;
use crate::list::Link;
use crate::message::MessageId;
use crate::service::ServiceId;
use crate::slab::Id;

/// Number of a call.
pub(crate) type CallId = Id<Call>;

/// How far a call has come.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Stage {
    /// Not a call: the slot is free.
    #[default]
    Nowhere,
    /// Its message waits for the receiver.
    Queued(MessageId),
    /// The receiver has it; it was that district's delivery with this number.
    Delivered {
        receiver: DistrictIx,
        number: u64,
        /// The reply key; whoever holds it.
        reply: KeyId,
    },
    /// A look-up that waits for a name.
    Waiting { service: ServiceId, rights: Rights, weak: bool },
    /// Waits for a checkpoint of this district that was not begun before it.
    Checkpoint { of: DistrictIx, number: u64 },
    /// Waits for a time.
    Sleeping { until: u64 },
}

/// A key that a delivered call has taken along. It goes back if the receiver ends without having consumed the call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moved {
    pub key: KeyId,
    /// The caller's handle.
    pub from: u64,
    /// The receiver's handle.
    pub to: u64,
    /// The caller's rights.
    pub rights: Rights,
}

/// A call without an outcome.
#[derive(Debug, Default)]
pub(crate) struct Call {
    pub caller: Option<DistrictIx>,
    pub chain: u16,
    pub token: u64,
    /// Most bytes of data that the caller takes.
    pub capacity: u32,
    /// Handles promised to it in the caller's table.
    pub promised: u32,
    pub stage: Stage,
    /// Its entry in the set of timers; 0: none.
    pub timer: u64,
    pub moved: Vec<Moved>,
    /// The key of a call to a host object.
    pub via: Option<KeyId>,
    /// Place among the calls through `via`.
    pub pending: Link<Call>,
    /// Place among its caller's calls.
    pub siblings: Link<Call>,
}
