//! Derivation: a child never has more than its parent (semantics, section 4).

use district_protocol::frame::{FLAG_BADGE, FLAG_ONCE, FLAG_WEAK, RequestHeader};
use district_protocol::operation::KeyKind;
use district_protocol::rights::Rights;
use district_protocol::status::{Argument, Status};

use super::keys::Used;
use super::request::{Answer, Outcome};
use super::{Core, Timer};
use crate::district::DistrictIx;
use crate::key::{DEPTH_MAX, Key, KeyId, NOT_WEAK, Target};

impl Core {
    /// `Derive`.
    pub(crate) fn derive(&mut self, d: DistrictIx, header: &RequestHeader) -> Outcome {
        let used = self.find_used(d, header.handle)?;
        used.require(Rights::DERIVE)?;
        let rights = wanted_rights(header.operation)?;
        if !used.rights.contains(rights) {
            return Err(Status::Denied(Argument::OPERATION));
        }
        if self.keys[used.key].depth >= DEPTH_MAX {
            return Err(Status::TooDeep);
        }
        let mut child = self.keys[used.key].child(rights);
        if header.flags & FLAG_BADGE != 0 {
            child.badge = self.new_badge(d, used, header.argument)?;
        }
        if header.flags & FLAG_ONCE != 0 {
            // One use would become many.
            if rights.0 & Rights::DERIVE.union(Rights::DUPLICATE).0 != 0 {
                return Err(Status::Denied(Argument::OPERATION));
            }
            child.once = true;
        }
        if header.flags & FLAG_WEAK != 0 {
            if child.kind != KeyKind::Directory {
                return Err(Status::BadArgument(Argument::HEADER));
            }
            if rights.0 & NOT_WEAK.0 != 0 {
                return Err(Status::Denied(Argument::OPERATION));
            }
            child.weak = true;
        }
        let serial = self.room_for_handle(d)?;
        let child = self.add_key(child, Some(used.key));
        if header.timeout != 0 {
            self.set_expiry(child, header.timeout);
        }
        Ok(Some(Answer::result(self.hold(d, child, serial).0)))
    }

    /// A badge is set once, by the exporter of the object, which alone will see it.
    fn new_badge(&self, d: DistrictIx, used: Used, badge: u64) -> Result<u64, Status> {
        let key: &Key = &self.keys[used.key];
        let exporter = match key.target {
            Target::Object(object) if key.kind == KeyKind::Entry => self.objects[object].owner,
            _ => None,
        };
        if exporter != Some(d) || key.badge != 0 {
            return Err(Status::Denied(Argument::HEADER));
        }
        // Zero means no badge.
        if badge == 0 { Err(Status::BadArgument(Argument::HEADER)) } else { Ok(badge) }
    }

    fn set_expiry(&mut self, key: KeyId, lifetime: u64) {
        let at = self.now.saturating_add(lifetime);
        self.keys[key].expires = at;
        self.timers.insert((at, Timer::Key(key)));
    }
}

fn wanted_rights(operation: u64) -> Result<Rights, Status> {
    match u32::try_from(operation) {
        Ok(bits) if Rights::ALL.contains(Rights(bits)) => Ok(Rights(bits)),
        _ => Err(Status::BadArgument(Argument::OPERATION)),
    }
}
