//! Frames: what travels through the two queues (`docs/abi.md`, section 6). All numbers are little-endian.
//!
//! * A **request** is [`REQUEST_HEADER`] bytes and then data, in the readable part of a chain of queue 0. It ends with
//!   exactly one **completion**, [`COMPLETION_HEADER`] bytes and then data, in the writable part of the same chain. So
//!   the room for a reply is there before the call is made, and whoever replies never waits.
//! * A **delivery** is [`DELIVERY_HEADER`] bytes and then data, spread over as many buffers of queue 1 as it needs; all
//!   but the last are filled.
//!
//! Decoding checks everything that can be checked without knowing who sent the frame.

use crate::handle::Handle;
use crate::status::{Argument, Status};

/// Most bytes of data in a frame.
pub const DATA_MAX: usize = 65_536;
/// Most keys in a frame.
pub const KEYS_MAX: usize = 4;
/// Bytes of a request before its data.
pub const REQUEST_HEADER: usize = 128;
/// Bytes of a completion before its data.
pub const COMPLETION_HEADER: usize = 64;
/// Bytes of a delivery before its data.
pub const DELIVERY_HEADER: usize = 96;

/// What a request asks of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum RequestKind {
    /// Invoke `handle` and wait for the answer. Uses all fields.
    Call = 1,
    /// Invoke `handle` without an answer; completes when the message is queued.
    Send = 2,
    /// Answer a call: `handle` is its reply key, `operation` the result.
    Reply = 3,
    /// OR `operation` into the bits of the notify key `handle`.
    Notify = 4,
    /// End the call of this district whose token is `argument`. Result: 1 if that ended it, else 0.
    Cancel = 5,
    /// Make a child of `handle` with the rights in `operation`, and the badge in `argument` if [`FLAG_BADGE`] is set.
    /// Result: its handle.
    Derive = 6,
    /// Give up `handle`.
    Drop = 7,
    /// Break all keys derived from `handle`.
    Revoke = 8,
    /// Be told once when `handle` breaks, with `argument` as the delivery's `badge`.
    Watch = 9,
    /// Make an object that this district serves, and an entry key to it. `argument`: what the district will know the
    /// object by. Result: the handle.
    Export = 10,
    /// Make an object that collects notifications, and a notify key to it. Fields as for `Export`.
    Notifier = 11,
    /// Result: rights of `handle` in the upper 32 bits, its [`crate::operation::KeyKind`] in the lower.
    Identify = 12,
}

impl RequestKind {
    /// The kind with this number, if there is one.
    pub const fn from_raw(raw: u16) -> Option<RequestKind> {
        Some(match raw {
            1 => RequestKind::Call,
            2 => RequestKind::Send,
            3 => RequestKind::Reply,
            4 => RequestKind::Notify,
            5 => RequestKind::Cancel,
            6 => RequestKind::Derive,
            7 => RequestKind::Drop,
            8 => RequestKind::Revoke,
            9 => RequestKind::Watch,
            10 => RequestKind::Export,
            11 => RequestKind::Notifier,
            12 => RequestKind::Identify,
            _ => return None,
        })
    }
}

/// [`RequestKind::Derive`]: `argument` is a badge to set.
pub const FLAG_BADGE: u8 = 1;
/// [`RequestKind::Derive`]: the child breaks after one use.
pub const FLAG_ONCE: u8 = 2;
/// [`RequestKind::Derive`]: the child is weak; what is fetched through it is weak too.
pub const FLAG_WEAK: u8 = 4;

/// A key that a request passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySlot {
    /// The sender's handle.
    pub handle: Handle,
    /// The receiver's key has those of the sender's rights that are also in this mask.
    pub rights: u32,
    /// Whether the sender keeps its key (needs the right `DUPLICATE`) or gives it away.
    pub copy: bool,
}

/// The first [`REQUEST_HEADER`] bytes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader {
    /// What is asked.
    pub kind: RequestKind,
    /// `FLAG_*`.
    pub flags: u8,
    /// Bytes of data after the header.
    pub data_len: u32,
    /// The guest's own name for the request; the completion has it again.
    pub token: u64,
    /// The key that is used.
    pub handle: Handle,
    /// Operation number, reply result, notification bits or rights.
    pub operation: u64,
    /// Nanoseconds, counted from when the broker takes the request, after which the call ends; 0: no deadline.
    /// For [`RequestKind::Derive`]: how long the child lives; 0: no limit.
    pub timeout: u64,
    /// Badge, export name, token to cancel or watch cookie.
    pub argument: u64,
    /// The keys passed on; only the first `key_count` count.
    pub keys: [Option<KeySlot>; KEYS_MAX],
}

/// What is wrong with a frame, before anybody looks at keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// Fewer bytes than the header has.
    TooShort,
    /// A field has a value that it cannot have. The status says which.
    Refused(Status),
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

impl RequestHeader {
    // Offsets in bytes; docs/abi.md, section 6.1.
    const KIND: usize = 0; // u16
    const KEY_COUNT: usize = 2; // u8
    const FLAGS: usize = 3; // u8
    const DATA_LEN: usize = 4; // u32
    /// u64. Public because the answer to a frame that cannot be decoded still carries its token.
    pub const TOKEN: usize = 8;
    const HANDLE: usize = 16; // u64
    const OPERATION: usize = 24; // u64
    const TIMEOUT: usize = 32; // u64
    const ARGUMENT: usize = 40; // u64
    const KEYS: usize = 64; // 4 x {u64 handle, u32 rights, u32 copy: 0 or 1}
    const KEY_SLOT: usize = 16;

    /// A request of this kind with all other fields zero.
    pub const fn new(kind: RequestKind, handle: Handle) -> Self {
        RequestHeader {
            kind,
            flags: 0,
            data_len: 0,
            token: 0,
            handle,
            operation: 0,
            timeout: 0,
            argument: 0,
            keys: [None; KEYS_MAX],
        }
    }

    /// The header as bytes.
    pub fn encode(&self) -> [u8; REQUEST_HEADER] {
        let mut out = [0; REQUEST_HEADER];
        out[Self::KIND..Self::KIND + 2].copy_from_slice(&(self.kind as u16).to_le_bytes());
        out[Self::FLAGS] = self.flags;
        out[Self::DATA_LEN..Self::DATA_LEN + 4].copy_from_slice(&self.data_len.to_le_bytes());
        for (at, word) in [
            (Self::TOKEN, self.token),
            (Self::HANDLE, self.handle.0),
            (Self::OPERATION, self.operation),
            (Self::TIMEOUT, self.timeout),
            (Self::ARGUMENT, self.argument),
        ] {
            out[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        let mut count = 0;
        for (index, slot) in self.keys.iter().flatten().enumerate() {
            let at = Self::KEYS + index * Self::KEY_SLOT;
            out[at..at + 8].copy_from_slice(&slot.handle.0.to_le_bytes());
            out[at + 8..at + 12].copy_from_slice(&slot.rights.to_le_bytes());
            out[at + 12..at + 16].copy_from_slice(&u32::from(slot.copy).to_le_bytes());
            count += 1;
        }
        out[Self::KEY_COUNT] = count;
        out
    }

    /// Decodes a header from the beginning of `bytes`. Bytes 48 to 63 must be zero.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() < REQUEST_HEADER {
            return Err(FrameError::TooShort);
        }
        let bad_header = FrameError::Refused(Status::BadArgument(Argument::HEADER));
        let kind = RequestKind::from_raw(u16_at(bytes, Self::KIND)).ok_or(bad_header)?;
        let count = usize::from(bytes[Self::KEY_COUNT]);
        if count > KEYS_MAX {
            return Err(FrameError::Refused(Status::TooManyKeys));
        }
        let data_len = u32_at(bytes, Self::DATA_LEN);
        if data_len as usize > DATA_MAX {
            return Err(FrameError::Refused(Status::TooBig));
        }
        if bytes[Self::FLAGS] & !(FLAG_BADGE | FLAG_ONCE | FLAG_WEAK) != 0
            || u64_at(bytes, 48) != 0
            || u64_at(bytes, 56) != 0
        {
            return Err(bad_header);
        }
        let mut keys = [None; KEYS_MAX];
        for (index, slot) in keys.iter_mut().enumerate().take(count) {
            let at = Self::KEYS + index * Self::KEY_SLOT;
            let copy = match u32_at(bytes, at + 12) {
                0 => false,
                1 => true,
                #[allow(clippy::cast_possible_truncation)] // index < 4
                _ => return Err(FrameError::Refused(Status::BadArgument(Argument::key(index as u16)))),
            };
            *slot = Some(KeySlot { handle: Handle(u64_at(bytes, at)), rights: u32_at(bytes, at + 8), copy });
        }
        Ok(RequestHeader {
            kind,
            flags: bytes[Self::FLAGS],
            data_len,
            token: u64_at(bytes, Self::TOKEN),
            handle: Handle(u64_at(bytes, Self::HANDLE)),
            operation: u64_at(bytes, Self::OPERATION),
            timeout: u64_at(bytes, Self::TIMEOUT),
            argument: u64_at(bytes, Self::ARGUMENT),
            keys,
        })
    }
}

/// The first [`COMPLETION_HEADER`] bytes of a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompletionHeader {
    /// How the request ended.
    pub status: Status,
    /// Bytes of data after the header.
    pub data_len: u32,
    /// The request's token.
    pub token: u64,
    /// The reply's result, a new handle, or what the operation says.
    pub result: u64,
    /// How many of `keys` count.
    pub key_count: u8,
    /// New handles of the requester.
    pub keys: [Handle; KEYS_MAX],
}

impl CompletionHeader {
    // docs/abi.md, section 6.2: u16 status, u16 detail, u8 key count, 3 zero bytes, u32 data length, u32 zero,
    // u64 token, u64 result, 4 x u64 handle. The data length is at 8, so that the token is aligned at 16.
    const DATA_LEN: usize = 8;
    const TOKEN: usize = 16;
    const RESULT: usize = 24;
    const KEYS: usize = 32;

    /// A completion without data and keys.
    pub const fn new(status: Status, token: u64) -> Self {
        CompletionHeader { status, data_len: 0, token, result: 0, key_count: 0, keys: [Handle(0); KEYS_MAX] }
    }

    /// The header as bytes.
    pub fn encode(&self) -> [u8; COMPLETION_HEADER] {
        let mut out = [0; COMPLETION_HEADER];
        let (status, detail) = self.status.to_raw();
        out[0..2].copy_from_slice(&status.to_le_bytes());
        out[2..4].copy_from_slice(&detail.to_le_bytes());
        out[4] = self.key_count;
        out[Self::DATA_LEN..Self::DATA_LEN + 4].copy_from_slice(&self.data_len.to_le_bytes());
        out[Self::TOKEN..Self::TOKEN + 8].copy_from_slice(&self.token.to_le_bytes());
        out[Self::RESULT..Self::RESULT + 8].copy_from_slice(&self.result.to_le_bytes());
        encode_keys(&mut out[Self::KEYS..], &self.keys);
        out
    }

    /// Decodes a header from the beginning of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() < COMPLETION_HEADER {
            return Err(FrameError::TooShort);
        }
        let bad_header = FrameError::Refused(Status::BadArgument(Argument::HEADER));
        let status = Status::from_raw(u16_at(bytes, 0), u16_at(bytes, 2)).ok_or(bad_header)?;
        let data_len = u32_at(bytes, Self::DATA_LEN);
        if usize::from(bytes[4]) > KEYS_MAX || data_len as usize > DATA_MAX {
            return Err(bad_header);
        }
        Ok(CompletionHeader {
            status,
            data_len,
            token: u64_at(bytes, Self::TOKEN),
            result: u64_at(bytes, Self::RESULT),
            key_count: bytes[4],
            keys: decode_keys(bytes, Self::KEYS),
        })
    }
}

/// What a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum DeliveryKind {
    /// A message to an object that this district exports.
    Message = 1,
    /// Bits for a notifier: `export` says which, `operation` has the bits since the last delivery.
    Notification = 2,
    /// A watched key broke: `badge` is the watch's cookie, `operation` the [`crate::status::Reason`].
    Down = 3,
    /// The caller of a message gave up: `reply` is the reply handle that is now spent.
    Cancelled = 4,
    /// Nobody holds a key to `export` any more.
    Unreferenced = 5,
}

impl DeliveryKind {
    /// The kind with this number, if there is one.
    pub const fn from_raw(raw: u16) -> Option<DeliveryKind> {
        Some(match raw {
            1 => DeliveryKind::Message,
            2 => DeliveryKind::Notification,
            3 => DeliveryKind::Down,
            4 => DeliveryKind::Cancelled,
            5 => DeliveryKind::Unreferenced,
            _ => return None,
        })
    }
}

/// The first [`DELIVERY_HEADER`] bytes of a delivery. It names no sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryHeader {
    /// What it is.
    pub kind: DeliveryKind,
    /// How many of `keys` count.
    pub key_count: u8,
    /// How many buffers of the queue it takes.
    pub buffers: u16,
    /// Bytes of data after the header.
    pub data_len: u32,
    /// The exported object, by the name that its exporter gave it.
    pub export: u64,
    /// The badge of the key that was used; 0: none.
    pub badge: u64,
    /// The operation, or bits.
    pub operation: u64,
    /// The reply key, or handle 0 if no answer is wanted.
    pub reply: Handle,
    /// Most bytes of data that the caller has room for in a reply.
    pub reply_capacity: u32,
    /// New handles of the receiver.
    pub keys: [Handle; KEYS_MAX],
}

impl DeliveryHeader {
    // docs/abi.md, section 6.3: u16 kind, u8 key count, u8 zero, u32 data length, u16 buffers, 6 zero bytes, u64 export,
    // u64 badge, u64 operation, u64 reply, u32 reply capacity, u32 zero, u64 zero, 4 x u64 handle.
    const DATA_LEN: usize = 4;
    const BUFFERS: usize = 8;
    const EXPORT: usize = 16;
    const BADGE: usize = 24;
    const OPERATION: usize = 32;
    const REPLY: usize = 40;
    const REPLY_CAPACITY: usize = 48;
    const KEYS: usize = 64;

    /// The header as bytes.
    pub fn encode(&self) -> [u8; DELIVERY_HEADER] {
        let mut out = [0; DELIVERY_HEADER];
        out[0..2].copy_from_slice(&(self.kind as u16).to_le_bytes());
        out[2] = self.key_count;
        out[Self::DATA_LEN..Self::DATA_LEN + 4].copy_from_slice(&self.data_len.to_le_bytes());
        out[Self::BUFFERS..Self::BUFFERS + 2].copy_from_slice(&self.buffers.to_le_bytes());
        for (at, word) in [
            (Self::EXPORT, self.export),
            (Self::BADGE, self.badge),
            (Self::OPERATION, self.operation),
            (Self::REPLY, self.reply.0),
        ] {
            out[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        out[Self::REPLY_CAPACITY..Self::REPLY_CAPACITY + 4].copy_from_slice(&self.reply_capacity.to_le_bytes());
        encode_keys(&mut out[Self::KEYS..], &self.keys);
        out
    }

    /// Decodes a header from the beginning of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() < DELIVERY_HEADER {
            return Err(FrameError::TooShort);
        }
        let bad_header = FrameError::Refused(Status::BadArgument(Argument::HEADER));
        let kind = DeliveryKind::from_raw(u16_at(bytes, 0)).ok_or(bad_header)?;
        let data_len = u32_at(bytes, Self::DATA_LEN);
        if usize::from(bytes[2]) > KEYS_MAX || data_len as usize > DATA_MAX {
            return Err(bad_header);
        }
        Ok(DeliveryHeader {
            kind,
            key_count: bytes[2],
            buffers: u16_at(bytes, Self::BUFFERS),
            data_len,
            export: u64_at(bytes, Self::EXPORT),
            badge: u64_at(bytes, Self::BADGE),
            operation: u64_at(bytes, Self::OPERATION),
            reply: Handle(u64_at(bytes, Self::REPLY)),
            reply_capacity: u32_at(bytes, Self::REPLY_CAPACITY),
            keys: decode_keys(bytes, Self::KEYS),
        })
    }
}

fn encode_keys(out: &mut [u8], keys: &[Handle; KEYS_MAX]) {
    for (slot, key) in out.chunks_exact_mut(8).zip(keys) {
        slot.copy_from_slice(&key.0.to_le_bytes());
    }
}

fn decode_keys(bytes: &[u8], at: usize) -> [Handle; KEYS_MAX] {
    core::array::from_fn(|index| Handle(u64_at(bytes, at + index * 8)))
}

const _: () = {
    // docs/abi.md, section 6.
    assert!(RequestHeader::KEYS + KEYS_MAX * RequestHeader::KEY_SLOT == REQUEST_HEADER);
    assert!(CompletionHeader::KEYS + KEYS_MAX * 8 == COMPLETION_HEADER);
    assert!(DeliveryHeader::KEYS + KEYS_MAX * 8 == DELIVERY_HEADER);
};
