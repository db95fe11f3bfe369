//! A district as the broker knows it while a session lasts, and what the shell says about it at the beginning.

use std::ops::Range;
use std::sync::Arc;

use district_protocol::rights::Rights;

use crate::call::Call;
use crate::core::checkpoint::Checkpoints;
use crate::effect::DistrictId;
use crate::key::KeyId;
use crate::limits::{Bucket, Limits};
use crate::list::List;
use crate::message::Inbox;
use crate::object::{Object, ObjectId};
use crate::service::ServiceId;
use crate::slab::Id;
use crate::table::Handles;

/// Number of an attached district.
pub(crate) type DistrictIx = Id<District>;

/// What a granted name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrantTarget {
    /// The district's own log.
    Log,
    /// The host's clock.
    Clock,
    /// The host's random bytes.
    Random,
    /// A supervisor of the district itself, which takes checkpoints of it.
    Checkpoint,
    /// This number.
    Number(u64),
    /// What another district, or this one, publishes.
    Service {
        /// The publisher.
        owner: DistrictId,
        /// The publisher's name for it.
        name: Arc<str>,
    },
}

/// One name in a district's first directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// One path component.
    pub name: Arc<str>,
    /// What it stands for.
    pub target: GrantTarget,
    /// Rights of the keys that are fetched; those that the target does not have are left out.
    pub rights: Rights,
}

/// What handle 1 leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bootstrap {
    /// A directory of the grants.
    OwnDirectory,
    /// What a district publishes, now and after each of its restarts.
    Service {
        /// The publisher.
        owner: DistrictId,
        /// The publisher's name for it.
        name: Arc<str>,
    },
}

/// A new session of a district.
#[derive(Debug, Clone)]
pub struct Attach {
    /// Whose.
    pub district: DistrictId,
    /// For people.
    pub name: Arc<str>,
    /// Which of its lives this is.
    pub epoch: u64,
    /// Durably reserved serials for its handles; the first has never been used.
    pub serials: Range<u64>,
    /// First serial of this life. Lower ones answer `SelfRestart`; from here to `serials.start` they are of an earlier
    /// session of the same life and answer `Unreachable`.
    pub epoch_first_serial: u64,
    /// What it may use.
    pub limits: Limits,
    /// Its first directory.
    pub grants: Vec<Grant>,
    /// Names that it may publish, each one path component.
    pub publishes: Vec<Arc<str>>,
    /// What handle 1 leads to.
    pub bootstrap: Bootstrap,
}

/// Why a session cannot begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// The manifest has to be changed.
    #[error("not a name for a grant or for publishing: {0:?}")]
    BadName(String),
    /// The manifest has to be changed.
    #[error("two grants or two published names are called {0:?}")]
    TwiceNamed(String),
    /// The old session has to be ended first.
    #[error("district {0} is attached already")]
    Attached(DistrictId),
}

/// What a district has done in this session, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests taken.
    pub requests: u64,
    /// Requests refused because there were too many per second.
    pub refused: u64,
    /// Requests that could not be decoded.
    pub bad_frames: u64,
    /// Handles in requests that were never this district's.
    pub bad_handles: u64,
    /// Messages and calls queued at others.
    pub sent: u64,
    /// Bytes of their data.
    pub sent_bytes: u64,
    /// Deliveries that it was given.
    pub delivered: u64,
}

/// A granted name.
#[derive(Debug)]
pub(crate) struct Granted {
    pub name: Arc<str>,
    pub source: Granting,
    pub rights: Rights,
}

/// [`GrantTarget`], resolved.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Granting {
    Log,
    Clock,
    Random,
    Checkpoint,
    Number(u64),
    Service(ServiceId),
}

/// A name that may be published, and the directory that stands for it alone.
#[derive(Debug)]
pub(crate) struct Published {
    pub name: Arc<str>,
    pub service: ServiceId,
    pub directory: ObjectId,
}

/// A district in a session.
#[derive(Debug)]
pub(crate) struct District {
    pub id: DistrictId,
    pub name: Arc<str>,
    pub epoch: u64,
    pub limits: Limits,
    /// The session is ending: nothing more is said to it.
    pub closing: bool,
    pub handles: Handles,
    pub bootstrap: Option<KeyId>,
    pub objects: List<Object>,
    pub log: Option<ObjectId>,
    pub supervisor: Option<ObjectId>,
    pub checkpoints: Checkpoints,
    pub publish: Option<ObjectId>,
    /// In the order of their names.
    pub grants: Vec<Granted>,
    /// In the order of their names.
    pub published: Vec<Published>,
    pub calls: List<Call>,
    pub call_count: u32,
    pub queued_bytes: u64,
    pub watch_count: u32,
    pub export_count: u32,
    pub binding_count: u32,
    pub bucket: Bucket,
    pub inbox: Inbox,
    /// How many of its deliveries it has taken, by its own account.
    pub consumed: u64,
    pub counters: Counters,
}

impl Default for District {
    fn default() -> Self {
        District {
            id: DistrictId([0; 16]),
            name: Arc::from(""),
            epoch: 0,
            limits: Limits::default(),
            closing: false,
            handles: Handles::default(),
            bootstrap: None,
            objects: List::default(),
            log: None,
            supervisor: None,
            checkpoints: Checkpoints::default(),
            publish: None,
            grants: Vec::new(),
            published: Vec::new(),
            calls: List::default(),
            call_count: 0,
            queued_bytes: 0,
            watch_count: 0,
            export_count: 0,
            binding_count: 0,
            bucket: Bucket::default(),
            inbox: Inbox::default(),
            consumed: 0,
            counters: Counters::default(),
        }
    }
}

impl District {
    /// Whether `count` more handles fit in its table.
    pub(crate) fn has_room(&self, count: u32) -> bool {
        self.handles.room(count, self.limits.handles)
    }
}
