//! What must hold between any two inputs, whatever guests do. Tests check it after every step.

use district_protocol::handle::Handle;
use district_protocol::rights::Rights;

use super::{Core, Timer};
use crate::call::Stage;
use crate::district::DistrictIx;
use crate::key::{DEPTH_MAX, Key, KeyId, Place, Target, full_rights};
use crate::table::Claim;

fn ensure(holds: bool, what: &str, id: impl std::fmt::Debug) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("{what}: {id:?}")) }
}

impl Core {
    /// Checks that the broker's records agree with each other; says which does not. It reads everything: for tests and
    /// for finding faults, not for every request.
    pub fn check_invariants(&self) -> Result<(), String> {
        let mut counts = (0, 0, 0, 0);
        for (id, key) in self.keys.slots().filter(|(_, key)| key.place != Place::Nowhere) {
            counts.0 += 1;
            self.check_key(id, key)?;
        }
        for (id, call) in self.calls.slots().filter(|(_, call)| call.caller.is_some()) {
            counts.1 += 1;
            match call.stage {
                Stage::Nowhere => return Err(format!("a call without a stage: {id:?}")),
                Stage::Queued(message) => {
                    ensure(self.messages[message].call == Some(id), "a queued call without its message", id)?;
                }
                Stage::Delivered { reply, .. } => {
                    ensure(self.keys[reply].target == Target::Reply(id), "a delivered call without its reply key", id)?;
                }
                Stage::Waiting { service, .. } => {
                    ensure(self.services[service].waiters.contains(&id), "a look-up that nobody will answer", id)?;
                }
                Stage::Checkpoint { of, .. } => {
                    ensure(self.districts[of].checkpoints.has(id), "a checkpoint that answers nobody", id)?;
                }
                Stage::Sleeping { .. } => ensure(call.timer != 0, "a sleeper without a timer", id)?,
            }
        }
        for (id, message) in self.messages.slots().filter(|(_, message)| message.sender.is_some()) {
            counts.2 += 1;
            ensure(message.via.is_some_and(|via| self.keys[via].broken.is_none()), "a message through a dead key", id)?;
        }
        for d in self.all_attached() {
            counts.3 += 1;
            self.check_district(d)?;
        }
        let stored = (self.keys.len(), self.calls.len(), self.messages.len(), self.districts.len());
        ensure(counts == stored, "records that nobody has", (counts, stored))?;
        for (at, timer) in &self.timers {
            let rings = match timer {
                Timer::Call(call) => self.calls[*call].timer,
                Timer::Key(key) => self.keys[*key].expires,
            };
            ensure(rings == *at, "a timer for nothing", timer)?;
        }
        Ok(())
    }

    /// How many records are stored on behalf of attached districts: keys, objects, calls, messages, watches, timers and
    /// what waits to be told.
    pub fn stored_records(&self) -> u64 {
        let attached = self.all_attached();
        let waiting: usize = attached.iter().map(|d| self.districts[*d].inbox.waiting as usize).sum();
        let slabs = self.keys.len() + self.objects.len() + self.calls.len() + self.messages.len() + self.watches.len();
        (slabs + self.timers.len() + waiting) as u64
    }

    fn check_key(&self, id: KeyId, key: &Key) -> Result<(), String> {
        ensure(key.target != Target::Nothing || key.broken.is_some(), "a live key to nothing", id)?;
        ensure(key.target == Target::Nothing || key.broken.is_none(), "a broken key to something", id)?;
        ensure(key.depth <= DEPTH_MAX, "a key too deep", id)?;
        if !matches!(key.target, Target::Service(_)) {
            ensure(full_rights(key.kind).contains(key.rights), "rights that the kind does not have", id)?;
        }
        if let Some(parent) = key.parent.map(|parent| &self.keys[parent]) {
            ensure(parent.place != Place::Nowhere, "a parent that is gone", id)?;
            ensure(parent.target == key.target, "a child with another target", id)?;
            ensure(parent.rights.contains(key.rights), "a child with more rights than its parent", id)?;
            ensure(parent.badge == 0 || parent.badge == key.badge, "a child with another badge", id)?;
            ensure(!parent.weak || key.weak, "a strong child of a weak key", id)?;
        }
        ensure(!key.weak || key.rights.intersection(Rights::BIND) == Rights::NONE, "a weak key that binds", id)?;
        match (key.place, key.holder) {
            (Place::Held, Some(holder)) if key.serial != 0 => {
                let claim = self.districts[holder].handles.claim(Handle::from_serial(key.serial));
                ensure(claim == Claim::Key(id), "a key that its holder does not have", id)
            }
            (Place::Held, holder) => {
                let bootstrap = holder.and_then(|holder| self.districts[holder].bootstrap);
                ensure(bootstrap == Some(id), "a second handle 1", id)
            }
            (Place::Bound(service), _) => {
                ensure(self.services[service].key == Some(id), "a bound key without a name", id)
            }
            (Place::Lingering, _) => ensure(key.is_busy(), "a key that lingers for nothing", id),
            (Place::InTransit | Place::Nowhere, _) => Ok(()),
        }
    }

    fn check_district(&self, d: DistrictIx) -> Result<(), String> {
        let district = &self.districts[d];
        let used = u64::from(district.handles.used()) + u64::from(district.handles.promised);
        ensure(used <= u64::from(district.limits.handles), "more handles than allowed", d)?;
        ensure(district.queued_bytes <= district.limits.queued_bytes, "more queued bytes than allowed", d)?;
        ensure(district.call_count <= district.limits.calls, "more calls than allowed", d)?;
        ensure(district.watch_count <= district.limits.watches, "more watches than allowed", d)?;
        ensure(district.export_count <= district.limits.exports, "more exports than allowed", d)?;
        ensure(district.binding_count <= district.limits.bindings, "more names bound than allowed", d)?;
        ensure(!district.closing, "a district that is still closing", d)?;
        let calls = district.calls.iter(&self.calls, |call| &call.siblings);
        ensure(calls.count() == district.call_count as usize, "calls miscounted", d)?;
        let sent = self.messages.slots().filter(|(_, message)| message.sender == Some(d));
        let bytes: u64 = sent.map(|(_, message)| message.cost()).sum();
        ensure(bytes == district.queued_bytes, "queued bytes miscounted", d)?;
        self.check_promises(d)?;
        self.check_checkpoints(d)?;
        self.check_inbox(d)
    }

    fn check_promises(&self, d: DistrictIx) -> Result<(), String> {
        let coming = self.messages.slots().filter(|(_, message)| message.receiver == Some(d));
        let coming: u32 = coming.map(|(_, message)| message.handles()).sum();
        let calls = self.calls.slots().filter(|(_, call)| call.caller == Some(d));
        let replies: u32 = calls.map(|(_, call)| call.promised).sum();
        ensure(coming + replies == self.districts[d].handles.promised, "promised handles miscounted", d)
    }

    fn check_checkpoints(&self, d: DistrictIx) -> Result<(), String> {
        let waiting =
            self.calls.slots().filter(|(_, call)| matches!(call.stage, Stage::Checkpoint { of, .. } if of == d));
        let checkpoints = &self.districts[d].checkpoints;
        ensure(waiting.count() == checkpoints.waiting(), "checkpoints for calls that are gone", d)?;
        ensure(checkpoints.is_asked_for(), "a call for which no checkpoint will begin", d)
    }

    fn check_inbox(&self, d: DistrictIx) -> Result<(), String> {
        let inbox = &self.districts[d].inbox;
        let messages = self.messages.slots().filter(|(_, message)| message.receiver == Some(d)).count();
        let waiting = messages + inbox.notices.len() + inbox.notifiers.len();
        ensure(waiting == inbox.waiting as usize, "deliveries miscounted", d)
    }
}
