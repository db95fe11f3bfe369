//! What happens when its time comes: calls end, sleepers are answered, keys break.

use district_protocol::frame::CompletionHeader;
use district_protocol::status::{Reason, Status};

use super::{Core, Timer};
use crate::call::{CallId, Stage};
use crate::effect::Data;

impl Core {
    /// Does everything whose time has come.
    pub fn expire(&mut self, now: u64) {
        self.set_now(now);
        while let Some((_, timer)) = self.timers.first().copied().filter(|(at, _)| *at <= self.now) {
            match timer {
                Timer::Call(call) => self.call_is_due(call),
                // Its maker gave it a lifetime, which is a revocation that was ordered in advance.
                Timer::Key(key) => {
                    self.break_descendants(key, Reason::Revoked);
                    self.break_key(key, Reason::Revoked);
                }
            }
        }
    }

    /// When [`Core::expire`] has to be called next.
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn call_is_due(&mut self, id: CallId) {
        let Stage::Sleeping { until } = self.calls[id].stage else { return self.give_up(id, Reason::Deadline) };
        if until > self.now {
            return self.give_up(id, Reason::Deadline);
        }
        let call = self.close_call(id, false);
        if let Some(caller) = call.caller {
            let header = CompletionHeader { result: self.now, ..CompletionHeader::new(Status::Ok, call.token) };
            self.complete(caller, call.chain, header, Data::default());
        }
    }
}
