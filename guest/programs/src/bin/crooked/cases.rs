//! The cases. The host's words for each are in `tests/`, at `c42`, in the same order.

use district_sdk::Handle;
use district_sdk::protocol::channel::DELIVERY_BUFFER_MIN;
use district_sdk::protocol::frame::{COMPLETION_HEADER, DATA_MAX, REQUEST_HEADER, RequestHeader, RequestKind};
use district_sdk::protocol::layout::{DEVICE_BASE, PROGRAM_BASE, WINDOW_BASE};

use crate::Verdict;
use crate::device::{BUFFER, Descriptor, Device, INDIRECT, NEXT, Place, SIZE, WRITE, low, window_end};

/// Starts the device with something wrong, or brings it about afterwards.
type Case = fn(&Device) -> Verdict;
type Group = &'static [(&'static str, Case)];

/// All cases. A group is for one life: the host lets those wait longer and longer whose connections end one after another.
pub const GROUPS: [(&str, Group); 7] = [
    ("loops", LOOPS),
    ("addresses", ADDRESSES),
    ("overlaps", OVERLAPS),
    ("lengths", LENGTHS),
    ("entries", ENTRIES),
    ("deliveries", DELIVERIES),
    ("places", PLACES),
];

/// Length of a request without data.
const REQUEST: u32 = low(REQUEST_HEADER as u64);
/// Length of a completion without data.
const ROOM: u32 = low(COMPLETION_HEADER as u64);
const LAST: u16 = SIZE - 1;

const fn readable(address: u64, len: u32, next: u16) -> Descriptor {
    Descriptor { address, len, flags: NEXT, next }
}

const fn last(address: u64, len: u32) -> Descriptor {
    Descriptor { address, len, flags: WRITE, next: 0 }
}

/// A request that is as it should be, up to its completion.
const GOOD: Descriptor = readable(BUFFER, REQUEST, 1);

/// Starts the device with this chain in its queue for requests.
fn chain(device: &Device, descriptors: &[Descriptor]) -> Verdict {
    device.offer(0, descriptors);
    device.start();
    Ok(())
}

/// Starts the device with a chain of all descriptors, of `len` bytes each, which goes on after the last at `next`.
fn long_chain(device: &Device, address: u64, len: u32, next: Option<u16>) -> Verdict {
    for index in 0..LAST {
        device.describe(0, index, readable(address, len, index + 1));
    }
    let flags = if next.is_some() { WRITE | NEXT } else { WRITE };
    device.describe(0, LAST, Descriptor { flags, next: next.unwrap_or(0), ..last(BUFFER, ROOM) });
    device.offer_head(0, 0, 0);
    device.start();
    Ok(())
}

const LOOPS: Group = &[
    ("a request that goes on with itself", |device| chain(device, &[readable(BUFFER, REQUEST, 0)])),
    ("a completion that goes on with itself", |device| {
        chain(device, &[GOOD, Descriptor { flags: WRITE | NEXT, next: 1, ..last(BUFFER, ROOM) }])
    }),
    ("three descriptors in a ring", |device| chain(device, &[GOOD, readable(BUFFER, 0, 2), readable(BUFFER, 0, 0)])),
    ("all descriptors in a ring", |device| long_chain(device, BUFFER, 0, Some(0))),
    ("all descriptors, the last one again and again", |device| long_chain(device, BUFFER, 0, Some(LAST))),
];

const ADDRESSES: Group = &[
    ("null", |device| chain(device, &[GOOD, last(0, ROOM)])),
    ("the program", |device| chain(device, &[GOOD, last(PROGRAM_BASE, ROOM)])),
    ("the device", |device| chain(device, &[readable(DEVICE_BASE, REQUEST, 1), last(BUFFER, ROOM)])),
    ("across the window's start", |device| chain(device, &[readable(WINDOW_BASE - 1, REQUEST, 1), last(BUFFER, ROOM)])),
    ("across the window's end", |device| chain(device, &[GOOD, last(window_end() - 64, ROOM + 1)])),
    ("nothing, beyond the window", |device| chain(device, &[readable(window_end() + 1, 0, 1), last(BUFFER, ROOM)])),
    ("across the end of all addresses", |device| chain(device, &[GOOD, last(u64::MAX - 62, ROOM)])),
];

const OVERLAPS: Group = &[
    // The completion's first bytes are zero when it went well, and so is then the index.
    ("a completion over the available ring", |device| {
        device.start();
        device.ask(0, &RequestHeader::new(RequestKind::Identify, Handle::BOOTSTRAP))?;
        device.describe(0, 1, last(device.queues[0].areas[1], ROOM));
        device.offer_head(0, 1, 0);
        Ok(())
    }),
    // The first use writes over the address of descriptor 0, which is then used again.
    ("the used ring over the descriptor table", |device| {
        let Place { size, areas: [descriptors, available, _] } = device.queues[0];
        let queues = [Place { size, areas: [descriptors, available, descriptors] }, device.queues[1]];
        let device = Device { queues };
        device.start();
        device.ask(0, &RequestHeader::new(RequestKind::Identify, Handle::BOOTSTRAP))?;
        device.offer_head(0, 1, 0);
        Ok(())
    }),
];

const LENGTHS: Group = &[
    ("4 GiB less one", |device| chain(device, &[readable(WINDOW_BASE, u32::MAX, 1), last(BUFFER, ROOM)])),
    ("more than 4 GiB in all", |device| long_chain(device, WINDOW_BASE, low(window_end() - WINDOW_BASE), None)),
    ("one byte more than a request can have", |device| {
        let most = REQUEST + low(DATA_MAX as u64);
        chain(device, &[readable(BUFFER, most, 1), readable(BUFFER, 1, 2), last(BUFFER, ROOM)])
    }),
    ("room for all but a byte of a completion", |device| chain(device, &[GOOD, last(BUFFER, ROOM - 1)])),
    ("no room for a completion", |device| chain(device, &[Descriptor { flags: 0, ..GOOD }])),
    ("a request behind its completion", |device| {
        let room = Descriptor { flags: WRITE | NEXT, next: 1, ..last(BUFFER, ROOM) };
        chain(device, &[room, Descriptor { flags: 0, ..GOOD }])
    }),
    ("an indirect table", |device| chain(device, &[GOOD, Descriptor { flags: INDIRECT, ..last(BUFFER, ROOM) }])),
];

const ENTRIES: Group = &[
    ("goes on beyond the table", |device| chain(device, &[readable(BUFFER, REQUEST, SIZE)])),
    ("goes on far beyond the table", |device| chain(device, &[readable(BUFFER, REQUEST, u16::MAX)])),
    ("begins beyond the table", |device| {
        device.offer_head(0, 0, SIZE);
        device.start();
        Ok(())
    }),
    ("one chain more than there is room for", |device| claim(device, SIZE + 1)),
    ("half of all chains there can be", |device| claim(device, 0x8000)),
    ("all chains there can be", |device| claim(device, u16::MAX)),
    ("an index that goes backwards", |device| {
        device.start();
        device.ask(0, &RequestHeader::new(RequestKind::Identify, Handle::BOOTSTRAP))?;
        device.claim(0, 0);
        Ok(())
    }),
];

fn claim(device: &Device, index: u16) -> Verdict {
    device.claim(0, index);
    device.start();
    Ok(())
}

/// Starts the device with this chain in its queue for deliveries, and does something that has one for consequence: an
/// object that nobody holds a key to any more.
fn delivery(device: &Device, descriptors: &[Descriptor]) -> Verdict {
    device.offer(1, descriptors);
    device.start();
    let key = device.ask(0, &RequestHeader::new(RequestKind::Export, Handle(0)))?;
    device.post(1, &RequestHeader::new(RequestKind::Drop, Handle(key)));
    Ok(())
}

const BUFFER_MIN: u32 = low(DELIVERY_BUFFER_MIN as u64);
/// Not where the requests are.
const DELIVERED: u64 = BUFFER + 0x1800;

const DELIVERIES: Group = &[
    ("a buffer that is too small", |device| delivery(device, &[last(DELIVERED, BUFFER_MIN - 1)])),
    ("a buffer of nothing", |device| delivery(device, &[last(DELIVERED, 0)])),
    ("a buffer to read from", |device| delivery(device, &[Descriptor { flags: 0, ..last(DELIVERED, BUFFER_MIN) }])),
    ("a buffer that goes on with itself", |device| {
        delivery(device, &[Descriptor { flags: NEXT | WRITE, ..last(DELIVERED, BUFFER_MIN) }])
    }),
    ("a buffer across the window's end", |device| delivery(device, &[last(window_end() - 8, BUFFER_MIN)])),
];

/// Starts the device with its queue for requests somewhere else.
fn place(device: &Device, change: impl FnOnce(&mut Place)) -> Verdict {
    let mut queues = device.queues;
    change(&mut queues[0]);
    Device { queues }.start();
    Ok(())
}

/// The vmm process sees these itself, and the host learns nothing of them.
const PLACES: Group = &[
    ("no entries", |device| place(device, |queue| queue.size = 0)),
    ("a number of entries that is no power of two", |device| place(device, |queue| queue.size = 1000)),
    ("more entries than there may be", |device| place(device, |queue| queue.size = 2048)),
    ("65,536 entries", |device| place(device, |queue| queue.size = 65_536)),
    ("a queue beyond the window", |device| place(device, |queue| queue.areas[0] = window_end())),
    ("a queue across the end of all addresses", |device| place(device, |queue| queue.areas[2] = u64::MAX - 3)),
    ("a queue in the program", |device| place(device, |queue| queue.areas[1] = PROGRAM_BASE)),
    ("a misaligned queue", |device| place(device, |queue| queue.areas[0] += 8)),
];
