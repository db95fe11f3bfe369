//! Making keys, finding them, and taking them away.

use district_protocol::handle::Handle;
use district_protocol::rights::Rights;
use district_protocol::status::{Argument, Quota, Reason, Status};

use super::{Core, Timer};
use crate::district::DistrictIx;
use crate::key::{Key, KeyId, Place, Target};
use crate::message::Notice;
use crate::object::{ObjectId, ObjectKind};
use crate::table::Claim;

/// Frames that a wrong handle costs: enough that trying out numbers leads nowhere (conformance c10).
const WRONG_HANDLE_FRAMES: u64 = 100;

/// A key that a district has the right to use, found by its handle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    /// The key that is used: for a handle 1 that leads to a service, the key behind the name.
    pub key: KeyId,
    pub rights: Rights,
}

impl Used {
    /// Refuses a use for which this key is not enough.
    pub(crate) fn require(&self, rights: Rights) -> Result<(), Status> {
        if self.rights.contains(rights) { Ok(()) } else { Err(Status::Denied(Argument::TARGET)) }
    }
}

impl Core {
    /// The key that a handle names, live or broken. Wrong ones are counted and cost.
    pub(crate) fn find(&mut self, d: DistrictIx, handle: Handle, argument: Argument) -> Result<KeyId, Status> {
        let district = &mut self.districts[d];
        if handle == Handle::BOOTSTRAP {
            return district.bootstrap.ok_or(Status::NoKey(argument));
        }
        match district.handles.claim(handle) {
            Claim::Key(key) if self.keys[key].place == Place::Held => Ok(key),
            Claim::Key(_) | Claim::Travelling => Err(Status::WouldBlock),
            Claim::Gone(reason) => Err(Status::Broken(reason)),
            Claim::Never => {
                district.counters.bad_handles += 1;
                district.bucket.charge(self.now, WRONG_HANDLE_FRAMES);
                Err(Status::NoKey(argument))
            }
        }
    }

    /// The live key that a handle names.
    pub(crate) fn find_live(&mut self, d: DistrictIx, handle: Handle, argument: Argument) -> Result<KeyId, Status> {
        let key = self.find(d, handle, argument)?;
        self.keys[key].broken.map_or(Ok(key), |reason| Err(Status::Broken(reason)))
    }

    /// The live key that a request is about, seen through a handle 1 that leads to a service.
    pub(crate) fn find_used(&mut self, d: DistrictIx, handle: Handle) -> Result<Used, Status> {
        let own = self.find_live(d, handle, Argument::TARGET)?;
        let Target::Service(service) = self.keys[own].target else {
            return Ok(Used { key: own, rights: self.keys[own].rights });
        };
        let key = self.services[service].key.ok_or(Status::NotReady)?;
        Ok(Used { key, rights: self.keys[key].rights.intersection(self.keys[own].rights) })
    }

    /// Stores a key and links it to its parent and its object.
    pub(crate) fn add_key(&mut self, key: Key, parent: Option<KeyId>) -> KeyId {
        let target = key.target;
        let id = self.keys.insert(Key { parent, ..key });
        if let Some(parent) = parent {
            let mut children = self.keys[parent].children;
            children.push(&mut self.keys, id, |key| &mut key.siblings);
            self.keys[parent].children = children;
        }
        if let Target::Object(object) = target {
            self.objects[object].keys.push(&mut self.keys, id, |key| &mut key.peers);
        }
        id
    }

    /// Serial for one more handle of this district, within its limit.
    pub(crate) fn room_for_handle(&self, d: DistrictIx) -> Result<u64, Status> {
        let district = &self.districts[d];
        if !district.has_room(1) {
            return Err(Status::Quota(Quota::Handles));
        }
        district.handles.free_serial(0).ok_or(Status::WouldBlock)
    }

    /// Puts a key into a district's table, under a serial that is free.
    pub(crate) fn hold(&mut self, d: DistrictIx, key: KeyId, serial: u64) -> Handle {
        let record = &mut self.keys[key];
        record.place = Place::Held;
        record.holder = Some(d);
        record.serial = serial;
        let handle = self.districts[d].handles.issue(serial, key);
        self.ask_for_serials(d);
        handle
    }

    /// A key for this district, if it has room for it.
    pub(crate) fn give(&mut self, d: DistrictIx, key: Key, parent: Option<KeyId>) -> Result<Handle, Status> {
        let serial = self.room_for_handle(d)?;
        let key = self.add_key(key, parent);
        Ok(self.hold(d, key, serial))
    }

    /// Breaks a key that is not broken yet: its queued messages and pending calls end, whoever watches is told, its
    /// children get its parent.
    pub(crate) fn break_key(&mut self, id: KeyId, reason: Reason) {
        self.keys[id].broken = Some(reason);
        self.unlink_key(id);
        while let Some(message) = self.keys[id].queued.first {
            self.end_message(message, reason);
        }
        while let Some(call) = self.keys[id].pending.first {
            self.give_up(call, reason);
        }
        self.fire_watches(id, reason);
        match self.keys[id].place {
            Place::Lingering => {
                self.keys.remove(id);
            }
            Place::Bound(service) => {
                self.keys.remove(id);
                self.unready(service);
            }
            Place::Held | Place::InTransit | Place::Nowhere => {}
        }
    }

    /// Takes a key from its holder, whose table no longer has it. Messages that are on their way through it still
    /// arrive.
    pub(crate) fn release(&mut self, id: KeyId) {
        if self.keys[id].broken.is_some() {
            self.keys.remove(id);
            return;
        }
        self.drop_watches(id);
        self.keys[id].place = Place::Lingering;
        self.settle(id);
    }

    /// Removes a key that lingers for nothing. One that is being broken removes itself.
    pub(crate) fn settle(&mut self, id: KeyId) {
        let key = &self.keys[id];
        if key.place == Place::Lingering && key.broken.is_none() && !key.is_busy() {
            self.unlink_key(id);
            self.keys.remove(id);
        }
    }

    /// The key was good for one use, and this was it.
    pub(crate) fn spend(&mut self, d: DistrictIx, id: KeyId) {
        self.districts[d].handles.remove(self.keys[id].serial);
        self.fire_watches(id, Reason::Used);
        self.release(id);
    }

    /// Takes rights from a key that changes hands. Children that may have more belong to its parent from now on.
    pub(crate) fn narrow(&mut self, id: KeyId, mask: Rights) {
        let rights = self.keys[id].rights.intersection(mask);
        if rights != self.keys[id].rights {
            self.keys[id].rights = rights;
            self.leave_children(id);
        }
    }

    /// Gives the children of a key to its parent.
    fn leave_children(&mut self, id: KeyId) {
        let parent = self.keys[id].parent;
        let mut children = std::mem::take(&mut self.keys[id].children);
        let mut above = parent.map(|parent| self.keys[parent].children).unwrap_or_default();
        while let Some(child) = children.first {
            children.remove(&mut self.keys, child, |key| &mut key.siblings);
            self.keys[child].parent = parent;
            if parent.is_some() {
                above.push(&mut self.keys, child, |key| &mut key.siblings);
            }
        }
        if let Some(parent) = parent {
            self.keys[parent].children = above;
        }
    }

    /// Takes a key out of the derivation tree, off its object and off the timers.
    pub(crate) fn unlink_key(&mut self, id: KeyId) {
        self.leave_children(id);
        if let Some(parent) = self.keys[id].parent.take() {
            let mut siblings = self.keys[parent].children;
            siblings.remove(&mut self.keys, id, |key| &mut key.siblings);
            self.keys[parent].children = siblings;
        }
        let expires = std::mem::take(&mut self.keys[id].expires);
        if expires != 0 {
            self.timers.remove(&(expires, Timer::Key(id)));
        }
        if let Target::Object(object) = std::mem::take(&mut self.keys[id].target) {
            self.objects[object].keys.remove(&mut self.keys, id, |key| &mut key.peers);
            self.tell_unreferenced(object);
        }
    }

    /// Tells the owner of an export that nobody has a key to it any more, once its last bits have arrived.
    pub(crate) fn tell_unreferenced(&mut self, id: ObjectId) {
        let object = &mut self.objects[id];
        let over = match object.kind {
            ObjectKind::Entry => true,
            ObjectKind::Notifier { queued, .. } => !queued,
            ObjectKind::Log | ObjectKind::Supervisor | ObjectKind::Directory(_) => false,
        };
        if !over || !object.keys.is_empty() || object.unreferenced {
            return;
        }
        object.unreferenced = true;
        if let Some(owner) = object.owner {
            self.notice(owner, Notice::Unreferenced(id));
        }
    }
}
