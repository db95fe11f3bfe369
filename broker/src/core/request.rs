//! Requests: one comes in, exactly one completion goes out, now or when its outcome is known.

use district_protocol::frame::{
    CompletionHeader, FLAG_BADGE, FLAG_ONCE, FLAG_WEAK, FrameError, REQUEST_HEADER, RequestHeader, RequestKind,
};
use district_protocol::handle::Handle;
use district_protocol::operation::KeyKind;
use district_protocol::status::{Argument, Quota, Reason, Status};

use super::Core;
use super::keys::Used;
use crate::district::DistrictIx;
use crate::effect::{Data, DistrictId};
use crate::key::{Key, Place, Target, full_rights};
use crate::object::ObjectKind;
use crate::objects;

/// A request as it was copied out of the window. Nothing in it is checked.
#[derive(Debug, Clone, Default)]
pub struct RawRequest {
    /// The chain that it came in, for the completion.
    pub chain: u16,
    /// Most bytes of data that the completion may have: the writable bytes of the chain less the completion's header.
    pub capacity: u32,
    /// The readable bytes of the chain, header and data.
    pub bytes: Vec<u8>,
}

/// A request whose frame is well formed.
#[derive(Debug)]
pub(crate) struct Request {
    pub header: RequestHeader,
    pub chain: u16,
    pub capacity: u32,
    /// Header and data.
    pub frame: Vec<u8>,
    pub is_call: bool,
}

impl Request {
    pub(crate) fn data(&self) -> &[u8] {
        &self.frame[REQUEST_HEADER..]
    }
}

/// What a request is answered with at once.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: Status,
    pub result: u64,
    pub key: Option<Handle>,
    pub data: Data,
}

impl Answer {
    /// `Ok`, with this result.
    pub(crate) fn result(result: u64) -> Answer {
        Answer { status: Status::Ok, result, key: None, data: Data::default() }
    }

    pub(crate) fn header(&self, token: u64) -> CompletionHeader {
        let mut header = CompletionHeader::new(self.status, token);
        header.result = self.result;
        if let Some(key) = self.key {
            header.key_count = 1;
            header.keys[0] = key;
        }
        header
    }
}

/// How far a request got: an answer, `None` if its completion comes or came by another way, or a refusal that has
/// changed nothing.
pub(crate) type Outcome = Result<Option<Answer>, Status>;

/// `Ok`, and nothing more to say.
pub(crate) fn done() -> Outcome {
    Ok(Some(Answer::result(0)))
}

impl Core {
    /// Takes a request of a district. One from a district that is not attached is dropped.
    pub fn request(&mut self, now: u64, district: DistrictId, request: RawRequest) {
        self.expire(now);
        let Some(d) = self.attached(district) else { return };
        let RawRequest { chain, capacity, bytes } = request;
        let token = token_of(&bytes);
        let outcome = self.admit(d, &bytes).and_then(|header| {
            let is_call = header.kind == RequestKind::Call;
            self.dispatch(d, Request { header, chain, capacity, frame: bytes, is_call })
        });
        let header_and_data = match outcome {
            Ok(None) => return,
            Ok(Some(answer)) => (answer.header(token), answer.data),
            Err(status) => (CompletionHeader::new(status, token), Data::default()),
        };
        self.complete(d, chain, header_and_data.0, header_and_data.1);
    }

    /// Checks rate and frame.
    fn admit(&mut self, d: DistrictIx, bytes: &[u8]) -> Result<RequestHeader, Status> {
        let district = &mut self.districts[d];
        district.counters.requests += 1;
        if !district.bucket.take(self.now) {
            district.counters.refused += 1;
            return Err(Status::Quota(Quota::Frames));
        }
        decode(bytes).inspect_err(|_| district.counters.bad_frames += 1)
    }

    fn dispatch(&mut self, d: DistrictIx, request: Request) -> Outcome {
        let header = request.header;
        match header.kind {
            RequestKind::Call | RequestKind::Send => self.invoke(d, request),
            RequestKind::Reply => self.reply(d, request),
            RequestKind::Notify => objects::notify::notify(self, d, &header),
            RequestKind::Cancel => Ok(Some(Answer::result(u64::from(self.cancel(d, header.argument))))),
            RequestKind::Derive => self.derive(d, &header),
            RequestKind::Drop => self.drop_handle(d, header.handle),
            RequestKind::Revoke => self.revoke(d, header.handle),
            RequestKind::Watch => self.watch(d, header.handle, header.argument),
            RequestKind::Export => self.export(d, ObjectKind::Entry, KeyKind::Entry, header.argument),
            RequestKind::Notifier => {
                let kind = ObjectKind::Notifier { bits: 0, queued: false };
                self.export(d, kind, KeyKind::Notify, header.argument)
            }
            RequestKind::Identify => self.identify(d, header.handle),
        }
    }

    /// `Call` and `Send`: the object behind the key decides what they mean. The host answers a send like a call.
    fn invoke(&mut self, d: DistrictIx, request: Request) -> Outcome {
        let used = self.find_used(d, request.header.handle)?;
        let once = self.keys[used.key].once;
        let outcome = match self.keys[used.key].target {
            Target::Object(object) => match self.objects[object].kind {
                ObjectKind::Entry => objects::entry::invoke(self, d, used, object, request),
                ObjectKind::Notifier { .. } => objects::notify::invoke(),
                ObjectKind::Log => objects::log::invoke(self, used, object, &request),
                ObjectKind::Supervisor => objects::supervisor::invoke(self, d, used, object, &request),
                ObjectKind::Directory(view) => objects::directory::invoke(self, d, used, object, view, request),
            },
            Target::Reply(_) => objects::reply::invoke(),
            Target::Number(number) => objects::number::invoke(used, number, &request),
            Target::Clock => objects::clock::invoke(self, d, used, &request),
            Target::Random => objects::random::invoke(self, d, used, &request),
            Target::Service(_) | Target::Nothing => Err(Status::NotReady),
        };
        if once && outcome.as_ref().is_ok_and(|answer| answer.as_ref().is_none_or(|it| it.status == Status::Ok)) {
            self.spend_used(d, used);
        }
        outcome
    }

    /// Spends a once-only key, if it has not gone elsewhere by its own use.
    pub(crate) fn spend_used(&mut self, d: DistrictIx, used: Used) {
        let key = &self.keys[used.key];
        if key.place == Place::Held && key.holder == Some(d) && key.broken.is_none() {
            self.spend(d, used.key);
        }
    }

    /// `Export` and `Notifier`.
    fn export(&mut self, d: DistrictIx, object: ObjectKind, kind: KeyKind, name: u64) -> Outcome {
        let district = &self.districts[d];
        if district.export_count >= district.limits.exports {
            return Err(Status::Quota(Quota::Exports));
        }
        let serial = self.room_for_handle(d)?;
        self.districts[d].export_count += 1;
        let object = self.new_object(d, object, name);
        let key = self.add_key(Key::new(kind, Target::Object(object), full_rights(kind)), None);
        Ok(Some(Answer::result(self.hold(d, key, serial).0)))
    }

    /// `Drop`. A tombstone is dropped like a live key.
    fn drop_handle(&mut self, d: DistrictIx, handle: Handle) -> Outcome {
        if handle == Handle::BOOTSTRAP {
            return Err(Status::Denied(Argument::TARGET));
        }
        let key = self.find(d, handle, Argument::TARGET)?;
        if let Target::Reply(call) = self.keys[key].target {
            self.finish(call, Status::Unknown(Reason::NoReply), false);
            // Nothing is left of the call that this key could answer.
            self.keys[key].target = Target::Nothing;
        }
        self.districts[d].handles.remove(self.keys[key].serial);
        self.release(key);
        done()
    }

    fn identify(&mut self, d: DistrictIx, handle: Handle) -> Outcome {
        let used = self.find_used(d, handle)?;
        let kind = self.keys[used.key].kind as u8;
        Ok(Some(Answer::result(u64::from(used.rights.0) << 32 | u64::from(kind))))
    }
}

/// The token of a frame that may not be one.
fn token_of(bytes: &[u8]) -> u64 {
    let token = bytes.get(RequestHeader::TOKEN..).and_then(|rest| rest.first_chunk());
    token.map_or(0, |token| u64::from_le_bytes(*token))
}

fn decode(bytes: &[u8]) -> Result<RequestHeader, Status> {
    let header = RequestHeader::decode(bytes).map_err(|error| match error {
        FrameError::TooShort => Status::BadArgument(Argument::HEADER),
        FrameError::Refused(status) => status,
    })?;
    if header.data_len as usize != bytes.len() - REQUEST_HEADER {
        return Err(Status::BadArgument(Argument::HEADER));
    }
    let carries = matches!(header.kind, RequestKind::Call | RequestKind::Send | RequestKind::Reply);
    if !carries && header.keys[0].is_some() {
        return Err(Status::BadArgument(Argument::key(0)));
    }
    if !carries && header.data_len != 0 {
        return Err(Status::BadArgument(Argument::DATA));
    }
    let flags = if header.kind == RequestKind::Derive { FLAG_BADGE | FLAG_ONCE | FLAG_WEAK } else { 0 };
    if header.flags & !flags != 0 {
        return Err(Status::BadArgument(Argument::HEADER));
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_of_a_torn_frame_is_read_if_it_is_there() {
        assert_eq!(token_of(&[]), 0);
        assert_eq!(token_of(&[1; 15]), 0);
        assert_eq!(token_of(&[1; 16]), 0x0101_0101_0101_0101);
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let mut header = RequestHeader::new(RequestKind::Send, Handle(1));
        header.data_len = 1;
        let mut bytes = header.encode().to_vec();
        assert_eq!(decode(&bytes), Err(Status::BadArgument(Argument::HEADER)));
        bytes.push(0);
        assert_eq!(decode(&bytes), Ok(header));
        bytes.push(0);
        assert_eq!(decode(&bytes), Err(Status::BadArgument(Argument::HEADER)));
        assert_eq!(decode(&bytes[..100]), Err(Status::BadArgument(Argument::HEADER)));
    }

    #[test]
    fn what_a_request_does_not_use_must_be_absent() {
        let mut header = RequestHeader::new(RequestKind::Drop, Handle(1));
        header.flags = FLAG_ONCE;
        assert_eq!(decode(&header.encode()), Err(Status::BadArgument(Argument::HEADER)));
        header.flags = 0;
        header.data_len = 1;
        let mut bytes = header.encode().to_vec();
        bytes.push(0);
        assert_eq!(decode(&bytes), Err(Status::BadArgument(Argument::DATA)));
    }
}
