//! Revocation: all descendants of a key break in one step, wherever they are (semantics, section 7).

use district_protocol::handle::Handle;
use district_protocol::rights::Rights;
use district_protocol::status::{Argument, Reason, Status};

use super::Core;
use super::request::{Outcome, done};
use crate::district::DistrictIx;
use crate::key::KeyId;
use crate::object::ObjectId;

impl Core {
    /// `Revoke`.
    pub(crate) fn revoke(&mut self, d: DistrictIx, handle: Handle) -> Outcome {
        if handle == Handle::BOOTSTRAP {
            return Err(Status::Denied(Argument::TARGET));
        }
        let used = self.find_used(d, handle)?;
        used.require(Rights::REVOKE)?;
        self.break_descendants(used.key, Reason::Revoked);
        done()
    }

    /// Breaks all descendants, the deepest first. The way down is never longer than the greatest depth of a key, and
    /// each way down ends with a key broken, so the work is bounded by the keys that others hold, and so by quotas.
    pub(crate) fn break_descendants(&mut self, root: KeyId, reason: Reason) {
        while let Some(mut key) = self.keys[root].children.first {
            while let Some(child) = self.keys[key].children.first {
                key = child;
            }
            self.break_key(key, reason);
        }
    }

    /// Breaks all keys to an object.
    pub(crate) fn break_object(&mut self, object: ObjectId, reason: Reason) {
        while let Some(key) = self.objects[object].keys.first {
            self.break_key(key, reason);
        }
    }
}
