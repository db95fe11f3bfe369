//! Reply keys: each answers one call, once (semantics, section 5).

use district_protocol::frame::{CompletionHeader, KEYS_MAX, REQUEST_HEADER};
use district_protocol::status::{Argument, Status};

use super::Core;
use super::request::{Outcome, Request, done};
use crate::call::CallId;
use crate::district::DistrictIx;
use crate::effect::Data;
use crate::key::Target;

impl Core {
    /// `Reply`: answers the call of a reply key. Until everything is checked the key stays as it is.
    pub(crate) fn reply(&mut self, d: DistrictIx, request: Request) -> Outcome {
        let header = request.header;
        let key = self.find_live(d, header.handle, Argument::TARGET)?;
        let Target::Reply(call) = self.keys[key].target else { return Err(Status::BadArgument(Argument::TARGET)) };
        if header.data_len > self.calls[call].capacity {
            return Err(Status::TooBig);
        }
        let arguments = self.check_arguments(d, &header, Some(key))?;
        let serials = self.reply_serials(call, arguments.count)?;

        let serial = self.keys[key].serial;
        self.districts[d].handles.remove(serial);
        self.keys.remove(key);
        let call = self.close_call(call, false);
        if let Some(caller) = call.caller {
            let keys = self.hand_over(d, caller, arguments, serials);
            let answer = CompletionHeader {
                result: header.operation,
                key_count: header.keys.iter().flatten().map(|_| 1).sum(),
                keys,
                ..CompletionHeader::new(Status::Ok, call.token)
            };
            self.complete(caller, call.chain, answer, Data::tail(request.frame, REQUEST_HEADER));
        }
        done()
    }

    /// Serials for the keys of a reply. Room for them was promised when the call was made; only if the caller has no
    /// serials left for the moment does the replier have to wait.
    fn reply_serials(&self, call: CallId, count: u32) -> Result<[u64; KEYS_MAX], Status> {
        let mut serials = [0; KEYS_MAX];
        let Some(caller) = self.calls[call].caller else { return Ok(serials) };
        let mut from = 0;
        for serial in serials.iter_mut().take(count as usize) {
            *serial = self.districts[caller].handles.free_serial(from).ok_or(Status::WouldBlock)?;
            from = *serial + 1;
        }
        Ok(serials)
    }
}
