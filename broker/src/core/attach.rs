//! The beginning of a session: one key, handle 1, and nothing else.

use std::sync::Arc;

use district_protocol::operation::{KeyKind, directory};
use district_protocol::rights::Rights;

use super::Core;
use crate::district::{
    Attach, AttachError, Bootstrap, District, DistrictIx, Grant, GrantTarget, Granted, Granting, Published,
};
use crate::key::{Key, Place, Target, full_rights};
use crate::limits::Bucket;
use crate::object::{Object, ObjectId, ObjectKind, View};
use crate::objects::directory::is_name;
use crate::table::Handles;

impl Core {
    /// Begins a session of a district. From now on its requests are taken.
    pub fn attach(&mut self, now: u64, attach: Attach) -> Result<(), AttachError> {
        self.expire(now);
        if self.attached(attach.district).is_some() {
            return Err(AttachError::Attached(attach.district));
        }
        let reserved = if attach.publishes.is_empty() { None } else { Some(directory::PUBLISH) };
        check_names(attach.grants.iter().map(|grant| &grant.name), reserved)?;
        check_names(attach.publishes.iter(), None)?;
        let id = attach.district;
        let d = self.districts.insert(District {
            id,
            name: attach.name,
            epoch: attach.epoch,
            limits: attach.limits,
            handles: Handles::new(attach.epoch_first_serial, attach.serials),
            bucket: Bucket::new(attach.limits.frames_per_second),
            ..District::default()
        });
        self.index.insert(id, d);
        self.districts[d].log = Some(self.new_object(d, ObjectKind::Log, 0));
        self.districts[d].supervisor = Some(self.new_object(d, ObjectKind::Supervisor, 0));
        self.make_publish_directories(d, attach.publishes);
        self.take_grants(d, attach.grants);
        self.make_bootstrap_key(d, attach.bootstrap);
        self.ask_for_serials(d);
        Ok(())
    }

    /// An object of this district. It goes with the session at the latest.
    pub(crate) fn new_object(&mut self, owner: DistrictIx, kind: ObjectKind, export: u64) -> ObjectId {
        let object = self.objects.insert(Object { owner: Some(owner), kind, export, ..Object::default() });
        self.districts[owner].objects.push(&mut self.objects, object, |object| &mut object.owned);
        object
    }

    fn make_publish_directories(&mut self, d: DistrictIx, mut names: Vec<Arc<str>>) {
        if names.is_empty() {
            return;
        }
        names.sort();
        let id = self.districts[d].id;
        self.districts[d].publish = Some(self.new_object(d, ObjectKind::Directory(View::Publish), 0));
        for (number, name) in names.into_iter().enumerate() {
            let service = self.service(id, &name);
            let directory = self.new_object(d, ObjectKind::Directory(View::Name(number)), 0);
            self.districts[d].published.push(Published { name, service, directory });
        }
    }

    fn take_grants(&mut self, d: DistrictIx, mut grants: Vec<Grant>) {
        grants.sort_by(|a, b| a.name.cmp(&b.name));
        for Grant { name, target, rights } in grants {
            let source = match target {
                GrantTarget::Log => Granting::Log,
                GrantTarget::Clock => Granting::Clock,
                GrantTarget::Random => Granting::Random,
                GrantTarget::Checkpoint => Granting::Checkpoint,
                GrantTarget::Number(number) => Granting::Number(number),
                GrantTarget::Service { owner, name } => Granting::Service(self.service(owner, &name)),
            };
            self.districts[d].grants.push(Granted { name, source, rights });
        }
    }

    fn make_bootstrap_key(&mut self, d: DistrictIx, bootstrap: Bootstrap) {
        let key = match bootstrap {
            Bootstrap::OwnDirectory => {
                let root = self.new_object(d, ObjectKind::Directory(View::Root), 0);
                let rights = full_rights(KeyKind::Directory).without(Rights::BIND).without(Rights::SEND_KEYS);
                Key::new(KeyKind::Directory, Target::Object(root), rights)
            }
            Bootstrap::Service { owner, name } => {
                let service = self.service(owner, &name);
                Key::new(KeyKind::Entry, Target::Service(service), Rights::ALL)
            }
        };
        let key = self.add_key(Key { place: Place::Held, holder: Some(d), ..key }, None);
        self.districts[d].bootstrap = Some(key);
    }
}

fn check_names<'a>(names: impl Iterator<Item = &'a Arc<str>>, reserved: Option<&str>) -> Result<(), AttachError> {
    let mut names: Vec<&str> = names.map(|name| &**name).collect();
    names.sort_unstable();
    if let Some(bad) = names.iter().find(|name| !is_name(name) || Some(**name) == reserved) {
        return Err(AttachError::BadName(String::from(*bad)));
    }
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(AttachError::TwiceNamed(String::from(pair[0]))),
        None => Ok(()),
    }
}
