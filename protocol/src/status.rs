//! Statuses: how a request ended, grouped by what its sender should do (semantics, sections 6 and 13).

/// How a request ended. On the wire: a u16 whose upper byte is the group, and a u16 of detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Done; for a call: the target replied.
    Ok,
    /// Fix the call: a field or the data does not fit the operation. Detail: number of the argument.
    BadArgument(Argument),
    /// Fix the call: more data than [`crate::frame::DATA_MAX`], or than the caller has made room for.
    TooBig,
    /// Fix the call: more keys than [`crate::frame::KEYS_MAX`].
    TooManyKeys,
    /// Fix the call: the object has no such operation; nothing has changed.
    NoSuchOperation,
    /// Fix the call: the key lacks the right. Detail: number of the argument.
    Denied(Argument),
    /// Fix the call: no key has this handle. Detail: number of the argument.
    NoKey(Argument),
    /// Fix the call: derived too many times over.
    TooDeep,
    /// Look up again: the key broke.
    Broken(Reason),
    /// Look up again, later: the name is bound, its owner has not published it yet.
    NotReady,
    /// Look up something else: no such name.
    NotFound,
    /// Wait: a limit of this district is reached.
    Quota(Quota),
    /// Wait: would have to wait.
    WouldBlock,
    /// Decide: the target has taken the message and no reply will come.
    Unknown(Reason),
    /// Retry: the target never saw the message.
    NotDelivered(Reason),
}

/// Which argument of a request a status speaks of: 0 the target handle, 1 to 4 the key slots, 5 operation, 6 data,
/// 7 any other header field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Argument(pub u16);

impl Argument {
    /// The target handle.
    pub const TARGET: Argument = Argument(0);
    /// The operation number.
    pub const OPERATION: Argument = Argument(5);
    /// The data.
    pub const DATA: Argument = Argument(6);
    /// Any other field of the header.
    pub const HEADER: Argument = Argument(7);

    /// The key slot with this index, 0 to 3.
    pub const fn key(index: u16) -> Argument {
        Argument(index + 1)
    }
}

/// Why a key broke or a call ended without a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Reason {
    /// Somebody revoked the key.
    Revoked = 1,
    /// The object is gone for good.
    Destroyed = 2,
    /// The district behind the key ended or restarted.
    PeerRestart = 3,
    /// The district that held the key restarted.
    SelfRestart = 4,
    /// The broker, or the host of the object, cannot be reached or was replaced.
    Unreachable = 5,
    /// A reply key that has been used, or a once-only key.
    Used = 6,
    /// The call's time was over.
    Deadline = 7,
    /// The reply key was dropped.
    NoReply = 8,
    /// The caller cancelled.
    Cancelled = 9,
}

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Quota {
    /// Keys in the table of the district that receives them.
    Handles = 1,
    /// Objects that the district exports.
    Exports = 2,
    /// Bytes that the district has queued at others.
    QueuedBytes = 3,
    /// Watches.
    Watches = 4,
    /// Bound names.
    Bindings = 5,
    /// Frames per second.
    Frames = 6,
    /// Calls without an answer.
    Calls = 7,
}

impl Reason {
    /// The reason with this number, if there is one.
    pub const fn from_raw(raw: u16) -> Option<Reason> {
        Some(match raw {
            1 => Reason::Revoked,
            2 => Reason::Destroyed,
            3 => Reason::PeerRestart,
            4 => Reason::SelfRestart,
            5 => Reason::Unreachable,
            6 => Reason::Used,
            7 => Reason::Deadline,
            8 => Reason::NoReply,
            9 => Reason::Cancelled,
            _ => return None,
        })
    }
}

impl Quota {
    /// The quota with this number, if there is one.
    pub const fn from_raw(raw: u16) -> Option<Quota> {
        Some(match raw {
            1 => Quota::Handles,
            2 => Quota::Exports,
            3 => Quota::QueuedBytes,
            4 => Quota::Watches,
            5 => Quota::Bindings,
            6 => Quota::Frames,
            7 => Quota::Calls,
            _ => return None,
        })
    }
}

impl Status {
    /// The two numbers of the wire: status and detail.
    pub const fn to_raw(self) -> (u16, u16) {
        match self {
            Status::Ok => (0, 0),
            Status::BadArgument(argument) => (0x101, argument.0),
            Status::TooBig => (0x102, 0),
            Status::TooManyKeys => (0x103, 0),
            Status::NoSuchOperation => (0x104, 0),
            Status::Denied(argument) => (0x105, argument.0),
            Status::NoKey(argument) => (0x106, argument.0),
            Status::TooDeep => (0x107, 0),
            Status::Broken(reason) => (0x201, reason as u16),
            Status::NotReady => (0x202, 0),
            Status::NotFound => (0x203, 0),
            Status::Quota(quota) => (0x301, quota as u16),
            Status::WouldBlock => (0x302, 0),
            Status::Unknown(reason) => (0x401, reason as u16),
            Status::NotDelivered(reason) => (0x501, reason as u16),
        }
    }

    /// The status that these two numbers of the wire mean, if any. Where a status has no detail, it must be 0.
    pub const fn from_raw(status: u16, detail: u16) -> Option<Status> {
        Some(match (status, detail) {
            (0, 0) => Status::Ok,
            (0x101, _) => Status::BadArgument(Argument(detail)),
            (0x102, 0) => Status::TooBig,
            (0x103, 0) => Status::TooManyKeys,
            (0x104, 0) => Status::NoSuchOperation,
            (0x105, _) => Status::Denied(Argument(detail)),
            (0x106, _) => Status::NoKey(Argument(detail)),
            (0x107, 0) => Status::TooDeep,
            (0x202, 0) => Status::NotReady,
            (0x203, 0) => Status::NotFound,
            (0x302, 0) => Status::WouldBlock,
            (0x301, _) => match Quota::from_raw(detail) {
                Some(quota) => Status::Quota(quota),
                None => return None,
            },
            (0x201 | 0x401 | 0x501, _) => match (status, Reason::from_raw(detail)) {
                (0x201, Some(reason)) => Status::Broken(reason),
                (0x401, Some(reason)) => Status::Unknown(reason),
                (_, Some(reason)) => Status::NotDelivered(reason),
                (_, None) => return None,
            },
            _ => return None,
        })
    }
}
