//! A district's handles: which serials it was issued, and which key each one names (semantics, section 2).

use std::ops::Range;

use district_protocol::handle::{Handle, SERIAL_MAX};
use district_protocol::status::Reason;

use crate::key::KeyId;

/// What a number that a guest calls a handle turns out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// A key in the table.
    Key(KeyId),
    /// It travels in a call whose outcome will tell where it belongs.
    Travelling,
    /// Issued to this district, and no longer its: from an earlier life or session, used, passed on or dropped.
    Gone(Reason),
    /// Not a handle of this district.
    Never,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// 0: the slot is free.
    serial: u64,
    /// `None`: the key travels.
    key: Option<KeyId>,
}

/// The handles of one district in one session.
///
/// A serial is stored in the slot of its number modulo the table's size and is passed over when that slot is taken, so
/// that a look-up never searches, whatever a guest keeps and drops. When the table doubles, no two can meet.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    epoch_first: u64,
    session_first: u64,
    next: u64,
    end: u64,
    block: u64,
    asked: bool,
    slots: Vec<Slot>,
    used: u32,
    /// Room promised to calls and to messages on their way here.
    pub(crate) promised: u32,
}

impl Handles {
    /// `serials` are durably reserved and start with the first of this session; `epoch_first` is the first of this life.
    pub(crate) fn new(epoch_first: u64, serials: Range<u64>) -> Self {
        // Serial 0 is handle 1's.
        let first = serials.start.max(1);
        let mut handles = Handles { epoch_first, session_first: first, next: first, end: first, ..Handles::default() };
        handles.extend(first..serials.end);
        handles
    }

    /// Adds serials that are durably reserved.
    pub(crate) fn extend(&mut self, serials: Range<u64>) {
        let serials = serials.start.max(self.end)..serials.end.min(SERIAL_MAX + 1);
        self.asked = false;
        if serials.is_empty() {
            return;
        }
        if serials.start > self.end {
            self.next = serials.start;
        }
        self.block = serials.end - serials.start;
        self.end = serials.end;
    }

    /// Whether it is time to have more serials reserved; true once per [`Handles::extend`].
    pub(crate) fn ask(&mut self) -> bool {
        let low = self.end - self.next <= self.block / 2;
        low && !std::mem::replace(&mut self.asked, true)
    }

    /// Handles in use, travelling ones too.
    pub(crate) fn used(&self) -> u32 {
        self.used
    }

    /// Whether `count` more fit under the limit.
    pub(crate) fn room(&self, count: u32, limit: u32) -> bool {
        u64::from(self.used) + u64::from(self.promised) + u64::from(count) <= u64::from(limit)
    }

    /// The first serial from `from` on that could be issued now. Nothing is issued yet.
    pub(crate) fn free_serial(&self, from: u64) -> Option<u64> {
        (from.max(self.next)..self.end).find(|serial| self.slot(*serial).is_none_or(|slot| slot.serial == 0))
    }

    /// Enters a key under a serial that [`Handles::free_serial`] named.
    pub(crate) fn issue(&mut self, serial: u64, key: KeyId) -> Handle {
        self.next = self.next.max(serial + 1);
        self.put(serial, Some(key));
        Handle::from_serial(serial)
    }

    /// Marks a key as travelling, or as back.
    pub(crate) fn set(&mut self, serial: u64, key: Option<KeyId>) {
        if let Some(at) = self.find(serial) {
            self.slots[at].key = key;
        }
    }

    /// Forgets a handle. It answers [`Reason::Used`] from now on.
    pub(crate) fn remove(&mut self, serial: u64) {
        if let Some(at) = self.find(serial) {
            self.slots[at] = Slot::default();
            self.used -= 1;
        }
    }

    /// Judges a guest's claim to hold a key.
    pub(crate) fn claim(&self, handle: Handle) -> Claim {
        let Some(serial) = handle.serial() else { return Claim::Never };
        if serial < self.epoch_first {
            return Claim::Gone(Reason::SelfRestart);
        }
        if serial < self.session_first {
            return Claim::Gone(Reason::Unreachable);
        }
        match self.find(serial) {
            Some(at) => self.slots[at].key.map_or(Claim::Travelling, Claim::Key),
            None if serial < self.next => Claim::Gone(Reason::Used),
            None => Claim::Never,
        }
    }

    /// All handles, in the order of their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, Option<KeyId>)> {
        self.slots.iter().filter(|slot| slot.serial != 0).map(|slot| (slot.serial, slot.key))
    }

    fn position(&self, serial: u64) -> usize {
        // The length is a power of two, so the mask keeps the number below it.
        usize::try_from(serial & (self.slots.len() as u64).saturating_sub(1)).unwrap_or(0)
    }

    fn slot(&self, serial: u64) -> Option<&Slot> {
        self.slots.get(self.position(serial))
    }

    fn find(&self, serial: u64) -> Option<usize> {
        let at = self.position(serial);
        (self.slots.get(at)?.serial == serial).then_some(at)
    }

    fn put(&mut self, serial: u64, key: Option<KeyId>) {
        if self.used as usize * 2 >= self.slots.len() {
            let old = std::mem::take(&mut self.slots);
            self.slots = vec![Slot::default(); (old.len() * 2).max(16)];
            for slot in old.into_iter().filter(|slot| slot.serial != 0) {
                let at = self.position(slot.serial);
                self.slots[at] = slot;
            }
        }
        let at = self.position(serial);
        self.slots[at] = Slot { serial, key };
        self.used += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::slab::Slab;

    fn key() -> KeyId {
        Slab::<Key>::default().insert(Key::default())
    }

    #[test]
    fn claims_are_judged_by_the_serial() {
        let mut handles = Handles::new(100, 200..300);
        let serial = handles.free_serial(0).unwrap();
        assert_eq!(serial, 200);
        let handle = handles.issue(serial, key());
        assert_eq!(handles.claim(handle), Claim::Key(key()));
        assert_eq!(handles.claim(Handle::from_serial(99)), Claim::Gone(Reason::SelfRestart));
        assert_eq!(handles.claim(Handle::from_serial(150)), Claim::Gone(Reason::Unreachable));
        assert_eq!(handles.claim(Handle::from_serial(201)), Claim::Never);
        assert_eq!(handles.claim(Handle(12345)), Claim::Never);
        handles.set(serial, None);
        assert_eq!(handles.claim(handle), Claim::Travelling);
        handles.remove(serial);
        assert_eq!(handles.claim(handle), Claim::Gone(Reason::Used));
    }

    #[test]
    fn a_kept_handle_never_loses_its_slot() {
        let mut handles = Handles::new(1, 1..1000);
        let kept = handles.free_serial(0).unwrap();
        handles.issue(kept, key());
        for _ in 0..500 {
            let serial = handles.free_serial(0).unwrap();
            handles.issue(serial, key());
            handles.remove(serial);
        }
        assert_eq!(handles.claim(Handle::from_serial(kept)), Claim::Key(key()));
        assert_eq!(handles.used(), 1);
        assert_eq!(handles.slots.len(), 16);
    }

    #[test]
    fn growing_keeps_every_handle() {
        let mut handles = Handles::new(1, 1..5000);
        let serials: Vec<u64> = (0..1000)
            .map(|_| {
                let serial = handles.free_serial(0).unwrap();
                handles.issue(serial, key());
                serial
            })
            .collect();
        assert!(serials.iter().all(|serial| handles.claim(Handle::from_serial(*serial)) == Claim::Key(key())));
        assert_eq!(handles.iter().count(), 1000);
    }

    #[test]
    fn serials_run_out_and_are_asked_for_once() {
        let mut handles = Handles::new(1, 1..5);
        assert!(!handles.ask());
        for _ in 0..4 {
            let serial = handles.free_serial(0).unwrap();
            handles.issue(serial, key());
        }
        assert!(handles.ask());
        assert!(!handles.ask());
        assert_eq!(handles.free_serial(0), None);
        handles.extend(5..9);
        assert_eq!(handles.free_serial(0), Some(5));
        handles.extend(0..7);
        handles.extend(SERIAL_MAX..u64::MAX);
        assert_eq!(handles.free_serial(0), Some(SERIAL_MAX));
        assert_eq!(handles.free_serial(SERIAL_MAX + 1), None);
    }
}
