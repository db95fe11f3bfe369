//! Names that districts publish for others (semantics, section 9).

use std::sync::Arc;

use crate::call::CallId;
use crate::effect::DistrictId;
use crate::key::KeyId;
use crate::slab::Id;

/// Number of a name.
pub(crate) type ServiceId = Id<Service>;

/// A name of one district. It stays known while the broker runs, so that what others were granted by it stays valid.
#[derive(Debug)]
pub(crate) struct Service {
    pub owner: DistrictId,
    pub name: Arc<str>,
    /// How many times it has been bound; 0: never.
    pub version: u64,
    /// What it means now; `None`: not ready.
    pub key: Option<KeyId>,
    /// Look-ups that wait, oldest first.
    pub waiters: Vec<CallId>,
}

impl Default for Service {
    fn default() -> Self {
        Service { owner: DistrictId([0; 16]), name: Arc::from(""), version: 0, key: None, waiters: Vec::new() }
    }
}
