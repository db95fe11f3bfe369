//! Keys as the broker keeps them (semantics, section 2).

use district_protocol::operation::KeyKind;
use district_protocol::rights::Rights;
use district_protocol::status::Reason;

use crate::call::{Call, CallId};
use crate::district::DistrictIx;
use crate::list::{Link, List};
use crate::message::Message;
use crate::object::ObjectId;
use crate::service::ServiceId;
use crate::slab::Id;

/// Number of a key; never seen by a guest.
pub(crate) type KeyId = Id<Key>;

/// Most derivations between a key and the first key to its object (semantics, section 7).
pub(crate) const DEPTH_MAX: u8 = 16;

/// What a key leads to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Target {
    /// Nothing any more: the key is broken.
    #[default]
    Nothing,
    /// An object with an owner.
    Object(ObjectId),
    /// A call that waits for its reply.
    Reply(CallId),
    /// A number.
    Number(u64),
    /// The host's clock.
    Clock,
    /// The host's source of random bytes.
    Random,
    /// Whatever a name means at the moment of use. Only handle 1 leads there.
    Service(ServiceId),
}

/// Where a key is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not a key: the slot is free.
    #[default]
    Nowhere,
    /// In its holder's table, usable.
    Held,
    /// In a queued message. A moved key is still in its sender's table; a copy has no holder yet.
    InTransit,
    /// Behind a name.
    Bound(ServiceId),
    /// Given up by its holder, with messages or calls on their way through it, which a revocation must still find.
    Lingering,
}

/// A right to one object.
#[derive(Debug)]
pub(crate) struct Key {
    pub place: Place,
    pub holder: Option<DistrictIx>,
    /// The holder's handle; 0 is handle 1's.
    pub serial: u64,
    pub kind: KeyKind,
    pub target: Target,
    pub broken: Option<Reason>,
    pub rights: Rights,
    /// 0: none.
    pub badge: u64,
    pub once: bool,
    pub weak: bool,
    pub depth: u8,
    pub parent: Option<KeyId>,
    pub children: List<Key>,
    pub siblings: Link<Key>,
    /// Place among the keys to the same object.
    pub peers: Link<Key>,
    /// Messages queued through this key.
    pub queued: List<Message>,
    /// Calls to host objects through this key that are not answered yet.
    pub pending: List<Call>,
    pub watches: List<Watch>,
    /// When it breaks by itself; 0: never.
    pub expires: u64,
}

impl Default for Key {
    fn default() -> Self {
        Key::new(KeyKind::Number, Target::Nothing, Rights::NONE)
    }
}

impl Key {
    /// A key to `target` that is not linked to anything yet.
    pub(crate) fn new(kind: KeyKind, target: Target, rights: Rights) -> Key {
        Key {
            place: Place::Nowhere,
            holder: None,
            serial: 0,
            kind,
            target,
            broken: None,
            rights,
            badge: 0,
            once: false,
            weak: false,
            depth: 0,
            parent: None,
            children: List::default(),
            siblings: Link::default(),
            peers: Link::default(),
            queued: List::default(),
            pending: List::default(),
            watches: List::default(),
            expires: 0,
        }
    }

    /// A child of this key, with `rights`.
    pub(crate) fn child(&self, rights: Rights) -> Key {
        Key { badge: self.badge, weak: self.weak, depth: self.depth + 1, ..Key::new(self.kind, self.target, rights) }
    }

    /// Whether something on its way depends on this key.
    pub(crate) fn is_busy(&self) -> bool {
        !self.queued.is_empty() || !self.pending.is_empty()
    }
}

/// Somebody wants to be told when a key breaks.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub district: Option<DistrictIx>,
    pub cookie: u64,
    pub link: Link<Watch>,
}

const CONTROL: Rights =
    Rights::DUPLICATE.union(Rights::TRANSFER).union(Rights::DERIVE).union(Rights::REVOKE).union(Rights::WATCH);

/// All rights that mean something for a kind of key.
pub(crate) const fn full_rights(kind: KeyKind) -> Rights {
    match kind {
        KeyKind::Directory => {
            CONTROL.union(Rights::LOOKUP).union(Rights::LIST).union(Rights::BIND).union(Rights::SEND_KEYS)
        }
        KeyKind::Entry => CONTROL.union(Rights::CALL).union(Rights::SEND_KEYS),
        KeyKind::Reply => Rights::TRANSFER,
        KeyKind::Notify => CONTROL.union(Rights::NOTIFY),
        KeyKind::Number | KeyKind::Log | KeyKind::Clock | KeyKind::Random | KeyKind::Supervisor => {
            CONTROL.union(Rights::CALL)
        }
    }
}

/// What a weak key never allows (semantics, section 4).
pub(crate) const NOT_WEAK: Rights = Rights::BIND.union(Rights::WRITE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_key_can_only_be_passed_on() {
        assert_eq!(full_rights(KeyKind::Reply), Rights::TRANSFER);
    }

    #[test]
    fn a_child_keeps_badge_and_target_and_nothing_that_is_linked() {
        let mut parent = Key::new(KeyKind::Number, Target::Number(7), Rights::CALL);
        parent.badge = 9;
        parent.expires = 5;
        let child = parent.child(Rights::NONE);
        assert_eq!((child.target, child.badge, child.depth, child.expires), (Target::Number(7), 9, 1, 0));
        assert_eq!(child.place, Place::Nowhere);
    }
}
