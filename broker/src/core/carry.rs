//! Keys as arguments: all of them are checked before any of them moves (semantics, section 5).

use district_protocol::frame::{KEYS_MAX, KeySlot, RequestHeader};
use district_protocol::handle::Handle;
use district_protocol::rights::Rights;
use district_protocol::status::{Argument, Status};

use super::Core;
use crate::district::DistrictIx;
use crate::key::{DEPTH_MAX, Key, KeyId, Place};
use crate::message::Carried;

/// Key arguments that have been checked: each is the sender's own key. A copy has not been made yet.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Arguments {
    pub keys: [Option<Carried>; KEYS_MAX],
    pub count: u32,
}

impl Core {
    /// Checks the key slots of a request. `except` is a key that cannot be passed on in it.
    pub(crate) fn check_arguments(
        &mut self,
        d: DistrictIx,
        header: &RequestHeader,
        except: Option<KeyId>,
    ) -> Result<Arguments, Status> {
        let mut arguments = Arguments::default();
        for (number, slot) in (0..).zip(header.keys.iter().flatten()) {
            let argument = Argument::key(number);
            let key = self.check_argument(d, slot, argument)?;
            let twice = |other: &Carried| other.key == key && !(other.copy && slot.copy);
            if except == Some(key) || arguments.keys.iter().flatten().any(twice) {
                return Err(Status::BadArgument(argument));
            }
            arguments.keys[usize::from(number)] = Some(Carried { key, copy: slot.copy, mask: Rights(slot.rights) });
            arguments.count += 1;
        }
        Ok(arguments)
    }

    fn check_argument(&mut self, d: DistrictIx, slot: &KeySlot, argument: Argument) -> Result<KeyId, Status> {
        if slot.handle == Handle::BOOTSTRAP {
            return Err(Status::Denied(argument));
        }
        let key = self.find_live(d, slot.handle, argument)?;
        let needed = if slot.copy { Rights::TRANSFER.union(Rights::DUPLICATE) } else { Rights::TRANSFER };
        if !self.keys[key].rights.contains(needed) {
            return Err(Status::Denied(argument));
        }
        if slot.copy && self.keys[key].depth >= DEPTH_MAX {
            return Err(Status::TooDeep);
        }
        Ok(key)
    }

    /// Puts checked keys into a message: a moved key can no longer be used, a copy is made that nobody holds yet.
    pub(crate) fn pack(&mut self, arguments: Arguments) -> [Option<Carried>; KEYS_MAX] {
        arguments.keys.map(|carried| {
            let mut carried = carried?;
            if carried.copy {
                carried.key = self.copy_key(carried, Place::InTransit);
            } else {
                self.mark_seen(carried.key);
                self.keys[carried.key].place = Place::InTransit;
            }
            Some(carried)
        })
    }

    /// Gives the keys of a message that is not delivered back to its sender.
    pub(crate) fn unpack(&mut self, keys: [Option<Carried>; KEYS_MAX]) {
        for carried in keys.into_iter().flatten() {
            if carried.copy {
                self.release(carried.key);
            } else {
                self.keys[carried.key].place = Place::Held;
            }
        }
    }

    /// Passes checked keys on at once, to a table that has room for them, under these serials.
    pub(crate) fn hand_over(
        &mut self,
        from: DistrictIx,
        to: DistrictIx,
        arguments: Arguments,
        serials: [u64; KEYS_MAX],
    ) -> [Handle; KEYS_MAX] {
        let mut handles = [Handle(0); KEYS_MAX];
        for ((carried, serial), handle) in arguments.keys.into_iter().zip(serials).zip(&mut handles) {
            let Some(carried) = carried else { continue };
            let key = self.take_argument(from, carried);
            *handle = self.hold(to, key, serial);
        }
        handles
    }

    /// Takes a checked key from its holder: the key itself, or a copy of it. It is nowhere until the caller places it.
    pub(crate) fn take_argument(&mut self, from: DistrictIx, carried: Carried) -> KeyId {
        if carried.copy {
            return self.copy_key(carried, Place::Nowhere);
        }
        self.districts[from].handles.remove(self.keys[carried.key].serial);
        self.drop_watches(carried.key);
        self.mark_seen(carried.key);
        self.narrow(carried.key, carried.mask);
        self.keys[carried.key].place = Place::Nowhere;
        carried.key
    }

    /// A copy is a child of the key that it was made of, so that whoever gave it away can revoke it.
    fn copy_key(&mut self, carried: Carried, place: Place) -> KeyId {
        let original = &self.keys[carried.key];
        let copy = Key { place, ..original.child(original.rights.intersection(carried.mask)) };
        self.add_key(copy, Some(carried.key))
    }
}
