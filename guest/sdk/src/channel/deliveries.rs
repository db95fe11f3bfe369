//! The delivery queue: buffers of equal size, one descriptor each, all of them with the broker unless the program is
//! about to read them. A delivery stays where it is until the program asks for it, so a program that does not serve
//! takes nothing in, and its senders feel it.

use alloc::vec;
use alloc::vec::Vec;

use district_protocol::channel::{CONSUMED_OFFSET, DELIVERY_QUEUE};
use district_protocol::frame::{DATA_MAX, DELIVERY_HEADER, DeliveryHeader};

use super::ring::{Ring, WRITE};
use super::window::Window;
use super::{HostFault, device};
use crate::boot::Connection;

/// Bytes of one buffer.
pub(super) const BUFFER: u64 = 2048;
/// Buffers that the longest delivery takes.
pub(super) const BUFFERS_MIN: u16 = {
    let buffers = ((DELIVERY_HEADER + DATA_MAX) as u64).div_ceil(BUFFER);
    assert!(buffers <= 64);
    #[allow(clippy::cast_possible_truncation)]
    let buffers = buffers as u16;
    buffers
};

/// Something that arrived.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// The connection that it came on, to which all handles in it belong.
    pub(crate) connection: Connection,
    /// Its header.
    pub(crate) header: DeliveryHeader,
    /// Its data.
    pub(crate) data: Vec<u8>,
}

/// The delivery queue and its buffers.
#[derive(Debug)]
pub(super) struct Deliveries {
    ring: Ring,
    base: u64,
    /// Which buffers are the broker's.
    posted: Vec<bool>,
    /// Buffers offered since the last publication.
    unpublished: u16,
    /// Used buffers that the next delivery needs before it is complete.
    needed: u16,
    consumed: u64,
}

impl Deliveries {
    /// `count` buffers from `base` on, all of them the broker's from when the device is started.
    pub(super) fn new(window: &Window, ring: Ring, base: u64, count: u16) -> Self {
        let mut deliveries =
            Deliveries { ring, base, posted: vec![false; usize::from(count)], unpublished: 0, needed: 1, consumed: 0 };
        window.store_u64(CONSUMED_OFFSET, 0);
        for index in 0..count {
            #[allow(clippy::cast_possible_truncation)] // 2 KiB
            let len = BUFFER as u32;
            deliveries.ring.describe(window, index, window.address(deliveries.at(index)), len, WRITE, 0);
            deliveries.offer(window, index);
        }
        deliveries.unpublished = 0;
        // There is no device yet that could want to be told.
        let _ = deliveries.ring.publish(window);
        deliveries
    }

    /// The ring, for the device.
    pub(super) fn ring(&self) -> &Ring {
        &self.ring
    }

    fn at(&self, index: u16) -> u64 {
        self.base + BUFFER * u64::from(index)
    }

    fn offer(&mut self, window: &Window, index: u16) {
        self.posted[usize::from(index)] = true;
        self.ring.offer(window, index);
        self.unpublished += 1;
    }

    /// Gives the broker all buffers that were read.
    pub(super) fn publish(&mut self, window: &Window) {
        self.unpublished = 0;
        if self.ring.publish(window) {
            device::ring_doorbell(DELIVERY_QUEUE);
        }
    }

    /// Copies the next delivery out, if it is all there. Its buffers are offered again, not yet published.
    pub(super) fn take(&mut self, window: &Window, connection: Connection) -> Result<Option<Delivery>, HostFault> {
        let returned = self.ring.returned(window)?;
        if returned < self.needed {
            return Ok(None);
        }
        let (first, first_len) = self.buffer(window, 0)?;
        let header = DeliveryHeader::decode(&window.read::<DELIVERY_HEADER>(self.at(first)))
            .map_err(|_| HostFault("a delivery cannot be decoded"))?;
        let total = DELIVERY_HEADER as u64 + u64::from(header.data_len);
        let count = header.buffers;
        if u64::from(count) != total.div_ceil(BUFFER) || usize::from(count) > self.posted.len() {
            return Err(HostFault("a delivery names a wrong number of buffers"));
        }
        if returned < count {
            self.needed = count;
            return Ok(None);
        }
        let mut data = Vec::with_capacity(header.data_len as usize);
        let mut read = [0; BUFFERS_MIN as usize];
        let mut left = total;
        for (ahead, slot) in (0..count).zip(&mut read) {
            let (index, len) = if ahead == 0 { (first, first_len) } else { self.buffer(window, ahead)? };
            let part = left.min(BUFFER);
            if u64::from(len) != part {
                return Err(HostFault("a delivery's buffer is not filled as it should be"));
            }
            let skip = if ahead == 0 { DELIVERY_HEADER as u64 } else { 0 };
            #[allow(clippy::cast_possible_truncation)] // at most BUFFER
            window.read_into(self.at(index) + skip, (part - skip) as usize, &mut data);
            left -= part;
            // Named twice in one delivery, it is not the broker's the second time.
            self.posted[usize::from(index)] = false;
            *slot = index;
        }
        for &index in &read[..usize::from(count)] {
            self.offer(window, index);
        }
        self.ring.take(count);
        self.needed = 1;
        Ok(Some(Delivery { connection, header, data }))
    }

    /// Tells the host that the program has the delivery that was taken. To be done before the program acts on it.
    pub(super) fn count_consumed(&mut self, window: &Window) {
        self.consumed += 1;
        window.store_u64(CONSUMED_OFFSET, self.consumed);
    }

    /// Whether so many buffers wait for publication that it should not wait for a pause.
    pub(super) fn should_publish(&self) -> bool {
        usize::from(self.unpublished) > self.posted.len() / 4
    }

    fn buffer(&self, window: &Window, ahead: u16) -> Result<(u16, u32), HostFault> {
        let (index, len) = self.ring.peek(window, ahead);
        let known = u16::try_from(index).ok().filter(|&index| self.posted.get(usize::from(index)) == Some(&true));
        let index = known.ok_or(HostFault("used ring names no delivery buffer"))?;
        Ok((index, len))
    }

    /// Whether [`Self::take`] would find more than last time.
    pub(super) fn has_news(&self, window: &Window) -> Result<bool, HostFault> {
        Ok(self.ring.returned(window)? >= self.needed)
    }

    /// Asks for a wake-up at the next delivery, or for none.
    pub(super) fn arm(&self, window: &Window, wake: bool) {
        if wake { self.ring.wake_at(window, self.needed) } else { self.ring.let_sleep(window) }
    }
}
