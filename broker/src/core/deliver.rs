//! Deliveries: what a district has been sent, one at a time, each sender in its turn (semantics, section 5).

use district_protocol::frame::{DeliveryHeader, DeliveryKind, KEYS_MAX, REQUEST_HEADER};
use district_protocol::handle::Handle;
use district_protocol::operation::KeyKind;

use super::Core;
use super::calls::REPLY_RIGHTS;
use crate::call::{CallId, Moved, Stage};
use crate::district::DistrictIx;
use crate::effect::DistrictId;
use crate::key::{Key, KeyId, Place, Target};
use crate::message::{Message, MessageId, Notice, Source};
use crate::object::{ObjectId, ObjectKind};
use crate::table::Claim;

/// What became of [`Core::deliver`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// One delivery was placed.
    Placed,
    /// There is one, but it was not placed; it stays the next.
    Refused,
    /// There is none, or none until more serials are reserved.
    Nothing,
}

const EMPTY: DeliveryHeader = DeliveryHeader {
    kind: DeliveryKind::Message,
    key_count: 0,
    buffers: 0,
    data_len: 0,
    export: 0,
    badge: 0,
    operation: 0,
    reply: Handle(0),
    reply_capacity: 0,
    keys: [Handle(0); KEYS_MAX],
};

/// Serials for the new handles of a message.
#[derive(Debug, Clone, Copy, Default)]
struct NewSerials {
    keys: [u64; KEYS_MAX],
    reply: u64,
}

impl Core {
    /// Whether [`Core::deliver`] has something.
    pub fn has_deliveries(&self, district: DistrictId) -> bool {
        self.attached(district).is_some_and(|d| {
            let inbox = &self.districts[d].inbox;
            inbox.waiting > 0 && !inbox.starved
        })
    }

    /// Offers the next delivery of a district to `place`, which says whether it has put header and data into the
    /// district's queue; `buffers` of the header is for it to fill in. If not, everything stays as it was.
    pub fn deliver(&mut self, district: DistrictId, place: impl FnOnce(&DeliveryHeader, &[u8]) -> bool) -> Delivered {
        let Some(d) = self.attached(district) else { return Delivered::Nothing };
        let delivered = if let Some(notice) = self.districts[d].inbox.notices.front().copied() {
            self.deliver_notice(d, notice, place)
        } else {
            match self.districts[d].inbox.turn() {
                None => Delivered::Nothing,
                Some(Source::Notifiers) => self.deliver_bits(d, place),
                Some(Source::Sender(sender)) => match self.districts[d].inbox.first_of(sender) {
                    Some(message) => self.deliver_message(d, message, place),
                    None => Delivered::Nothing,
                },
            }
        };
        if delivered == Delivered::Placed {
            self.districts[d].counters.delivered += 1;
        }
        delivered
    }

    fn deliver_notice(
        &mut self,
        d: DistrictIx,
        notice: Notice,
        place: impl FnOnce(&DeliveryHeader, &[u8]) -> bool,
    ) -> Delivered {
        let header = match notice {
            Notice::Down { cookie, reason } => {
                DeliveryHeader { kind: DeliveryKind::Down, badge: cookie, operation: reason as u64, ..EMPTY }
            }
            Notice::Cancelled { reply } => DeliveryHeader { kind: DeliveryKind::Cancelled, reply, ..EMPTY },
            Notice::Unreferenced(object) => {
                DeliveryHeader { kind: DeliveryKind::Unreferenced, export: self.objects[object].export, ..EMPTY }
            }
        };
        if !place(&header, &[]) {
            return Delivered::Refused;
        }
        let district = &mut self.districts[d];
        district.inbox.notices.pop_front();
        district.inbox.waiting -= 1;
        match notice {
            Notice::Down { .. } => district.watch_count -= 1,
            // The holder may have dropped it, or passed it on, before it heard of this.
            Notice::Cancelled { reply } => {
                if let Claim::Key(key) = district.handles.claim(reply)
                    && self.keys[key].place == Place::Held
                {
                    district.handles.remove(self.keys[key].serial);
                    self.release(key);
                }
            }
            Notice::Unreferenced(object) => self.remove_export(d, object),
        }
        Delivered::Placed
    }

    fn remove_export(&mut self, d: DistrictIx, object: ObjectId) {
        let district = &mut self.districts[d];
        district.export_count -= 1;
        district.objects.remove(&mut self.objects, object, |object| &mut object.owned);
        self.objects.remove(object);
    }

    fn deliver_bits(&mut self, d: DistrictIx, place: impl FnOnce(&DeliveryHeader, &[u8]) -> bool) -> Delivered {
        let Some(id) = self.districts[d].inbox.notifiers.front().copied() else { return Delivered::Nothing };
        let object = &mut self.objects[id];
        let ObjectKind::Notifier { bits, .. } = object.kind else { return Delivered::Nothing };
        let header =
            DeliveryHeader { kind: DeliveryKind::Notification, export: object.export, operation: bits, ..EMPTY };
        if !place(&header, &[]) {
            return Delivered::Refused;
        }
        object.kind = ObjectKind::Notifier { bits: 0, queued: false };
        let inbox = &mut self.districts[d].inbox;
        inbox.notifiers.pop_front();
        inbox.waiting -= 1;
        inbox.end_turn();
        self.tell_unreferenced(id);
        Delivered::Placed
    }

    fn deliver_message(
        &mut self,
        d: DistrictIx,
        id: MessageId,
        place: impl FnOnce(&DeliveryHeader, &[u8]) -> bool,
    ) -> Delivered {
        let message = &self.messages[id];
        let Some(serials) = self.new_serials(d, message) else {
            self.districts[d].inbox.starved = true;
            return Delivered::Nothing;
        };
        let data = &message.frame[REQUEST_HEADER..];
        let handle = |serial: u64| if serial == 0 { Handle(0) } else { Handle::from_serial(serial) };
        let header = DeliveryHeader {
            key_count: message.keys.iter().flatten().map(|_| 1).sum(),
            // Data is never longer than DATA_MAX.
            data_len: u32::try_from(data.len()).unwrap_or(0),
            export: message.export,
            badge: message.badge,
            operation: message.operation,
            reply: handle(serials.reply),
            reply_capacity: message.call.map_or(0, |call| self.calls[call].capacity),
            keys: serials.keys.map(handle),
            ..EMPTY
        };
        if !place(&header, data) {
            return Delivered::Refused;
        }
        let message = self.take_message(id);
        self.districts[d].inbox.end_turn();
        self.unpack_at_receiver(d, &message, serials);
        Delivered::Placed
    }

    /// The serials that a message will use, if so many are reserved. A slot without a key gets 0.
    fn new_serials(&self, d: DistrictIx, message: &Message) -> Option<NewSerials> {
        let handles = &self.districts[d].handles;
        let mut serials = NewSerials::default();
        let mut from = 0;
        for (serial, _) in serials.keys.iter_mut().zip(message.keys.iter().flatten()) {
            *serial = handles.free_serial(from)?;
            from = *serial + 1;
        }
        if message.call.is_some() {
            serials.reply = handles.free_serial(from)?;
        }
        Some(serials)
    }

    /// A message has arrived: its keys are the receiver's now, and it can answer.
    fn unpack_at_receiver(&mut self, d: DistrictIx, message: &Message, serials: NewSerials) {
        let mut moved = Vec::new();
        for (carried, serial) in message.keys.iter().flatten().zip(serials.keys) {
            if !carried.copy {
                let gone = self.unhold(carried.key, message.call.is_some());
                moved.extend(gone.map(|from| Moved {
                    key: carried.key,
                    from,
                    to: serial,
                    rights: self.keys[carried.key].rights,
                }));
                self.narrow(carried.key, carried.mask);
            }
            self.hold(d, carried.key, serial);
        }
        if let Some(call) = message.call {
            self.calls[call].moved = moved;
            self.hand_reply_key(d, call, serials.reply);
        }
    }

    /// Takes a moved key from its sender. With a call the sender's handle waits for the call's outcome.
    fn unhold(&mut self, key: KeyId, with_call: bool) -> Option<u64> {
        self.drop_watches(key);
        let (holder, serial) = (self.keys[key].holder?, self.keys[key].serial);
        let handles = &mut self.districts[holder].handles;
        if with_call {
            handles.set(serial, None);
            return Some(serial);
        }
        handles.remove(serial);
        None
    }

    fn hand_reply_key(&mut self, d: DistrictIx, call: CallId, serial: u64) {
        let reply = self.add_key(Key::new(KeyKind::Reply, Target::Reply(call), REPLY_RIGHTS), None);
        self.hold(d, reply, serial);
        let number = self.districts[d].counters.delivered + 1;
        self.calls[call].stage = Stage::Delivered { receiver: d, number, reply };
    }
}
