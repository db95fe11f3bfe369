//! Frames on their way between the districts' queues and the broker's core.

use std::mem;
use std::sync::Arc;

use district_broker::{Delivered, DistrictId, Effect, RawRequest};
use district_devices::ChannelError;
use district_protocol::frame::CompletionHeader;
use district_protocol::status::Status;

use super::event_loop::EventLoop;
use super::life_file::LifeFile;
use super::watched::Due;

/// Requests taken from one district, or deliveries made to it, before it is the next one's turn.
const TURN: usize = 128;

/// Wait before handle serials that could not be reserved are asked for again: nanoseconds.
const SERIALS_AGAIN: u64 = 1_000_000_000;

/// Districts that something is to be done for, each once.
#[derive(Default)]
pub struct Pending {
    slots: Vec<usize>,
}

impl Pending {
    /// Adds a district. There are few at a time, and most often the newest is added again.
    pub fn add(&mut self, slot: usize) {
        if !self.slots.contains(&slot) {
            self.slots.push(slot);
        }
    }

    /// Leaves a district out that is going to be forgotten.
    pub fn forget(&mut self, slot: usize) {
        self.slots.retain(|other| *other != slot);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    fn take(&mut self) -> Vec<usize> {
        mem::take(&mut self.slots)
    }
}

impl EventLoop {
    /// One turn for every district that has something to send or to receive. Returns whether there is more to do.
    pub fn turn(&mut self) -> bool {
        for slot in self.sending.take() {
            self.take_requests(slot);
        }
        for slot in self.receiving.take() {
            self.make_deliveries(slot);
        }
        for slot in self.touched.take() {
            let flushed = self.slots[slot].channel().map(|channel| channel.flush());
            if let Some(Err(error)) = flushed {
                self.session_failed(slot, &error);
            }
        }
        !self.sending.is_empty() || !self.receiving.is_empty() || !self.touched.is_empty()
    }

    fn take_requests(&mut self, slot: usize) {
        let id = self.slots[slot].id;
        let Some(consumed) = self.slots[slot].channel().map(|channel| channel.consumed()) else { return };
        self.core.consumed(id, consumed);
        for _ in 0..TURN {
            // The core may have ended this very session meanwhile.
            let Some(channel) = self.slots[slot].channel() else { return };
            match channel.next_request() {
                Ok(Some(raw)) => {
                    let request = RawRequest { chain: raw.chain, capacity: raw.capacity, bytes: raw.bytes };
                    self.core.request(self.now, id, request);
                    self.carry_out();
                }
                Ok(None) => return,
                Err(error) => return self.session_failed(slot, &error),
            }
        }
        self.sending.add(slot);
    }

    fn make_deliveries(&mut self, slot: usize) {
        let id = self.slots[slot].id;
        for _ in 0..TURN {
            let Some(channel) = self.slots[slot].channel() else { return };
            let mut failed = None;
            let delivered = self.core.deliver(id, |header, data| match channel.deliver(header, data) {
                Ok(placed) => placed,
                Err(error) => {
                    failed = Some(error);
                    false
                }
            });
            self.touched.add(slot);
            self.carry_out();
            match (failed, delivered) {
                (Some(error), _) => return self.session_failed(slot, &error),
                // Its next buffer rings the doorbell, and there is another try.
                (None, Delivered::Refused | Delivered::Nothing) => return,
                (None, Delivered::Placed) => {}
            }
        }
        self.receiving.add(slot);
    }

    /// Does what the core wants, in its order.
    pub fn carry_out(&mut self) {
        let mut effects = mem::take(&mut self.effects);
        loop {
            effects.extend(self.core.drain_effects());
            if effects.is_empty() {
                break;
            }
            for effect in effects.drain(..) {
                self.carry_out_one(effect);
            }
        }
        self.effects = effects;
    }

    fn carry_out_one(&mut self, effect: Effect) {
        match effect {
            Effect::Complete { district, chain, header, data } => self.complete(district, chain, &header, &data),
            Effect::Deliverable(district) => {
                if let Some(slot) = self.slot_of(district) {
                    self.receiving.add(slot);
                }
            }
            Effect::Log { district, text } => self.write_log(district, &text),
            Effect::FillRandom { district, chain, token, count } => self.fill_random(district, chain, token, count),
            Effect::Bound(record) => {
                // The name works all the same while this daemon lives. After that its version may be one that was seen
                // before, as after any loss of the last write.
                if let Err(error) = self.host.store.put_binding(&record) {
                    log::error!("name {} of district {} is not on disk: {error:#}", record.name, record.owner);
                }
            }
            // The district's record is removed as a whole, its names with it.
            Effect::Unbound(_) => {}
            Effect::Checkpoint(district) => self.checkpoint_for_guest(district),
            Effect::ReserveSerials(district) => {
                if let Some(slot) = self.slot_of(district) {
                    self.reserve_serials(slot);
                }
            }
        }
    }

    /// Reserves the handle serials that the core has asked for. A disk that is full today may not be tomorrow.
    pub fn reserve_serials(&mut self, slot: usize) {
        if !self.slots.contains(slot) {
            return;
        }
        let id = self.slots[slot].id;
        match LifeFile::open(self.host.directory.path(), id).and_then(LifeFile::reserve_serials) {
            Ok(reserved) => self.core.serials_reserved(id, reserved.serials),
            Err(error) => {
                log::error!("no handle serials for district {}: {error:#}", self.slots[slot].name);
                self.timers.add(self.now + SERIALS_AGAIN, Due::Serials(slot));
            }
        }
    }

    fn complete(&mut self, district: DistrictId, chain: u16, header: &CompletionHeader, data: &[u8]) {
        let Some(slot) = self.slot_of(district) else { return };
        let Some(channel) = self.slots[slot].channel() else { return };
        match channel.complete(chain, header, data) {
            Ok(()) => self.touched.add(slot),
            Err(error @ (ChannelError::NotOutstanding(_) | ChannelError::TooLong(_))) => {
                log::error!("district {}: {error}", self.slots[slot].name);
            }
            Err(error) => self.session_failed(slot, &error),
        }
    }

    fn fill_random(&mut self, district: DistrictId, chain: u16, token: u64, count: u32) {
        let mut data = vec![0; count as usize];
        let mut header = CompletionHeader::new(Status::Ok, token);
        header.data_len = count;
        if let Err(error) = random(&mut data) {
            log::error!("no random bytes: {error}");
            header = CompletionHeader::new(Status::WouldBlock, token);
            data.clear();
        }
        self.complete(district, chain, &header, &data);
    }

    /// Writes to a district's log, and tells whoever follows it.
    pub fn write_log(&mut self, district: DistrictId, text: &str) {
        let Some(slot) = self.slot_of(district) else { return };
        let epoch = self.slots[slot].epoch;
        let Some(log) = &mut self.slots[slot].log else { return };
        for event in log.write(epoch, text.as_bytes()) {
            self.publish(&event);
        }
    }
}

/// Fills `bytes` from the kernel's generator.
pub fn random(bytes: &mut [u8]) -> rustix::io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(())
}

/// The name of a district, shared as the core wants it.
pub fn shared(text: &str) -> Arc<str> {
    Arc::from(text)
}
