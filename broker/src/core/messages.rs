//! Messages between districts: checked completely, then queued (semantics, section 5).

use district_protocol::frame::REQUEST_HEADER;
use district_protocol::rights::Rights;
use district_protocol::status::{Quota, Reason, Status};

use super::Core;
use super::calls::REPLY_HANDLES;
use super::keys::Used;
use super::request::{Outcome, Request, done};
use crate::call::Stage;
use crate::district::DistrictIx;
use crate::limits::Limits;
use crate::message::{Message, MessageId};
use crate::object::ObjectId;

impl Core {
    /// Queues a message, or a call, at the owner of an entry.
    pub(crate) fn post(&mut self, d: DistrictIx, used: Used, object: ObjectId, request: Request) -> Outcome {
        used.require(Rights::CALL)?;
        if request.header.keys[0].is_some() {
            used.require(Rights::SEND_KEYS)?;
        }
        let arguments = self.check_arguments(d, &request.header, None)?;
        let Some(receiver) = self.objects[object].owner else { return Err(Status::Broken(Reason::Destroyed)) };
        let mut message = Message {
            sender: Some(d),
            receiver: Some(receiver),
            via: Some(used.key),
            export: self.objects[object].export,
            badge: self.keys[used.key].badge,
            operation: request.header.operation,
            ..Message::default()
        };
        let cost = request.frame.len() as u64 + Limits::MESSAGE_COST;
        let needed = arguments.count + u32::from(request.is_call);
        self.room_for_message(d, receiver, needed, cost, request.is_call)?;

        // Nothing fails from here on.
        message.keys = self.pack(arguments);
        message.call = request.is_call.then(|| self.open_call(d, &request, REPLY_HANDLES));
        let counters = &mut self.districts[d].counters;
        counters.sent += 1;
        counters.sent_bytes += (request.frame.len() - REQUEST_HEADER) as u64;
        message.frame = request.frame;
        let call = message.call;
        let id = self.enqueue(d, receiver, message, needed, cost);
        let Some(call) = call else { return done() };
        self.calls[call].stage = Stage::Queued(id);
        Ok(None)
    }

    fn room_for_message(
        &self,
        d: DistrictIx,
        receiver: DistrictIx,
        handles: u32,
        cost: u64,
        is_call: bool,
    ) -> Result<(), Status> {
        let sender = &self.districts[d];
        if sender.queued_bytes.saturating_add(cost) > sender.limits.queued_bytes {
            return Err(Status::Quota(Quota::QueuedBytes));
        }
        // A district that calls itself needs room for both ends.
        let own = if is_call { REPLY_HANDLES } else { 0 };
        let at_receiver = if d == receiver { handles + own } else { handles };
        if !self.districts[receiver].has_room(at_receiver) {
            return Err(Status::Quota(Quota::Handles));
        }
        if is_call { self.room_for_call(d, own) } else { Ok(()) }
    }

    fn enqueue(&mut self, d: DistrictIx, receiver: DistrictIx, message: Message, handles: u32, cost: u64) -> MessageId {
        let via = message.via;
        let id = self.messages.insert(message);
        if let Some(via) = via {
            self.keys[via].queued.push(&mut self.messages, id, |message| &mut message.through);
        }
        self.districts[d].queued_bytes += cost;
        let district = &mut self.districts[receiver];
        district.handles.promised += handles;
        district.inbox.push_message(&mut self.messages, d, id);
        self.announce(receiver);
        id
    }

    /// Takes a message out of its queues and gives up its claims on both ends. Its keys are still in it.
    pub(crate) fn take_message(&mut self, id: MessageId) -> Message {
        let (sender, receiver, via) = {
            let message = &self.messages[id];
            (message.sender, message.receiver, message.via)
        };
        if let (Some(sender), Some(receiver)) = (sender, receiver) {
            self.districts[sender].queued_bytes -= self.messages[id].cost();
            let handles = self.messages[id].handles();
            let district = &mut self.districts[receiver];
            district.handles.promised -= handles;
            district.inbox.remove_message(&mut self.messages, sender, id);
            district.inbox.waiting -= 1;
        }
        if let Some(via) = via {
            self.keys[via].queued.remove(&mut self.messages, id, |message| &mut message.through);
            self.settle(via);
        }
        self.messages.remove(id)
    }

    /// Ends a queued message that will not be delivered. Its sender has its keys again before it hears of it.
    pub(crate) fn end_message(&mut self, id: MessageId, reason: Reason) {
        let message = self.take_message(id);
        self.unpack(message.keys);
        if let Some(call) = message.call {
            self.end_call(call, Status::NotDelivered(reason));
        }
    }
}
