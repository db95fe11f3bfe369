//! Watches: whoever asks is told once that a key has broken (semantics, section 8).

use district_protocol::handle::Handle;
use district_protocol::rights::Rights;
use district_protocol::status::{Argument, Quota, Reason, Status};

use super::Core;
use super::request::{Outcome, done};
use crate::district::DistrictIx;
use crate::key::{KeyId, Watch};
use crate::message::Notice;

impl Core {
    /// `Watch`. Handle 1 never breaks; what it leads to can be watched through a key derived from it.
    pub(crate) fn watch(&mut self, d: DistrictIx, handle: Handle, cookie: u64) -> Outcome {
        if handle == Handle::BOOTSTRAP {
            return Err(Status::Denied(Argument::TARGET));
        }
        let used = self.find_used(d, handle)?;
        used.require(Rights::WATCH)?;
        let district = &mut self.districts[d];
        if district.watch_count >= district.limits.watches {
            return Err(Status::Quota(Quota::Watches));
        }
        district.watch_count += 1;
        let watch = self.watches.insert(Watch { district: Some(d), cookie, ..Watch::default() });
        self.keys[used.key].watches.push(&mut self.watches, watch, |watch| &mut watch.link);
        done()
    }

    /// A key broke. Each watch counts against its district's limit until it has been delivered.
    pub(crate) fn fire_watches(&mut self, key: KeyId, reason: Reason) {
        let mut list = std::mem::take(&mut self.keys[key].watches);
        while let Some(watch) = list.first {
            list.remove(&mut self.watches, watch, |watch| &mut watch.link);
            let Watch { district, cookie, .. } = self.watches.remove(watch);
            if let Some(d) = district {
                self.notice(d, Notice::Down { cookie, reason });
            }
        }
    }

    /// A key leaves its holder: its watches lapse.
    pub(crate) fn drop_watches(&mut self, key: KeyId) {
        let mut list = std::mem::take(&mut self.keys[key].watches);
        while let Some(watch) = list.first {
            list.remove(&mut self.watches, watch, |watch| &mut watch.link);
            if let Some(d) = self.watches.remove(watch).district {
                self.districts[d].watch_count -= 1;
            }
        }
    }
}
