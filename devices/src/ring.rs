//! One split queue as its device sees it (virtio 1.2, section 2.7).
//!
//! The available ring is `virtio-queue`'s part. Descriptor chains are walked here, because that crate's iterator follows
//! indirect tables, which this device does not offer, and ends without a word on a chain that is broken. The used ring is
//! written here, because that crate shows the guest each chain as soon as it is used, and the guest must see all buffers
//! of a delivery or none.
//!
//! Every descriptor is read once, when its chain becomes available, into a table of our own. What the guest writes over
//! it later changes nothing: data is read from, and answers go to, the buffers that were checked. That table also knows
//! which descriptors the device holds, so that a chain that loops, or that shares a descriptor with another, is seen at
//! the first one that occurs twice.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use district_protocol::layout::WINDOW_BASE;
use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Error as QueueError, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestAddress;
use vm_memory::guest_memory::Error as AccessError;

use crate::error::{ChannelError, RingFault};
use crate::setup::QueueSetup;
use crate::window::Window;

/// Offset of the index in the available and the used ring (virtio 1.2, sections 2.7.6 and 2.7.8).
const INDEX: u64 = 2;
/// Offset of the entries in the available ring, each a u16; the wish for a notification comes after the last.
const AVAILABLE_RING: u64 = 4;
/// Offset of the entries in the used ring.
const USED_RING: u64 = 4;

/// A descriptor, checked, as it was when its chain became available.
#[derive(Debug, Clone, Copy, Default)]
struct Buffer {
    /// Whether the device holds it: its chain is available and not used yet. Only then do the other fields mean anything.
    held: bool,
    writable: bool,
    /// Offset in the window.
    offset: u32,
    len: u32,
    next: Option<u16>,
}

/// A chain that the device holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chain {
    /// Index of its first descriptor.
    pub head: u16,
    /// Bytes that the device may read.
    pub readable: u32,
    /// Bytes that the device may write; they come after the others.
    pub writable: u32,
    first_writable: Option<u16>,
}

/// Two pieces of bytes that are written one after the other, wherever there is room.
pub(crate) struct Pieces<'a>(pub [&'a [u8]; 2]);

impl<'a> Pieces<'a> {
    /// At most `limit` of the bytes that are left, and how many; none only if none are left.
    fn take(&mut self, limit: u32) -> (&'a [u8], u32) {
        let [first, second] = &mut self.0;
        let piece = if first.is_empty() { second } else { first };
        let len = u32::try_from(piece.len()).map_or(limit, |len| len.min(limit));
        let (taken, left) = piece.split_at(len as usize);
        *piece = left;
        (taken, len)
    }
}

/// One queue in the window, set up and checked.
#[derive(Debug)]
pub(crate) struct Ring {
    index: u16,
    window: Arc<Window>,
    queue: Queue,
    /// Offset in the window of the descriptor table.
    table: u64,
    buffers: Box<[Buffer]>,
    /// Offsets in the window of the available and the used ring.
    available_ring: u64,
    used_ring: u64,
    /// The used index, counting also what is not published yet.
    used: u16,
    /// Chains used since the guest's wish for a notification was last looked up.
    untold: u32,
}

impl Ring {
    /// The queue with this index, which is where `setup` says. The caller has checked `setup`.
    pub fn new(window: Arc<Window>, index: u16, setup: &QueueSetup) -> Result<Ring, ChannelError> {
        let fault = |error| ChannelError::Ring { queue: index, fault: queue_fault(error) };
        let mut queue = Queue::new(setup.size).map_err(fault)?;
        queue.try_set_desc_table_address(GuestAddress(setup.descriptors)).map_err(fault)?;
        queue.try_set_avail_ring_address(GuestAddress(setup.driver_area)).map_err(fault)?;
        queue.try_set_used_ring_address(GuestAddress(setup.device_area)).map_err(fault)?;
        queue.set_event_idx(true);
        queue.set_ready(true);
        Ok(Ring {
            index,
            window,
            queue,
            table: setup.descriptors - WINDOW_BASE,
            buffers: vec![Buffer::default(); usize::from(setup.size)].into(),
            available_ring: setup.driver_area - WINDOW_BASE,
            used_ring: setup.device_area - WINDOW_BASE,
            used: 0,
            untold: 0,
        })
    }

    /// The next available chain. `None` only after the guest was asked to ring the doorbell at its next one and the
    /// queue was looked at once more: whoever gets `None` may wait for the doorbell.
    pub fn next_chain(&mut self) -> Result<Option<Chain>, ChannelError> {
        if let Some(head) = self.next_head()? {
            return self.hold(head).map(Some);
        }
        let more = self.queue.enable_notification(self.window.memory());
        if !more.map_err(|error| self.fault(queue_fault(error)))? {
            return Ok(None);
        }
        // The index moved. Should it now be back, the guest plays with us, and could do so for ever.
        match self.next_head()? {
            Some(head) => self.hold(head).map(Some),
            None => Err(self.fault(RingFault::AvailableIndex)),
        }
    }

    fn next_head(&mut self) -> Result<Option<u16>, ChannelError> {
        let head =
            self.queue.iter(self.window.memory()).map(|mut chains| chains.next().map(|chain| chain.head_index()));
        head.map_err(|error| self.fault(queue_fault(error)))
    }

    /// Reads and checks the chain that begins at `head`. Ends after at most as many steps as there are descriptors,
    /// because none is taken twice.
    fn hold(&mut self, head: u16) -> Result<Chain, ChannelError> {
        let mut chain = Chain { head, readable: 0, writable: 0, first_writable: None };
        let mut next = Some(head);
        while let Some(index) = next {
            let buffer = self.hold_buffer(index).map_err(|fault| self.fault(fault))?;
            let total = if buffer.writable {
                chain.first_writable.get_or_insert(index);
                &mut chain.writable
            } else if chain.first_writable.is_none() {
                &mut chain.readable
            } else {
                return Err(self.fault(RingFault::Order(index)));
            };
            match total.checked_add(buffer.len) {
                Some(sum) => *total = sum,
                None => return Err(self.fault(RingFault::ChainLength(head))),
            }
            next = buffer.next;
        }
        if chain.readable.checked_add(chain.writable).is_none() {
            return Err(self.fault(RingFault::ChainLength(head)));
        }
        Ok(chain)
    }

    fn hold_buffer(&mut self, index: u16) -> Result<Buffer, RingFault> {
        let buffer = self.buffers.get_mut(usize::from(index)).ok_or(RingFault::DescriptorRange(index))?;
        if buffer.held {
            return Err(RingFault::DescriptorInUse(index));
        }
        let at = self.table + u64::from(index) * size_of::<Descriptor>() as u64;
        let descriptor: Descriptor = self.window.read_value(at).map_err(memory_fault)?;
        let (address, len, flags) = (descriptor.addr().0, descriptor.len(), descriptor.flags());
        if u32::from(flags) & !(VRING_DESC_F_NEXT | VRING_DESC_F_WRITE) != 0 {
            return Err(RingFault::DescriptorFlags { index, flags });
        }
        let offset = self.window.offset(address, len).ok_or(RingFault::Address { index, address, len })?;
        *buffer = Buffer {
            held: true,
            writable: descriptor.is_write_only(),
            offset,
            len,
            next: descriptor.has_next().then(|| descriptor.next()),
        };
        Ok(*buffer)
    }

    /// The buffers of a held chain from `index` on.
    fn buffers(&self, index: Option<u16>) -> impl Iterator<Item = Buffer> + '_ {
        let buffer = |index| self.buffers.get(usize::from(index)).copied();
        std::iter::successors(index.and_then(buffer), move |previous| previous.next.and_then(buffer))
    }

    /// Copies the readable part of a held chain. The caller has decided that it is not too long.
    pub fn gather(&self, chain: &Chain) -> Result<Vec<u8>, ChannelError> {
        let mut bytes = Vec::with_capacity(chain.readable as usize);
        for buffer in self.buffers(Some(chain.head)).take_while(|buffer| !buffer.writable) {
            self.window.read(buffer.offset, buffer.len, &mut bytes).map_err(|error| self.fault(memory_fault(error)))?;
        }
        Ok(bytes)
    }

    /// Writes as much of `pieces` as fits into the writable part of a held chain, and gives the chain back to the guest,
    /// which sees it at the next [`Ring::publish`].
    pub fn fill(&mut self, chain: &Chain, pieces: &mut Pieces<'_>) -> Result<(), ChannelError> {
        let mut written = 0;
        'chain: for buffer in self.buffers(chain.first_writable) {
            let (mut at, mut left) = (buffer.offset, buffer.len);
            while left > 0 {
                let (piece, len) = pieces.take(left);
                if len == 0 {
                    break 'chain;
                }
                self.window.write(at, piece).map_err(|error| self.fault(memory_fault(error)))?;
                at += len;
                left -= len;
                written += len;
            }
        }
        self.release(chain.head);
        let slot = u64::from(self.used % self.queue.size());
        // u32 head, u32 length (section 2.7.8).
        let entry = u64::from(chain.head) | u64::from(written) << 32;
        let put = self.window.write_value(self.used_ring + USED_RING + 8 * slot, entry.to_le());
        put.map_err(|error| self.fault(memory_fault(error)))?;
        self.used = self.used.wrapping_add(1);
        self.untold = self.untold.saturating_add(1);
        Ok(())
    }

    /// Shows the guest all chains that were given back, at once.
    pub fn publish(&mut self) -> Result<(), ChannelError> {
        // Release: whoever sees the index sees what was written before it.
        let stored = self.window.store(self.used_ring + INDEX, self.used.to_le(), Ordering::Release);
        stored.map_err(|error| self.fault(memory_fault(error)))
    }

    fn release(&mut self, head: u16) {
        let mut next = Some(head);
        while let Some(buffer) = next.and_then(|index| self.buffers.get_mut(usize::from(index))) {
            buffer.held = false;
            next = buffer.next;
        }
    }

    /// Whether the guest wants to be told about the chains used since the last call.
    pub fn wants_notification(&mut self) -> Result<bool, ChannelError> {
        let untold = u16::try_from(std::mem::take(&mut self.untold)).unwrap_or(u16::MAX);
        if untold == 0 {
            return Ok(false);
        }
        // The guest writes its wish and then looks at the index; here it is the other way round (section 2.7.10).
        fence(Ordering::SeqCst);
        let event = self.available_ring + AVAILABLE_RING + 2 * u64::from(self.queue.size());
        let event = self.window.load(event, Ordering::Relaxed).map_err(|error| self.fault(memory_fault(error)))?;
        Ok(self.used.wrapping_sub(u16::from_le(event)).wrapping_sub(1) < untold)
    }

    /// The guest's fault, with this queue's name on it.
    pub fn fault(&self, fault: RingFault) -> ChannelError {
        ChannelError::Ring { queue: self.index, fault }
    }

    /// Descriptors in the queue.
    pub fn size(&self) -> usize {
        self.buffers.len()
    }
}

fn queue_fault(error: QueueError) -> RingFault {
    match error {
        QueueError::InvalidAvailRingIndex => RingFault::AvailableIndex,
        other => RingFault::Memory(other.to_string()),
    }
}

fn memory_fault(error: AccessError) -> RingFault {
    RingFault::Memory(error.to_string())
}
