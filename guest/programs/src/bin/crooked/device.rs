//! A driver of the channel that does as it is told, also what `docs/abi.md`, section 5, forbids.

use alloc::format;
use alloc::string::String;
use core::time::Duration;

use district_sdk::protocol::channel::{CONSUMED_OFFSET, FEATURES};
use district_sdk::protocol::frame::{COMPLETION_HEADER, CompletionHeader, REQUEST_HEADER, RequestHeader};
use district_sdk::protocol::layout::{DEVICE_BASE, WINDOW_BASE};
use district_sdk::protocol::status::Status;
use district_sdk::{boot, time};

use crate::Verdict;

const DRIVER_FEATURES: u64 = 0x020;
const DRIVER_FEATURES_SELECT: u64 = 0x024;
const QUEUE_SELECT: u64 = 0x030;
const QUEUE_SIZE: u64 = 0x038;
const QUEUE_READY: u64 = 0x044;
const QUEUE_NOTIFY: u64 = 0x050;
const STATUS: u64 = 0x070;
/// Lower halves of the addresses of a queue's three areas; each upper half is 4 bytes further on.
const QUEUE_AREAS: [u64; 3] = [0x080, 0x090, 0x0a0];

const NEEDS_RESET: u32 = 64;

/// Descriptor flags (virtio 1.2, section 2.7.5).
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// Descriptors in both queues, unless a case says otherwise.
pub const SIZE: u16 = 1024;
/// Where frames are.
pub const BUFFER: u64 = WINDOW_BASE + 0x4_0000;
/// Where the completion of [`Device::ask`] is.
const ANSWER: u64 = BUFFER + 0x1000;

/// How long a device may take to see that it was driven wrongly. A slow host may be a processor in software.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// A descriptor as it is in the table.
#[derive(Clone, Copy)]
pub struct Descriptor {
    pub address: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

/// What the registers are told of a queue.
#[derive(Clone, Copy)]
pub struct Place {
    pub size: u32,
    /// Descriptor table, available ring, used ring.
    pub areas: [u64; 3],
}

impl Place {
    /// Where the queue with this index may be.
    pub fn good(index: u16) -> Place {
        let base = WINDOW_BASE + 0x1_0000 * (u64::from(index) + 1);
        Place { size: SIZE.into(), areas: [base, base + 0x4000, base + 0x8000] }
    }
}

/// The device, and where its queues are.
pub struct Device {
    pub queues: [Place; 2],
}

impl Device {
    /// Resets the device, and clears the part of the window that is used here.
    pub fn reset() -> Device {
        write_status(0);
        for word in (WINDOW_BASE + CONSUMED_OFFSET..ANSWER + 0x1000).step_by(8) {
            write(word, 0u64);
        }
        Device { queues: [0, 1].map(Place::good) }
    }

    /// Tells the device where its queues are, and that they are ready.
    pub fn start(&self) {
        write_status(3);
        write_register(DRIVER_FEATURES, low(FEATURES));
        write_register(DRIVER_FEATURES_SELECT, 1);
        write_register(DRIVER_FEATURES, low(FEATURES >> 32));
        write_status(11);
        for (index, queue) in (0..).zip(&self.queues) {
            write_register(QUEUE_SELECT, index);
            write_register(QUEUE_SIZE, queue.size);
            for (register, address) in QUEUE_AREAS.into_iter().zip(queue.areas) {
                write_register(register, low(address));
                write_register(register + 4, low(address >> 32));
            }
            write_register(QUEUE_READY, 1);
        }
        write_status(15);
    }

    /// Writes a descriptor.
    pub fn describe(&self, queue: usize, index: u16, descriptor: Descriptor) {
        let at = self.queues[queue].areas[0] + 16 * u64::from(index);
        let Descriptor { address, len, flags, next } = descriptor;
        write(at, address);
        write(at + 8, u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48);
    }

    /// Writes a chain of descriptors, from index 0 on, and makes it the first one that is available.
    pub fn offer(&self, queue: usize, descriptors: &[Descriptor]) {
        for (index, descriptor) in (0..).zip(descriptors) {
            self.describe(queue, index, *descriptor);
        }
        self.offer_head(queue, 0, 0);
    }

    /// Makes the chain that begins at `head` available, after so many others.
    pub fn offer_head(&self, queue: usize, others: u16, head: u16) {
        let available = self.queues[queue].areas[1];
        write(available + 4 + 2 * u64::from(others % SIZE), head);
        write(available + 2, others + 1);
    }

    /// Claims that so many chains have been made available.
    pub fn claim(&self, queue: usize, index: u16) {
        write(self.queues[queue].areas[1] + 2, index);
    }

    /// Makes a request, the one that comes after so many others, as it should be made.
    pub fn post(&self, others: u16, header: &RequestHeader) {
        for (at, byte) in (BUFFER..).zip(header.encode()) {
            write(at, byte);
        }
        self.describe(0, 0, Descriptor { address: BUFFER, len: low(REQUEST_HEADER as u64), flags: NEXT, next: 1 });
        self.describe(0, 1, Descriptor { address: ANSWER, len: low(COMPLETION_HEADER as u64), flags: WRITE, next: 0 });
        self.offer_head(0, others, 0);
        ring(0);
    }

    /// Posts a request, and waits for its result.
    pub fn ask(&self, others: u16, header: &RequestHeader) -> Result<u64, String> {
        self.post(others, header);
        self.until(|| self.used() == others + 1).map_err(|()| format!("request {others} is not answered"))?;
        let answer: [u8; COMPLETION_HEADER] = core::array::from_fn(|index| read(ANSWER + index as u64));
        match CompletionHeader::decode(&answer) {
            Ok(CompletionHeader { status: Status::Ok, result, .. }) => Ok(result),
            other => Err(format!("request {others} is answered with {other:?}")),
        }
    }

    /// How many requests the device has completed.
    fn used(&self) -> u16 {
        read(self.queues[0].areas[2] + 2)
    }

    /// Rings both doorbells until the device needs a reset.
    pub fn until_it_needs_a_reset(&self) -> Verdict {
        let needed = self.until(|| {
            (0..2).for_each(ring);
            read::<u32>(DEVICE_BASE + STATUS) & NEEDS_RESET != 0
        });
        needed.map_err(|()| format!("the device goes on, with {} requests completed", self.used()))
    }

    fn until(&self, mut is_so: impl FnMut() -> bool) -> Result<(), ()> {
        let end = time::deadline(PATIENCE);
        while !is_so() {
            if time::now() > end {
                return Err(());
            }
            time::sleep(LOOK_AGAIN);
        }
        Ok(())
    }
}

/// First address beyond the window.
pub fn window_end() -> u64 {
    let (base, size) = boot::window();
    base + size
}

pub fn ring(queue: u32) {
    write_register(QUEUE_NOTIFY, queue);
}

pub fn write_status(status: u32) {
    write_register(STATUS, status);
}

fn write_register(register: u64, value: u32) {
    write(DEVICE_BASE + register, value);
}

fn read<T: Copy>(address: u64) -> T {
    // SAFETY: all callers name an aligned place in the window or the device page, both readable for the district's whole
    // life, for numbers, which may have any value.
    unsafe { (address as *const T).read_volatile() }
}

fn write<T: Copy>(address: u64, value: T) {
    // SAFETY: all callers name an aligned place in the window or the device page, both writable for the district's whole
    // life; there are no references into either.
    unsafe { (address as *mut T).write_volatile(value) }
}

#[allow(clippy::cast_possible_truncation)] // that is what it is for
pub const fn low(value: u64) -> u32 {
    value as u32
}
