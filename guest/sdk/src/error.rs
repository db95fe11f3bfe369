//! How a request can fail, by what its sender should do about it (semantics, section 13).

use core::fmt;

use district_protocol::status::{Argument, Quota, Reason, Status};

/// How a request failed. Each variant is one [`Status`] of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// Fix the call: a field or the data does not fit the operation.
    BadArgument(Argument),
    /// Fix the call: more data than a frame can hold, or than there is room for in the reply.
    TooBig,
    /// Fix the call: more than four keys.
    TooManyKeys,
    /// Fix the call: the object has no such operation.
    NoSuchOperation,
    /// Fix the call: the key lacks the right.
    Denied(Argument),
    /// Fix the call: there is no such key.
    NoKey(Argument),
    /// Fix the call: derived too many times over.
    TooDeep,
    /// Look up again: the key is broken for good.
    Broken(Reason),
    /// Look up again later: the name's owner has not published it yet.
    NotReady,
    /// Look up something else: no such name.
    NotFound,
    /// Wait: a limit of this district is reached.
    Quota(Quota),
    /// Wait: there is no room to send just now.
    WouldBlock,
    /// Decide: the target may have acted, and no reply will come.
    Unknown(Reason),
    /// Retry: the target never saw it.
    NotDelivered(Reason),
}

impl Error {
    /// Whether the target surely did nothing, so that the same call may be made again, through a key that works.
    pub const fn retry_is_safe(self) -> bool {
        !matches!(self, Error::Unknown(_))
    }

    /// Whether the key is of no use any more and its name should be looked up again. Also true of calls that the key's
    /// end has ended.
    pub const fn look_up_again(self) -> bool {
        use Reason::{Destroyed, PeerRestart, Revoked, SelfRestart, Unreachable};
        matches!(
            self,
            Error::Broken(_)
                | Error::NotReady
                | Error::Unknown(Revoked | Destroyed | PeerRestart | SelfRestart | Unreachable)
                | Error::NotDelivered(Revoked | Destroyed | PeerRestart | SelfRestart | Unreachable)
        )
    }

    /// Whether waiting a little and doing the same again may help.
    pub const fn wait(self) -> bool {
        matches!(self, Error::Quota(_) | Error::WouldBlock | Error::NotReady)
    }

    /// Whether the connection to the broker ended meanwhile. What the broker answers by itself can be asked again.
    pub(crate) const fn connection_lost(self) -> bool {
        use Reason::{SelfRestart, Unreachable};
        matches!(
            self,
            Error::Broken(SelfRestart | Unreachable)
                | Error::Unknown(SelfRestart | Unreachable)
                | Error::NotDelivered(SelfRestart | Unreachable)
        )
    }

    /// `Ok` for [`Status::Ok`], else the error.
    pub(crate) const fn check(status: Status) -> Result<(), Error> {
        Err(match status {
            Status::Ok => return Ok(()),
            Status::BadArgument(argument) => Error::BadArgument(argument),
            Status::TooBig => Error::TooBig,
            Status::TooManyKeys => Error::TooManyKeys,
            Status::NoSuchOperation => Error::NoSuchOperation,
            Status::Denied(argument) => Error::Denied(argument),
            Status::NoKey(argument) => Error::NoKey(argument),
            Status::TooDeep => Error::TooDeep,
            Status::Broken(reason) => Error::Broken(reason),
            Status::NotReady => Error::NotReady,
            Status::NotFound => Error::NotFound,
            Status::Quota(quota) => Error::Quota(quota),
            Status::WouldBlock => Error::WouldBlock,
            Status::Unknown(reason) => Error::Unknown(reason),
            Status::NotDelivered(reason) => Error::NotDelivered(reason),
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::BadArgument(which) => write!(out, "bad argument: {}", argument(which)),
            Error::TooBig => out.write_str("too big"),
            Error::TooManyKeys => out.write_str("too many keys"),
            Error::NoSuchOperation => out.write_str("no such operation"),
            Error::Denied(which) => write!(out, "denied: {}", argument(which)),
            Error::NoKey(which) => write!(out, "no key: {}", argument(which)),
            Error::TooDeep => out.write_str("derived too many times over"),
            Error::Broken(why) => write!(out, "broken key: {}", reason(why)),
            Error::NotReady => out.write_str("name not ready"),
            Error::NotFound => out.write_str("name not found"),
            Error::Quota(quota) => write!(out, "out of quota: {quota:?}"),
            Error::WouldBlock => out.write_str("would block"),
            Error::Unknown(why) => write!(out, "outcome unknown: {}", reason(why)),
            Error::NotDelivered(why) => write!(out, "not delivered: {}", reason(why)),
        }
    }
}

impl core::error::Error for Error {}

fn argument(argument: Argument) -> &'static str {
    match argument {
        Argument::TARGET => "the key that is used",
        Argument(1) => "first key of the message",
        Argument(2) => "second key of the message",
        Argument(3) => "third key of the message",
        Argument(4) => "fourth key of the message",
        Argument::OPERATION => "operation",
        Argument::DATA => "data",
        _ => "request header",
    }
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Revoked => "revoked",
        Reason::Destroyed => "its object is gone",
        Reason::PeerRestart => "the other district restarted",
        Reason::SelfRestart => "this district restarted",
        Reason::Unreachable => "broker out of reach",
        Reason::Used => "already used",
        Reason::Deadline => "deadline",
        Reason::NoReply => "no reply",
        Reason::Cancelled => "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use std::format;

    use super::*;

    #[test]
    fn errors_say_what_they_are() {
        assert_eq!(format!("{}", Error::Broken(Reason::PeerRestart)), "broken key: the other district restarted");
        assert_eq!(format!("{}", Error::Denied(Argument::key(1))), "denied: second key of the message");
    }
}
