//! Kinds of keys and the operations of the objects that the host serves (semantics, sections 3 and 9).
//!
//! Operation numbers of entries, the keys to other districts, are whatever their exporter says.

/// What stands behind a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum KeyKind {
    /// Maps names to keys: [`directory`].
    Directory = 1,
    /// An object that another district exports.
    Entry = 2,
    /// Answers one call.
    Reply = 3,
    /// Sets bits at a district that waits for them.
    Notify = 4,
    /// Stands for a 64-bit number: [`number`].
    Number = 5,
    /// Takes lines of text: [`log`].
    Log = 6,
    /// Tells the time and waits for it: [`clock`].
    Clock = 7,
    /// Unpredictable bytes: [`random`].
    Random = 8,
    /// Looks after one district: [`supervisor`].
    Supervisor = 9,
}

impl KeyKind {
    /// The kind with this number, if there is one.
    pub const fn from_raw(raw: u8) -> Option<KeyKind> {
        Some(match raw {
            1 => KeyKind::Directory,
            2 => KeyKind::Entry,
            3 => KeyKind::Reply,
            4 => KeyKind::Notify,
            5 => KeyKind::Number,
            6 => KeyKind::Log,
            7 => KeyKind::Clock,
            8 => KeyKind::Random,
            9 => KeyKind::Supervisor,
            _ => return None,
        })
    }
}

/// Operations of a directory key. Paths are UTF-8, 1 to [`directory::PATH_MAX`] bytes, names separated by single `/`,
/// no name empty, `.` or `..`, none with a NUL, no leading or trailing `/`.
pub mod directory {
    /// Data: path. Answer: one key; result: version of the binding. Right: `LOOKUP`. [`crate::status::Status::NotReady`] while the
    /// owner of the name has not published it.
    pub const LOOKUP: u64 = 1;
    /// As [`LOOKUP`], but waits for the owner until the call's deadline.
    pub const LOOKUP_WAIT: u64 = 2;
    /// Data: path, or nothing for the directory itself. Answer data: for each name, in order: u8 kind
    /// ([`super::KeyKind`], 0 while not ready), u8 length of the name, the name. Right: `LIST`.
    pub const LIST: u64 = 3;
    /// Data: path, or nothing on a key that stands for one name. Key 1: what the name shall mean. Result: the version.
    /// Right: `BIND`.
    pub const BIND: u64 = 4;
    /// Data: u64 the expected version, then the path, as for [`BIND`]. Key 1: the new meaning. Result: the new version.
    pub const REBIND: u64 = 5;
    /// Data: path, as for [`BIND`]. The name stays known; it is not ready until bound again.
    pub const UNBIND: u64 = 6;
    /// Longest path in bytes.
    pub const PATH_MAX: usize = 255;
    /// Under this name, a district's first directory has one key for each name that it may publish, which may bind that
    /// name and nothing else.
    pub const PUBLISH: &str = "publish";
}

/// Operations of a number key.
pub mod number {
    /// Result: the number.
    pub const GET: u64 = 1;
}

/// Operations of a log key.
pub mod log {
    /// Data: text in UTF-8, at most [`LINE_MAX`] bytes; each line of it becomes a line of the district's log.
    pub const WRITE: u64 = 1;
    /// Most bytes of one [`WRITE`].
    pub const LINE_MAX: usize = 4096;
}

/// Operations of a clock key.
pub mod clock {
    /// Result: nanoseconds since 1970.
    pub const NOW: u64 = 1;
    /// Data: u64 nanoseconds. Answered that much later; result: the time then, in nanoseconds since 1970.
    pub const SLEEP: u64 = 2;
}

/// Operations of a random key.
pub mod random {
    /// Data: u32 count, at most [`crate::frame::DATA_MAX`]. Answer data: that many unpredictable bytes.
    pub const BYTES: u64 = 1;
}

/// Operations of a supervisor key. It stands for the district that it was granted to, whoever holds it.
pub mod supervisor {
    /// Answered when a checkpoint of the district is durable that was begun after this call had arrived: so, of the
    /// caller's own district, one that has this call in it, as one without an outcome. Result: its generation.
    /// [`crate::status::Status::Denied`] for the operation if the district has no checkpoints;
    /// [`crate::status::Status::WouldBlock`] if it could not be written, which changes nothing for the district.
    pub const CHECKPOINT: u64 = 1;
}
