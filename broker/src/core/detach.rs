//! The end of a session (semantics, section 8): what the district had outstanding is dropped, what others wanted of it
//! ends by its outcome, and the keys to it break, in this order, so that a `Down` is the last that is heard of it.

use district_protocol::status::{Reason, Status};

use super::Core;
use crate::district::DistrictIx;
use crate::effect::{BindingRecord, DistrictId, Effect};
use crate::key::{KeyId, Place, Target};

impl Core {
    /// Ends the session of a district. `reason` is what others see: [`Reason::PeerRestart`], [`Reason::Unreachable`],
    /// or [`Reason::Destroyed`] if it will never come back. `consumed` is as for [`Core::consumed`].
    pub fn detach(&mut self, now: u64, district: DistrictId, reason: Reason, consumed: u64) {
        self.expire(now);
        self.consumed(district, consumed);
        if let Some(d) = self.attached(district) {
            self.districts[d].closing = true;
            self.drop_own_calls(d);
            self.drop_sent(d);
            self.end_received(d, reason);
            self.end_promises(d, reason);
            self.break_objects(d, reason);
            self.unbind_all(d);
            self.release_all(d);
            self.index.remove(&district);
            self.districts.remove(d);
        }
        if reason == Reason::Destroyed {
            self.forget_bindings(district);
        }
    }

    /// Nobody is left who could be told how these end; whoever works on one is told that it need not.
    fn drop_own_calls(&mut self, d: DistrictIx) {
        while let Some(call) = self.districts[d].calls.first {
            self.give_up(call, Reason::Cancelled);
        }
    }

    /// No traffic of an older epoch arrives.
    fn drop_sent(&mut self, d: DistrictIx) {
        for receiver in self.all_attached() {
            while let Some(message) = self.districts[receiver].inbox.first_of(d) {
                self.end_message(message, Reason::Cancelled);
            }
            self.districts[receiver].inbox.forget(d);
        }
    }

    /// What is queued here was never seen.
    fn end_received(&mut self, d: DistrictIx, reason: Reason) {
        for sender in self.all_attached() {
            while let Some(message) = self.districts[d].inbox.first_of(sender) {
                self.end_message(message, reason);
            }
        }
    }

    /// Calls whose reply keys are here will not be answered. First those that were never seen: what they took along,
    /// other calls' reply keys perhaps, goes back and is not lost here.
    fn end_promises(&mut self, d: DistrictIx, reason: Reason) {
        for unseen in [true, false] {
            for (_, key) in self.held(d) {
                let Target::Reply(call) = self.keys[key].target else { continue };
                if self.keys[key].holder == Some(d) && self.is_unseen(d, call) == unseen {
                    self.keys[key].target = Target::Nothing;
                    let status = if unseen { Status::NotDelivered(reason) } else { Status::Unknown(reason) };
                    self.finish(call, status, unseen);
                }
            }
        }
    }

    fn break_objects(&mut self, d: DistrictIx, reason: Reason) {
        while let Some(object) = self.districts[d].objects.first {
            self.break_object(object, reason);
            self.districts[d].objects.remove(&mut self.objects, object, |object| &mut object.owned);
            self.objects.remove(object);
        }
    }

    /// Its names stay known and are not ready.
    fn unbind_all(&mut self, d: DistrictIx) {
        for published in std::mem::take(&mut self.districts[d].published) {
            if let Some(key) = self.services[published.service].key.take() {
                self.release(key);
            }
        }
    }

    fn release_all(&mut self, d: DistrictIx) {
        for (serial, key) in self.held(d) {
            self.districts[d].handles.remove(serial);
            debug_assert!(self.keys[key].place == Place::Held);
            self.release(key);
        }
        if let Some(key) = self.districts[d].bootstrap.take() {
            self.release(key);
        }
    }

    fn forget_bindings(&mut self, district: DistrictId) {
        for (_, service) in self.service_index.range((district, "".into())..) {
            let service = &mut self.services[*service];
            if service.owner != district {
                break;
            }
            if std::mem::take(&mut service.version) != 0 {
                let record = BindingRecord { owner: district, name: service.name.clone(), version: 0 };
                self.effects.push_back(Effect::Unbound(record));
            }
        }
    }

    fn held(&self, d: DistrictIx) -> Vec<(u64, KeyId)> {
        self.districts[d].handles.iter().filter_map(|(serial, key)| Some((serial, key?))).collect()
    }

    /// All attached districts, in the order of their numbers.
    pub(crate) fn all_attached(&self) -> Vec<DistrictIx> {
        self.districts.slots().map(|(d, _)| d).filter(|d| self.is_attached(*d)).collect()
    }

    /// Whether this number is an attached district's at present.
    pub(crate) fn is_attached(&self, d: DistrictIx) -> bool {
        self.index.get(&self.districts[d].id) == Some(&d)
    }
}
