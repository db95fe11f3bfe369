//! A view of the broker for people: who can reach what, and who uses how much.

use std::sync::Arc;

use district_protocol::handle::Handle;
use district_protocol::operation::KeyKind;
use district_protocol::rights::Rights;
use district_protocol::status::Reason;

use super::Core;
use crate::district::{Counters, DistrictIx};
use crate::effect::DistrictId;
use crate::key::{KeyId, Place, Target};
use crate::limits::Limits;
use crate::object::{ObjectKind, View};

/// Everything, in a fixed order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreView {
    /// The attached districts, by their identity.
    pub districts: Vec<DistrictView>,
    /// The published names, by owner and name.
    pub bindings: Vec<BindingView>,
}

/// One attached district.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DistrictView {
    /// Its identity.
    pub id: DistrictId,
    /// Its name.
    pub name: Arc<str>,
    /// Its present life.
    pub epoch: u64,
    /// What it may use.
    pub limits: Limits,
    /// What it uses.
    pub usage: Usage,
    /// What it has done.
    pub counters: Counters,
    /// Its keys, handle 1 first, the others by their serial.
    pub keys: Vec<KeyView>,
}

/// What a district uses of its [`Limits`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Handles in its table, and promised room.
    pub handles: u32,
    /// Exports and notifiers.
    pub exports: u32,
    /// Bytes queued at others.
    pub queued_bytes: u64,
    /// Watches.
    pub watches: u32,
    /// Bound names.
    pub bindings: u32,
    /// Calls without an answer.
    pub calls: u32,
    /// Deliveries that wait for it.
    pub inbox: u32,
}

/// One key in a district's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyView {
    /// The district's handle.
    pub handle: Handle,
    /// What kind it is, or was.
    pub kind: KeyKind,
    /// Its rights.
    pub rights: Rights,
    /// Its badge; 0: none.
    pub badge: u64,
    /// Whether what is fetched through it is weak.
    pub weak: bool,
    /// Who it was got from, through a message or a name, if that is somebody else.
    pub from: Option<DistrictId>,
    /// What it leads to.
    pub target: TargetView,
    /// How it is.
    pub state: KeyState,
}

/// How a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// It can be used.
    Live,
    /// It is in a message that has not been delivered.
    InTransit,
    /// A tombstone.
    Broken(Reason),
}

/// What a key leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetView {
    /// Nothing any more.
    Nothing,
    /// An export of a district, by its owner's name for it.
    Export {
        /// The exporter.
        owner: DistrictId,
        /// Its name for the object.
        export: u64,
    },
    /// A call of a district.
    Call {
        /// The caller.
        caller: DistrictId,
    },
    /// A district's names.
    Directory {
        /// Whose names.
        owner: DistrictId,
        /// `None`: all; otherwise, one name or, if that is empty, all under `publish`.
        publish: Option<Arc<str>>,
    },
    /// A district's log.
    Log {
        /// Whose.
        owner: DistrictId,
    },
    /// A supervisor of a district.
    Supervisor {
        /// Which it looks after.
        owner: DistrictId,
    },
    /// A number.
    Number(u64),
    /// The clock.
    Clock,
    /// Random bytes.
    Random,
    /// What a name means at the time of use.
    Service {
        /// Whose name.
        owner: DistrictId,
        /// The name.
        name: Arc<str>,
    },
}

/// A published name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingView {
    /// Whose name.
    pub owner: DistrictId,
    /// The name.
    pub name: Arc<str>,
    /// How many times it has been bound; 0: never.
    pub version: u64,
    /// What it means now; `None`: not ready.
    pub kind: Option<KeyKind>,
    /// Look-ups that wait for it.
    pub waiting: usize,
}

impl Core {
    /// A view of everything.
    pub fn inspect(&self) -> CoreView {
        let mut districts: Vec<DistrictView> = self.all_attached().into_iter().map(|d| self.district_view(d)).collect();
        districts.sort_by_key(|district| district.id);
        let bindings = self.service_index.values().map(|service| {
            let service = &self.services[*service];
            BindingView {
                owner: service.owner,
                name: service.name.clone(),
                version: service.version,
                kind: service.key.map(|key| self.keys[key].kind),
                waiting: service.waiters.len(),
            }
        });
        CoreView { districts, bindings: bindings.collect() }
    }

    fn district_view(&self, d: DistrictIx) -> DistrictView {
        let district = &self.districts[d];
        let bootstrap = district.bootstrap.map(|key| self.key_view(Handle::BOOTSTRAP, key));
        let mut keys: Vec<KeyView> = (district.handles.iter())
            .filter_map(|(serial, key)| Some(self.key_view(Handle::from_serial(serial), key?)))
            .collect();
        keys.sort_by_key(|key| key.handle);
        DistrictView {
            id: district.id,
            name: district.name.clone(),
            epoch: district.epoch,
            limits: district.limits,
            usage: Usage {
                handles: district.handles.used() + district.handles.promised,
                exports: district.export_count,
                queued_bytes: district.queued_bytes,
                watches: district.watch_count,
                bindings: district.binding_count,
                calls: district.call_count,
                inbox: district.inbox.waiting,
            },
            counters: district.counters,
            keys: bootstrap.into_iter().chain(keys).collect(),
        }
    }

    fn key_view(&self, handle: Handle, id: KeyId) -> KeyView {
        let key = &self.keys[id];
        let state = match (key.broken, key.place) {
            (Some(reason), _) => KeyState::Broken(reason),
            (None, Place::InTransit) => KeyState::InTransit,
            (None, _) => KeyState::Live,
        };
        let target = self.target_view(key.target);
        // A key that is bound to a name is nobody's; it came from whoever has bound it.
        let above = std::iter::successors(key.parent, |parent| self.keys[*parent].parent);
        let giver = above.filter_map(|parent| self.keys[parent].holder).next();
        let from = giver.filter(|giver| Some(*giver) != key.holder).map(|giver| self.districts[giver].id);
        KeyView { handle, kind: key.kind, rights: key.rights, badge: key.badge, weak: key.weak, from, target, state }
    }

    fn target_view(&self, target: Target) -> TargetView {
        match target {
            Target::Nothing => TargetView::Nothing,
            Target::Object(id) => {
                let object = &self.objects[id];
                let Some(owner) = object.owner.map(|owner| &self.districts[owner]) else {
                    return TargetView::Nothing;
                };
                match object.kind {
                    ObjectKind::Entry | ObjectKind::Notifier { .. } => {
                        TargetView::Export { owner: owner.id, export: object.export }
                    }
                    ObjectKind::Log => TargetView::Log { owner: owner.id },
                    ObjectKind::Supervisor => TargetView::Supervisor { owner: owner.id },
                    ObjectKind::Directory(view) => TargetView::Directory {
                        owner: owner.id,
                        publish: match view {
                            View::Root => None,
                            View::Publish => Some(Arc::from("")),
                            View::Name(number) => owner.published.get(number).map(|it| it.name.clone()),
                        },
                    },
                }
            }
            Target::Reply(call) => match self.calls[call].caller {
                Some(caller) => TargetView::Call { caller: self.districts[caller].id },
                None => TargetView::Nothing,
            },
            Target::Number(number) => TargetView::Number(number),
            Target::Clock => TargetView::Clock,
            Target::Random => TargetView::Random,
            Target::Service(service) => {
                let service = &self.services[service];
                TargetView::Service { owner: service.owner, name: service.name.clone() }
            }
        }
    }
}
