//! The guest's end of the queues, for tests and fuzzing of whatever talks to a channel.
//!
//! It has nothing in common with the device's end but the window and the numbers in `district-protocol`, so that each
//! checks the other. [`Driver`] behaves; through [`Driver::queue`] a test writes whatever it likes into the rings.
//!
//! Being part of tests, it stops with a message where a test is wrong.
#![allow(clippy::expect_used, clippy::panic)]

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use district_protocol::channel::{CONSUMED_OFFSET, DELIVERY_QUEUE, REQUEST_QUEUE, WINDOW_HEADER_SIZE};
use district_protocol::frame::{
    COMPLETION_HEADER, CompletionHeader, DELIVERY_HEADER, DeliveryHeader, REQUEST_HEADER, RequestHeader,
};
use district_protocol::layout::WINDOW_BASE;
use vm_memory::{AtomicAccess, ByteValued, Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::poll::PollContext;

use crate::frontend::{ActivateError, Connection, activate};
use crate::setup::{ChannelSetup, QueueSetup};
use crate::window::Window;

/// `VIRTQ_DESC_F_NEXT` (virtio 1.2, section 2.7.5).
pub const NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`.
pub const WRITE: u16 = 2;
/// `VIRTQ_DESC_F_INDIRECT`.
pub const INDIRECT: u16 = 4;

/// One entry of a descriptor table (virtio 1.2, section 2.7.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest address of the buffer.
    pub address: u64,
    /// Bytes in the buffer.
    pub len: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// Index of the descriptor after it, with [`NEXT`].
    pub next: u16,
}

/// How the driver divides the window.
#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    /// Descriptors in each queue.
    pub queue_size: u16,
    /// Most bytes of data of a request.
    pub request_data: u32,
    /// Most bytes of data of a completion.
    pub completion_data: u32,
    /// Bytes of each delivery buffer.
    pub delivery_buffer: u32,
}

impl Default for Geometry {
    /// Fits into a window of the default size: 32 requests at a time with up to 4 KiB both ways, and 64 buffers of 2 KiB.
    fn default() -> Geometry {
        Geometry { queue_size: 64, request_data: 4096, completion_data: 4096, delivery_buffer: 2048 }
    }
}

/// The raw rings of one queue. Nothing here checks what it writes.
#[derive(Debug)]
pub struct DriverQueue {
    window: Arc<Window>,
    setup: QueueSetup,
    available: u16,
    seen: u16,
    /// The available index when the device was last asked whether it wants a kick.
    kicked: u16,
}

impl DriverQueue {
    /// Where the queue is.
    pub fn setup(&self) -> QueueSetup {
        self.setup
    }

    /// Writes a descriptor.
    pub fn set_descriptor(&mut self, index: u16, descriptor: Descriptor) {
        let at = self.setup.descriptors + 16 * u64::from(index);
        put(&self.window, at, descriptor.address.to_le());
        put(&self.window, at + 8, descriptor.len.to_le());
        put(&self.window, at + 12, descriptor.flags.to_le());
        put(&self.window, at + 14, descriptor.next.to_le());
    }

    /// Makes the chain that begins at `head` available.
    pub fn make_available(&mut self, head: u16) {
        let slot = u64::from(self.available % self.setup.size);
        put(&self.window, self.setup.driver_area + 4 + 2 * slot, head.to_le());
        self.set_available_index(self.available.wrapping_add(1));
    }

    /// Writes the available index.
    pub fn set_available_index(&mut self, index: u16) {
        self.available = index;
        store(&self.window, self.setup.driver_area + 2, index.to_le());
    }

    /// The next used chain, with the bytes that the device says it wrote.
    pub fn take_used(&mut self) -> Option<(u16, u32)> {
        if self.used_index() == self.seen {
            return None;
        }
        let at = self.setup.device_area + 4 + 8 * u64::from(self.seen % self.setup.size);
        self.seen = self.seen.wrapping_add(1);
        let head = u32::from_le(get(&self.window, at));
        let written = u32::from_le(get(&self.window, at + 4));
        Some((u16::try_from(head).expect("head out of range"), written))
    }

    /// The device's used index.
    pub fn used_index(&self) -> u16 {
        u16::from_le(load(&self.window, self.setup.device_area + 2))
    }

    /// Asks the device to notify when it uses the chain after the last one seen. True: it already has.
    pub fn ask_for_notification(&mut self) -> bool {
        self.set_used_event(self.seen);
        fence(Ordering::SeqCst);
        self.used_index() != self.seen
    }

    /// Writes `used_event` (virtio 1.2, section 2.7.10).
    pub fn set_used_event(&mut self, index: u16) {
        store(&self.window, self.setup.driver_area + 4 + 2 * u64::from(self.setup.size), index.to_le());
    }

    /// `avail_event` (virtio 1.2, section 2.7.10).
    pub fn available_event(&self) -> u16 {
        u16::from_le(load(&self.window, self.setup.device_area + 4 + 8 * u64::from(self.setup.size)))
    }

    /// Whether the device wants the doorbell rung for what became available since the last call.
    pub fn wants_kick(&mut self) -> bool {
        fence(Ordering::SeqCst);
        let added = self.available.wrapping_sub(self.kicked);
        let since_event = self.available.wrapping_sub(self.available_event()).wrapping_sub(1);
        self.kicked = self.available;
        since_event < added
    }
}

/// A completed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// What the broker says.
    pub header: CompletionHeader,
    /// As many bytes as the header says.
    pub data: Vec<u8>,
}

/// A delivered frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// What the broker says.
    pub header: DeliveryHeader,
    /// As many bytes as the header says.
    pub data: Vec<u8>,
}

/// A well-behaved guest: two queues in the window, its eventfds, and buffers for requests and deliveries. All delivery
/// buffers are posted from the start, and again as soon as they are read.
#[derive(Debug)]
pub struct Driver {
    window: Arc<Window>,
    geometry: Geometry,
    queues: [DriverQueue; 2],
    kicks: [EventFd; 2],
    call: EventFd,
    /// First bytes of the request slots and of the delivery buffers.
    slots: u64,
    buffers: u64,
    /// Request slots that are free; slot n has descriptors 2n and 2n + 1.
    free: VecDeque<u16>,
    consumed: u64,
}

impl Driver {
    /// Puts two fresh queues into the window. Panics if the geometry does not fit.
    pub fn new(window: Arc<Window>, geometry: Geometry) -> Driver {
        let mut end = WINDOW_BASE + WINDOW_HEADER_SIZE;
        let mut place = |bytes: u64| {
            let start = end;
            end = (start + bytes).next_multiple_of(64);
            assert!(end - WINDOW_BASE <= window.size(), "{geometry:?} does not fit into {} bytes", window.size());
            start
        };
        let size = geometry.queue_size;
        let entries = u64::from(size);
        let queues = [REQUEST_QUEUE, DELIVERY_QUEUE].map(|_| {
            let setup = QueueSetup {
                size,
                descriptors: place(16 * entries),
                driver_area: place(6 + 2 * entries),
                device_area: place(6 + 8 * entries),
            };
            // The rings of an earlier session must not be mistaken for this one's.
            fill(&window, setup.driver_area, 6 + 2 * entries);
            fill(&window, setup.device_area, 6 + 8 * entries);
            DriverQueue { window: Arc::clone(&window), setup, available: 0, seen: 0, kicked: 0 }
        });
        let slots = place(entries / 2 * u64::from(geometry.slot()));
        let buffers = place(entries * u64::from(geometry.delivery_buffer));
        put(&window, WINDOW_BASE + CONSUMED_OFFSET, 0_u64);
        let eventfd = || EventFd::new(EFD_NONBLOCK).expect("make an eventfd");
        let mut driver = Driver {
            queues,
            kicks: [eventfd(), eventfd()],
            call: eventfd(),
            slots,
            buffers,
            free: (0..size / 2).collect(),
            consumed: 0,
            window,
            geometry,
        };
        (0..size).for_each(|index| driver.post_buffer(index));
        driver
    }

    /// Where the queues are.
    pub fn setup(&self) -> ChannelSetup {
        ChannelSetup { queues: [self.queues[0].setup, self.queues[1].setup] }
    }

    /// The raw rings of a queue.
    pub fn queue(&mut self, index: u16) -> &mut DriverQueue {
        &mut self.queues[usize::from(index)]
    }

    /// The doorbells.
    pub fn kicks(&self) -> [&EventFd; 2] {
        self.kicks.each_ref()
    }

    /// What the broker wakes the guest with.
    pub fn call(&self) -> &EventFd {
        &self.call
    }

    /// Hands the queues to the daemon behind `socket`, as a vmm process would.
    pub fn connect(&self, socket: UnixStream) -> Result<Connection, ActivateError> {
        activate(socket, &self.setup(), &self.window, self.kicks(), &self.call)
    }

    /// Posts a request, and rings the doorbell if the device wants it. `None` if all request slots are taken. Otherwise
    /// the chain, which the completion has again.
    pub fn request(&mut self, header: &RequestHeader, data: &[u8]) -> Option<u16> {
        let slot = self.free.pop_front()?;
        let (readable, writable) = self.slot(slot);
        let len = REQUEST_HEADER + data.len();
        assert!(len <= self.geometry.readable() as usize, "{} bytes of data do not fit", data.len());
        let data_len = u32::try_from(data.len()).expect("data of a frame");
        write(&self.window, readable, &RequestHeader { data_len, ..*header }.encode());
        write(&self.window, readable + REQUEST_HEADER as u64, data);
        let queue = &mut self.queues[usize::from(REQUEST_QUEUE)];
        let len = u32::try_from(len).expect("length of a frame");
        queue.set_descriptor(2 * slot, Descriptor { address: readable, len, flags: NEXT, next: 2 * slot + 1 });
        let len = self.geometry.writable();
        queue.set_descriptor(2 * slot + 1, Descriptor { address: writable, len, flags: WRITE, next: 0 });
        queue.make_available(2 * slot);
        self.kick(REQUEST_QUEUE);
        Some(2 * slot)
    }

    /// The next completion, with its chain.
    pub fn completion(&mut self) -> Option<(u16, Completion)> {
        let (chain, written) = self.queues[usize::from(REQUEST_QUEUE)].take_used()?;
        let slot = chain / 2;
        let bytes = read(&self.window, self.slot(slot).1, written as usize);
        let header = CompletionHeader::decode(&bytes).expect("completion header");
        assert_eq!(header.data_len as usize, bytes.len() - COMPLETION_HEADER);
        self.free.push_back(slot);
        Some((chain, Completion { header, data: bytes[COMPLETION_HEADER..].to_vec() }))
    }

    /// The next delivery. Counts it as consumed, and posts its buffers again.
    pub fn delivery(&mut self) -> Option<Delivery> {
        let (first, written) = self.queues[usize::from(DELIVERY_QUEUE)].take_used()?;
        let mut bytes = read(&self.window, self.buffer(first), written as usize);
        let header = DeliveryHeader::decode(&bytes).expect("delivery header");
        self.post_buffer(first);
        for _ in 1..header.buffers {
            assert!(
                bytes.len().is_multiple_of(self.geometry.delivery_buffer as usize),
                "a buffer before the last is not full"
            );
            let (index, written) = self.queues[usize::from(DELIVERY_QUEUE)].take_used().expect("all of its buffers");
            bytes.extend(read(&self.window, self.buffer(index), written as usize));
            self.post_buffer(index);
        }
        assert_eq!(header.data_len as usize, bytes.len() - DELIVERY_HEADER);
        self.consumed += 1;
        store(&self.window, WINDOW_BASE + CONSUMED_OFFSET, self.consumed.to_le());
        self.kick(DELIVERY_QUEUE);
        Some(Delivery { header, data: bytes[DELIVERY_HEADER..].to_vec() })
    }

    /// Waits until the broker has something for the guest, or `timeout` is over: what parking does. False: the latter.
    pub fn wait(&mut self, timeout: Duration) -> bool {
        // Both are asked, whatever the first answers.
        if self.queues.each_mut().map(DriverQueue::ask_for_notification).contains(&true) {
            return true;
        }
        let poll = PollContext::<u32>::new().expect("make a poll context");
        poll.add(&self.call, 0).expect("watch the call eventfd");
        let woken = poll.wait_timeout(timeout).expect("wait for the call eventfd").iter().next().is_some();
        // Only an eventfd that nobody has written to has nothing to read.
        let _ = self.call.read();
        woken
    }

    /// Rings the doorbell of a queue, if the device wants it.
    pub fn kick(&mut self, index: u16) {
        let index = usize::from(index);
        if self.queues[index].wants_kick() {
            self.kicks[index].write(1).expect("ring the doorbell");
        }
    }

    fn post_buffer(&mut self, index: u16) {
        let descriptor =
            Descriptor { address: self.buffer(index), len: self.geometry.delivery_buffer, flags: WRITE, next: 0 };
        let queue = &mut self.queues[usize::from(DELIVERY_QUEUE)];
        queue.set_descriptor(index, descriptor);
        queue.make_available(index);
    }

    fn buffer(&self, index: u16) -> u64 {
        self.buffers + u64::from(index) * u64::from(self.geometry.delivery_buffer)
    }

    /// The readable and the writable part of a request slot.
    fn slot(&self, slot: u16) -> (u64, u64) {
        let start = self.slots + u64::from(slot) * u64::from(self.geometry.slot());
        (start, start + u64::from(self.geometry.readable()))
    }
}

#[allow(clippy::cast_possible_truncation)] // 128 and 64
impl Geometry {
    fn readable(&self) -> u32 {
        REQUEST_HEADER as u32 + self.request_data
    }

    fn writable(&self) -> u32 {
        COMPLETION_HEADER as u32 + self.completion_data
    }

    fn slot(&self) -> u32 {
        self.readable() + self.writable()
    }
}

const INSIDE: &str = "an address inside the window";

/// Writes bytes to a guest address in the window.
pub fn write(window: &Window, address: u64, bytes: &[u8]) {
    window.memory().write_slice(bytes, GuestAddress(address)).expect(INSIDE);
}

/// Reads bytes from a guest address in the window.
pub fn read(window: &Window, address: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    window.memory().read_slice(&mut bytes, GuestAddress(address)).expect(INSIDE);
    bytes
}

fn fill(window: &Window, address: u64, len: u64) {
    write(window, address, &vec![0; usize::try_from(len).expect(INSIDE)]);
}

fn put<T: ByteValued>(window: &Window, address: u64, value: T) {
    window.memory().write_obj(value, GuestAddress(address)).expect(INSIDE);
}

fn get<T: ByteValued>(window: &Window, address: u64) -> T {
    window.memory().read_obj(GuestAddress(address)).expect(INSIDE)
}

fn store<T: AtomicAccess>(window: &Window, address: u64, value: T) {
    window.memory().store(value, GuestAddress(address), Ordering::Release).expect(INSIDE);
}

fn load<T: AtomicAccess>(window: &Window, address: u64) -> T {
    window.memory().load(GuestAddress(address), Ordering::Acquire).expect(INSIDE)
}
