//! Rights: what a key lets its holder do (semantics, section 4).

/// A set of rights, one bit each. Bits without a name are never in a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Rights(pub u32);

impl Rights {
    /// Call, and send to, the object.
    pub const CALL: Rights = Rights(1 << 0);
    /// Set notification bits.
    pub const NOTIFY: Rights = Rights(1 << 1);
    /// Put keys into messages to the object.
    pub const SEND_KEYS: Rights = Rights(1 << 2);
    /// Keep the key while giving a copy away.
    pub const DUPLICATE: Rights = Rights(1 << 3);
    /// Put this key into a message.
    pub const TRANSFER: Rights = Rights(1 << 4);
    /// Make children of this key.
    pub const DERIVE: Rights = Rights(1 << 5);
    /// Kill the children of this key.
    pub const REVOKE: Rights = Rights(1 << 6);
    /// Be told when the key breaks.
    pub const WATCH: Rights = Rights(1 << 7);
    /// Directory: look names up.
    pub const LOOKUP: Rights = Rights(1 << 8);
    /// Directory: list names.
    pub const LIST: Rights = Rights(1 << 9);
    /// Directory: bind, rebind and unbind names.
    pub const BIND: Rights = Rights(1 << 10);
    /// File: read.
    pub const READ: Rights = Rights(1 << 11);
    /// File: write.
    pub const WRITE: Rights = Rights(1 << 12);

    /// No right.
    pub const NONE: Rights = Rights(0);
    /// Every right.
    pub const ALL: Rights = Rights((1 << 13) - 1);

    /// Names of the rights, as manifests and tables write them, lowest bit first.
    pub const NAMES: [&'static str; 13] = [
        "call",
        "notify",
        "send-keys",
        "duplicate",
        "transfer",
        "derive",
        "revoke",
        "watch",
        "lookup",
        "list",
        "bind",
        "read",
        "write",
    ];

    /// Whether all of `other` is in this set.
    pub const fn contains(self, other: Rights) -> bool {
        self.0 & other.0 == other.0
    }

    /// The rights in either set.
    pub const fn union(self, other: Rights) -> Rights {
        Rights(self.0 | other.0)
    }

    /// The rights in both sets.
    pub const fn intersection(self, other: Rights) -> Rights {
        Rights(self.0 & other.0)
    }

    /// The rights in this set that are not in `other`.
    pub const fn without(self, other: Rights) -> Rights {
        Rights(self.0 & !other.0)
    }
}

const _: () = assert!(Rights::NAMES.len() == Rights::ALL.0.count_ones() as usize);
