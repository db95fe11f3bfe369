//! Calls: each ends exactly once (semantics, section 6).

use district_protocol::frame::CompletionHeader;
use district_protocol::handle::Handle;
use district_protocol::rights::Rights;
use district_protocol::status::{Quota, Reason, Status};

use super::request::Request;
use super::{Core, Timer};
use crate::call::{Call, CallId, Moved, Stage};
use crate::district::DistrictIx;
use crate::effect::Data;
use crate::key::{KeyId, Place, Target};
use crate::message::Notice;
use crate::table::Claim;

impl Core {
    /// Whether a district may make one more call that promises it `handles` handles.
    pub(crate) fn room_for_call(&self, d: DistrictIx, handles: u32) -> Result<(), Status> {
        let district = &self.districts[d];
        if district.call_count >= district.limits.calls {
            return Err(Status::Quota(Quota::Calls));
        }
        if !district.has_room(handles) {
            return Err(Status::Quota(Quota::Handles));
        }
        Ok(())
    }

    /// Enters a call for which there is room. It has no stage yet.
    pub(crate) fn open_call(&mut self, d: DistrictIx, request: &Request, promised: u32) -> CallId {
        let call = self.calls.insert(Call {
            caller: Some(d),
            chain: request.chain,
            token: request.header.token,
            capacity: request.capacity,
            promised,
            ..Call::default()
        });
        let district = &mut self.districts[d];
        district.calls.push(&mut self.calls, call, |call| &mut call.siblings);
        district.call_count += 1;
        district.handles.promised += promised;
        if request.header.timeout != 0 {
            self.set_call_timer(call, self.now.saturating_add(request.header.timeout));
        }
        call
    }

    /// Lets a call to a host object wait. `via` is the key that was used.
    pub(crate) fn suspend(&mut self, call: CallId, via: KeyId, stage: Stage) {
        self.calls[call].stage = stage;
        self.calls[call].via = Some(via);
        self.keys[via].pending.push(&mut self.calls, call, |call| &mut call.pending);
    }

    /// Sets the time at which a call's timer rings, in place of any later one.
    pub(crate) fn set_call_timer(&mut self, call: CallId, at: u64) {
        let timer = self.calls[call].timer;
        if timer != 0 && timer <= at {
            return;
        }
        self.timers.remove(&(timer, Timer::Call(call)));
        self.calls[call].timer = at;
        self.timers.insert((at, Timer::Call(call)));
    }

    /// Ends a call without a reply. If it was delivered, whoever holds the reply key is told.
    pub(crate) fn end_call(&mut self, id: CallId, status: Status) {
        if let Stage::Delivered { reply, .. } = self.calls[id].stage {
            self.cancel_reply(reply);
        }
        self.finish(id, status, false);
    }

    /// Ends a call that has no reply key, or none any more.
    pub(crate) fn finish(&mut self, id: CallId, status: Status, undone: bool) {
        let call = self.close_call(id, undone);
        if let Some(caller) = call.caller {
            self.complete(caller, call.chain, CompletionHeader::new(status, call.token), Data::default());
        }
    }

    /// Forgets a call, with its claims on its caller. `undone`: the receiver never saw it, and what it took along goes
    /// back.
    pub(crate) fn close_call(&mut self, id: CallId, undone: bool) -> Call {
        let timer = self.calls[id].timer;
        if timer != 0 {
            self.timers.remove(&(timer, Timer::Call(id)));
        }
        if let Some(via) = self.calls[id].via {
            self.keys[via].pending.remove(&mut self.calls, id, |call| &mut call.pending);
            self.settle(via);
        }
        if let Stage::Waiting { service, .. } = self.calls[id].stage {
            self.services[service].waiters.retain(|waiter| *waiter != id);
        }
        if let Stage::Checkpoint { of, .. } = self.calls[id].stage {
            self.districts[of].checkpoints.forget(id);
        }
        if let Some(caller) = self.calls[id].caller {
            let district = &mut self.districts[caller];
            district.calls.remove(&mut self.calls, id, |call| &mut call.siblings);
            district.call_count -= 1;
            district.handles.promised -= self.calls[id].promised;
        }
        let call = self.calls.remove(id);
        if let (Some(caller), Stage::Delivered { receiver, .. }) = (call.caller, call.stage) {
            for moved in &call.moved {
                self.settle_moved(caller, receiver, moved, undone);
            }
        }
        call
    }

    /// Decides where a key belongs that a delivered call took along: back to the caller if the receiver never saw it
    /// and still has it, else not.
    fn settle_moved(&mut self, caller: DistrictIx, receiver: DistrictIx, moved: &Moved, undone: bool) {
        // Unless `undone`, the receiver may be gone and its number somebody else's.
        let unused = undone
            && self.districts[receiver].handles.claim(Handle::from_serial(moved.to)) == Claim::Key(moved.key)
            && self.keys[moved.key].place == Place::Held;
        if !unused {
            self.districts[caller].handles.remove(moved.from);
            return;
        }
        self.districts[receiver].handles.remove(moved.to);
        self.drop_watches(moved.key);
        self.districts[caller].handles.set(moved.from, Some(moved.key));
        let key = &mut self.keys[moved.key];
        key.holder = Some(caller);
        key.serial = moved.from;
        if key.broken.is_none() {
            key.rights = moved.rights;
        }
    }

    /// The caller has given up: the reply key is spent. Its handle stays in the table until the holder has been told.
    fn cancel_reply(&mut self, reply: KeyId) {
        let key = &mut self.keys[reply];
        key.broken = Some(Reason::Used);
        key.target = Target::Nothing;
        let (place, holder, handle) = (key.place, key.holder, Handle::from_serial(key.serial));
        if let (Place::Held, Some(holder)) = (place, holder) {
            self.notice(holder, Notice::Cancelled { reply: handle });
        }
    }

    /// Ends a call because its caller asks for it, or because its time is over.
    pub(crate) fn give_up(&mut self, id: CallId, reason: Reason) {
        match self.calls[id].stage {
            Stage::Queued(message) => self.end_message(message, reason),
            Stage::Delivered { .. } => self.end_call(id, Status::Unknown(reason)),
            // Nobody was ready, and that is the answer that a look-up would have got at once.
            Stage::Waiting { .. } if reason == Reason::Deadline => self.end_call(id, Status::NotReady),
            Stage::Waiting { .. } | Stage::Sleeping { .. } => self.end_call(id, Status::NotDelivered(reason)),
            Stage::Checkpoint { of, number } => {
                let begun = self.districts[of].checkpoints.has_begun(number);
                let status = if begun { Status::Unknown(reason) } else { Status::NotDelivered(reason) };
                self.end_call(id, status);
            }
            Stage::Nowhere => {}
        }
    }

    /// `Cancel`: ends the oldest call with this token.
    pub(crate) fn cancel(&mut self, d: DistrictIx, token: u64) -> bool {
        let calls = self.districts[d].calls;
        let call = calls.iter(&self.calls, |call| &call.siblings).find(|call| self.calls[*call].token == token);
        if let Some(call) = call {
            self.give_up(call, Reason::Cancelled);
        }
        call.is_some()
    }

    /// Whether a call was delivered to this district, which by its own account has not consumed it.
    pub(crate) fn is_unseen(&self, d: DistrictIx, id: CallId) -> bool {
        matches!(self.calls[id].stage, Stage::Delivered { receiver, number, .. }
            if receiver == d && number > self.districts[d].consumed)
    }

    /// A reply key is passed on: whoever does that has seen the call.
    pub(crate) fn mark_seen(&mut self, key: KeyId) {
        if let Target::Reply(call) = self.keys[key].target
            && let Stage::Delivered { number, .. } = &mut self.calls[call].stage
        {
            *number = 0;
        }
    }
}

/// Handles that a call to an entry promises its caller: as many as a reply can bring.
pub(crate) const REPLY_HANDLES: u32 = 4;

/// Rights of a reply key: it can be passed on, and that is all.
pub(crate) const REPLY_RIGHTS: Rights = Rights::TRANSFER;

const _: () = assert!(REPLY_HANDLES as usize == district_protocol::frame::KEYS_MAX);
