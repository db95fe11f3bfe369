//! The broker's state, and what everything else here is built from.

mod attach;
pub(crate) mod binding;
mod calls;
mod carry;
pub(crate) mod checkpoint;
mod deadline;
pub(crate) mod deliver;
mod derive;
mod detach;
pub(crate) mod inspect;
mod invariants;
pub(crate) mod keys;
mod messages;
mod reply;
pub(crate) mod request;
mod revoke;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use district_protocol::frame::CompletionHeader;

use crate::call::{Call, CallId};
use crate::district::{District, DistrictIx};
use crate::effect::{BindingRecord, Data, DistrictId, Effect};
use crate::key::{Key, KeyId, Watch};
use crate::message::{Message, Notice};
use crate::object::Object;
use crate::service::{Service, ServiceId};
use crate::slab::Slab;

/// What ends or breaks when its time comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Call(CallId),
    Key(KeyId),
}

/// The key broker's state.
///
/// Times are in nanoseconds since 1970. One that lies before an earlier one counts as the earlier one. After each call
/// the shell carries out [`Core::drain_effects`] before it makes the next.
#[derive(Debug, Default)]
pub struct Core {
    pub(crate) now: u64,
    // Only ever looked into by key: its order means nothing.
    index: HashMap<DistrictId, DistrictIx>,
    pub(crate) districts: Slab<District>,
    pub(crate) keys: Slab<Key>,
    pub(crate) objects: Slab<Object>,
    pub(crate) calls: Slab<Call>,
    pub(crate) messages: Slab<Message>,
    watches: Slab<Watch>,
    pub(crate) services: Slab<Service>,
    service_index: BTreeMap<(DistrictId, Arc<str>), ServiceId>,
    timers: BTreeSet<(u64, Timer)>,
    /// How many calls for checkpoints there were, of all districts.
    checkpoint_calls: u64,
    pub(crate) effects: VecDeque<Effect>,
}

impl Core {
    /// A broker that knows nobody.
    pub fn new() -> Core {
        Core::default()
    }

    /// What the shell has to do now, in this order.
    pub fn drain_effects(&mut self) -> impl Iterator<Item = Effect> + '_ {
        self.effects.drain(..)
    }

    /// Takes in a name that was bound before the daemon started. It is known, and not ready until its owner binds it
    /// again. To be called before anything is attached.
    pub fn restore_binding(&mut self, record: BindingRecord) {
        let service = self.service(record.owner, &record.name);
        self.services[service].version = self.services[service].version.max(record.version);
    }

    /// More serials are durably reserved for a district, in answer to [`Effect::ReserveSerials`].
    pub fn serials_reserved(&mut self, district: DistrictId, serials: std::ops::Range<u64>) {
        let Some(d) = self.attached(district) else { return };
        self.districts[d].handles.extend(serials);
        self.ask_for_serials(d);
        let inbox = &mut self.districts[d].inbox;
        if std::mem::replace(&mut inbox.starved, false) && inbox.waiting > 0 {
            self.effects.push_back(Effect::Deliverable(district));
        }
    }

    /// How many deliveries a district says that it has consumed: the number at the beginning of its window. It is not
    /// believed beyond what it was given, nor when it goes back.
    pub fn consumed(&mut self, district: DistrictId, count: u64) {
        if let Some(d) = self.attached(district) {
            let district = &mut self.districts[d];
            district.consumed = count.min(district.counters.delivered).max(district.consumed);
        }
    }

    pub(crate) fn attached(&self, district: DistrictId) -> Option<DistrictIx> {
        self.index.get(&district).copied()
    }

    pub(crate) fn set_now(&mut self, now: u64) {
        self.now = self.now.max(now);
    }

    /// Ends a request. Says nothing to a district whose session is ending.
    pub(crate) fn complete(&mut self, d: DistrictIx, chain: u16, mut header: CompletionHeader, data: Data) {
        let district = &self.districts[d];
        if district.closing {
            return;
        }
        // Data is never longer than DATA_MAX.
        header.data_len = u32::try_from(data.len()).unwrap_or(0);
        self.effects.push_back(Effect::Complete { district: district.id, chain, header, data });
    }

    /// Counts one more thing in a district's inbox, and says so if it was empty.
    pub(crate) fn announce(&mut self, d: DistrictIx) {
        let district = &mut self.districts[d];
        district.inbox.waiting += 1;
        if district.inbox.waiting == 1 && !district.closing {
            self.effects.push_back(Effect::Deliverable(district.id));
        }
    }

    pub(crate) fn notice(&mut self, d: DistrictIx, notice: Notice) {
        if !self.districts[d].closing {
            self.districts[d].inbox.notices.push_back(notice);
            self.announce(d);
        }
    }

    pub(crate) fn ask_for_serials(&mut self, d: DistrictIx) {
        let district = &mut self.districts[d];
        if district.handles.ask() && !district.closing {
            self.effects.push_back(Effect::ReserveSerials(district.id));
        }
    }

    /// The record of a name, made if nobody has spoken of it before. Only manifests and the store name names, so that
    /// no guest can make these grow.
    pub(crate) fn service(&mut self, owner: DistrictId, name: &Arc<str>) -> ServiceId {
        if let Some(service) = self.service_index.get(&(owner, name.clone())) {
            return *service;
        }
        let service = self.services.insert(Service { owner, name: name.clone(), ..Service::default() });
        self.service_index.insert((owner, name.clone()), service);
        service
    }
}
