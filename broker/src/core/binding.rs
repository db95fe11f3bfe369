//! What published names mean at present (semantics, section 9).

use district_protocol::operation::KeyKind;
use district_protocol::rights::Rights;
use district_protocol::status::{Argument, Quota, Status};

use super::Core;
use super::request::Answer;
use crate::call::Stage;
use crate::district::DistrictIx;
use crate::effect::{BindingRecord, Effect};
use crate::key::{DEPTH_MAX, Key, NOT_WEAK, Place, full_rights};
use crate::message::Carried;
use crate::service::ServiceId;

/// A name gets a new meaning.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Binding {
    /// Who gives the key.
    pub from: DistrictIx,
    /// Whose name it is.
    pub owner: DistrictIx,
    pub service: ServiceId,
    /// A checked argument.
    pub key: Carried,
}

/// What binding a name costs of the frames per second: with the usual limit, some fifty a second.
const BIND_FRAMES: u64 = 20_000;

impl Core {
    /// Binds a name, and answers those who wait for it. The new version.
    pub(crate) fn bind(&mut self, binding: Binding) -> Result<u64, Status> {
        let Binding { from, owner, service, key } = binding;
        let bindable = match self.keys[key.key].kind {
            KeyKind::Entry | KeyKind::Notify | KeyKind::Number | KeyKind::Directory => !self.keys[key.key].once,
            KeyKind::Reply | KeyKind::Log | KeyKind::Clock | KeyKind::Random | KeyKind::Supervisor => false,
        };
        if !bindable {
            return Err(Status::BadArgument(Argument::key(0)));
        }
        let district = &mut self.districts[owner];
        if self.services[service].key.is_none() {
            if district.binding_count >= district.limits.bindings {
                return Err(Status::Quota(Quota::Bindings));
            }
            district.binding_count += 1;
        }
        // It goes to disk, which everybody else has to wait for.
        let now = self.now;
        self.districts[from].bucket.charge(now, BIND_FRAMES);
        let key = self.take_argument(from, key);
        let record = &mut self.keys[key];
        record.holder = None;
        record.serial = 0;
        record.place = Place::Bound(service);
        let old = self.services[service].key.replace(key);
        if let Some(old) = old {
            self.release(old);
        }
        let record = &mut self.services[service];
        record.version += 1;
        let version = record.version;
        let record = BindingRecord { owner: record.owner, name: record.name.clone(), version };
        self.effects.push_back(Effect::Bound(record));
        self.answer_waiters(service);
        Ok(version)
    }

    /// Takes the meaning from a name. It stays known.
    pub(crate) fn unbind(&mut self, service: ServiceId) {
        if let Some(key) = self.services[service].key {
            self.unready(service);
            self.release(key);
        }
    }

    /// The key behind a name is gone.
    pub(crate) fn unready(&mut self, service: ServiceId) {
        self.services[service].key = None;
        if let Some(owner) = self.attached(self.services[service].owner) {
            let count = &mut self.districts[owner].binding_count;
            *count = count.saturating_sub(1);
        }
    }

    /// A key of its own to what a name means now: a child of the key that was bound, so that its owner can revoke it.
    pub(crate) fn fetch_service(
        &mut self,
        d: DistrictIx,
        service: ServiceId,
        rights: Rights,
        weak: bool,
    ) -> Result<Answer, Status> {
        let bound = self.services[service].key.ok_or(Status::NotReady)?;
        let version = self.services[service].version;
        let key = &self.keys[bound];
        if key.depth >= DEPTH_MAX {
            return Err(Status::TooDeep);
        }
        let rights = key.rights.intersection(rights).intersection(full_rights(key.kind));
        let mut child = key.child(rights);
        if weak {
            child = Key { weak, rights: rights.without(NOT_WEAK), ..child };
        }
        let handle = self.give(d, child, Some(bound))?;
        Ok(Answer { key: Some(handle), ..Answer::result(version) })
    }

    fn answer_waiters(&mut self, service: ServiceId) {
        for call in std::mem::take(&mut self.services[service].waiters) {
            let Stage::Waiting { rights, weak, .. } = self.calls[call].stage else { continue };
            let call = self.close_call(call, false);
            let Some(caller) = call.caller else { continue };
            let (header, data) = match self.fetch_service(caller, service, rights, weak) {
                Ok(answer) => (answer.header(call.token), answer.data),
                Err(status) => {
                    (district_protocol::frame::CompletionHeader::new(status, call.token), Default::default())
                }
            };
            self.complete(caller, call.chain, header, data);
        }
    }
}
