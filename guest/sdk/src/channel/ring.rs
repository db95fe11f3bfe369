//! The driver's side of one split queue with `EVENT_IDX` (virtio 1.2, section 2.7).
//!
//! Descriptors and the available ring are only ever written here, the used ring only ever read; what has been published
//! or taken is counted in private memory.

use core::sync::atomic::{Ordering, fence};

use super::HostFault;
use super::window::Window;

/// `VIRTQ_DESC_F_NEXT`: the chain goes on.
pub(super) const NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`: the device writes to the buffer.
pub(super) const WRITE: u16 = 2;

const DESCRIPTOR: u64 = 16;
const AVAILABLE_INDEX: u64 = 2;
const AVAILABLE_RING: u64 = 4;
const USED_INDEX: u64 = 2;
const USED_RING: u64 = 4;
const USED_ELEMENT: u64 = 8;

/// One queue.
#[derive(Debug)]
pub(super) struct Ring {
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
    /// Chains offered, published or not.
    offered: u16,
    /// Chains published.
    published: u16,
    /// Chains taken back.
    taken: u16,
}

impl Ring {
    /// Bytes of window that a queue with `size` descriptors takes.
    pub(super) const fn bytes(size: u16) -> u64 {
        let size = size as u64;
        (DESCRIPTOR * size + AVAILABLE_RING + 2 * size + 2).next_multiple_of(4) + USED_RING + USED_ELEMENT * size + 2
    }

    /// An empty queue of `size` descriptors, a power of two, at `offset`, which is a multiple of 16. Clears its memory.
    pub(super) fn new(window: &Window, offset: u64, size: u16) -> Self {
        #[allow(clippy::cast_possible_truncation)] // 26 KiB at most
        window.clear(offset, Self::bytes(size) as usize);
        let available = offset + DESCRIPTOR * u64::from(size);
        let used = (available + AVAILABLE_RING + 2 * u64::from(size) + 2).next_multiple_of(4);
        Ring { size, descriptors: offset, available, used, offered: 0, published: 0, taken: 0 }
    }

    /// Number of descriptors.
    pub(super) fn size(&self) -> u16 {
        self.size
    }

    /// Offsets of descriptor table, available ring and used ring.
    pub(super) fn places(&self) -> [u64; 3] {
        [self.descriptors, self.available, self.used]
    }

    /// Fills in a descriptor that is in no chain that the device has. `next` counts only with the flag [`NEXT`].
    pub(super) fn describe(&self, window: &Window, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[0..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..16].copy_from_slice(&next.to_le_bytes());
        window.write(self.descriptors + DESCRIPTOR * u64::from(index), &bytes);
    }

    /// Puts the chain that begins with descriptor `head` into the available ring, for the next [`Self::publish`].
    pub(super) fn offer(&mut self, window: &Window, head: u16) {
        let slot = u64::from(self.offered % self.size);
        window.store_u16(self.available + AVAILABLE_RING + 2 * slot, head);
        self.offered = self.offered.wrapping_add(1);
    }

    /// Lets the device see what was offered. Returns whether it wants to be told.
    pub(super) fn publish(&mut self, window: &Window) -> bool {
        let old = self.published;
        if self.offered == old {
            return false;
        }
        window.store_u16(self.available + AVAILABLE_INDEX, self.offered);
        self.published = self.offered;
        // The device writes its wish and then looks at the index once more; this side has written the index and then
        // looks at the wish. The fence makes sure that at least one of the two sees the other's.
        fence(Ordering::SeqCst);
        let event = window.load_u16(self.used + USED_RING + USED_ELEMENT * u64::from(self.size));
        // virtio 1.2, section 2.7.10: `vring_need_event`.
        self.offered.wrapping_sub(event).wrapping_sub(1) < self.offered.wrapping_sub(old)
    }

    /// How many chains the device has returned that have not been taken.
    pub(super) fn returned(&self, window: &Window) -> Result<u16, HostFault> {
        let returned = window.load_u16(self.used + USED_INDEX).wrapping_sub(self.taken);
        // Not more than the device has.
        if returned > self.published.wrapping_sub(self.taken) {
            return Err(HostFault("used ring index ahead of the available ring"));
        }
        Ok(returned)
    }

    /// Head and written length of a returned chain; `ahead` counts from the next one and is less than
    /// [`Self::returned`] said.
    pub(super) fn peek(&self, window: &Window, ahead: u16) -> (u32, u32) {
        let slot = u64::from(self.taken.wrapping_add(ahead) % self.size);
        let [a, b, c, d, len @ ..] = window.read::<8>(self.used + USED_RING + USED_ELEMENT * slot);
        (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(len))
    }

    /// Takes `count` chains, not more than [`Self::returned`] said.
    pub(super) fn take(&mut self, count: u16) {
        self.taken = self.taken.wrapping_add(count);
    }

    /// Asks the device for a wake-up when it returns the chain that makes [`Self::returned`] say `count` (at least 1).
    /// To be followed by a fence and another look.
    pub(super) fn wake_at(&self, window: &Window, count: u16) {
        let event = self.taken.wrapping_add(count).wrapping_sub(1);
        window.store_u16(self.available + AVAILABLE_RING + 2 * u64::from(self.size), event);
    }

    /// Asks the device for no wake-up.
    pub(super) fn let_sleep(&self, window: &Window) {
        // The farthest that an index can be away.
        window.store_u16(self.available + AVAILABLE_RING + 2 * u64::from(self.size), self.taken.wrapping_sub(1));
    }
}
