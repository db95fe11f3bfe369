use district_protocol::channel::DELIVERY_BUFFER_MIN;
use district_protocol::frame::{
    COMPLETION_HEADER, DATA_MAX, DELIVERY_HEADER, DeliveryKind, REQUEST_HEADER, RequestHeader, RequestKind,
};
use district_protocol::handle::Handle;
use district_protocol::layout::{WINDOW_BASE, WINDOW_SIZE_MIN};
use district_protocol::status::Status;
use rustix::event::{EventfdFlags, eventfd};

use super::*;
use crate::driver::{Descriptor, Driver, Geometry, INDIRECT, NEXT, WRITE};

mod hostile;
mod random;

/// First guest address beyond the smallest window.
const END: u64 = WINDOW_BASE + WINDOW_SIZE_MIN;

/// Both ends of a channel, and what the broker's end wakes the guest with.
struct Pair {
    driver: Driver,
    channel: Channel,
    call: OwnedFd,
}

fn pair_in(window_size: u64, geometry: Geometry) -> Pair {
    let window = Arc::new(Window::create(window_size).unwrap());
    let driver = Driver::new(Arc::clone(&window), geometry);
    let make = || eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
    let call = make();
    let kept = call.try_clone().unwrap();
    let channel = Channel::new(window, &driver.setup(), [make(), make()], call).unwrap();
    Pair { driver, channel, call: kept }
}

fn pair(queue_size: u16) -> Pair {
    let geometry = Geometry { queue_size, request_data: 1024, completion_data: 1024, delivery_buffer: 512 };
    pair_in(WINDOW_SIZE_MIN, geometry)
}

impl Pair {
    /// How often the guest was woken since the last call.
    fn wakes(&self) -> u64 {
        let mut count = [0; 8];
        rustix::io::read(&self.call, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    }

    fn complete(&mut self, chain: u16, data: &[u8]) {
        self.channel.complete(chain, &completion(chain.into()), data).unwrap();
    }
}

fn request(token: u64) -> RequestHeader {
    RequestHeader { token, ..RequestHeader::new(RequestKind::Call, Handle::BOOTSTRAP) }
}

fn completion(token: u64) -> CompletionHeader {
    CompletionHeader::new(Status::Ok, token)
}

fn delivery(badge: u64) -> DeliveryHeader {
    DeliveryHeader {
        kind: DeliveryKind::Message,
        key_count: 0,
        buffers: 0,
        data_len: 0,
        export: 1,
        badge,
        operation: 2,
        reply: Handle(0),
        reply_capacity: 0,
        keys: [Handle(0); 4],
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..=250).step_by(31).chain(1..=250).cycle().take(len).collect()
}

#[test]
fn a_request_is_completed_in_its_own_chain() {
    let mut pair = pair(8);
    assert_eq!(pair.channel.next_request().unwrap(), None);
    let chain = pair.driver.request(&request(77), b"question").unwrap();
    let raw = pair.channel.next_request().unwrap().unwrap();
    assert_eq!((raw.chain, raw.capacity, raw.bytes.len()), (chain, 1024, REQUEST_HEADER + 8));
    assert_eq!(RequestHeader::decode(&raw.bytes).unwrap(), RequestHeader { data_len: 8, ..request(77) });
    assert_eq!(&raw.bytes[REQUEST_HEADER..], b"question");
    assert_eq!(pair.driver.completion(), None);
    pair.channel.complete(chain, &completion(77), b"answer").unwrap();
    let (completed, answer) = pair.driver.completion().unwrap();
    assert_eq!((completed, answer.data.as_slice()), (chain, &b"answer"[..]));
    assert_eq!(answer.header, CompletionHeader { data_len: 6, ..completion(77) });
    assert_eq!(pair.channel.next_request().unwrap(), None);
}

#[test]
fn requests_are_completed_in_any_order() {
    let mut pair = pair(8);
    let chains: Vec<u16> = (0..4).map(|token| pair.driver.request(&request(token), b"").unwrap()).collect();
    assert_eq!(pair.driver.request(&request(4), b""), None);
    for chain in &chains {
        assert_eq!(pair.channel.next_request().unwrap().unwrap().chain, *chain);
    }
    for index in [2, 0, 3, 1] {
        pair.complete(chains[index], &index.to_le_bytes());
        assert_eq!(pair.driver.completion().unwrap().1.data, index.to_le_bytes());
    }
}

#[test]
fn indices_wrap_around() {
    let mut pair = pair(4);
    for round in 0..70_000_u64 {
        let chain = pair.driver.request(&request(round), &round.to_le_bytes()).unwrap();
        let raw = pair.channel.next_request().unwrap().unwrap();
        assert_eq!(raw.bytes[REQUEST_HEADER..], round.to_le_bytes());
        pair.complete(chain, &round.to_le_bytes());
        assert_eq!(pair.driver.completion().unwrap().1.data, round.to_le_bytes());
        assert!(pair.channel.deliver(&delivery(round), &round.to_le_bytes()).unwrap());
        assert_eq!(pair.driver.delivery().unwrap().data, round.to_le_bytes());
        assert_eq!(pair.channel.consumed(), round + 1);
    }
}

#[test]
fn c19_data_of_every_allowed_size_passes() {
    let geometry = Geometry { queue_size: 64, request_data: 65_536, completion_data: 65_536, delivery_buffer: 2048 };
    let mut pair = pair_in(8 << 20, geometry);
    for len in [0, 1, 63, 2048 - DELIVERY_HEADER, 2049 - DELIVERY_HEADER, DATA_MAX - 1, DATA_MAX] {
        let data = pattern(len);
        let chain = pair.driver.request(&request(0), &data).unwrap();
        assert_eq!(pair.channel.next_request().unwrap().unwrap().bytes[REQUEST_HEADER..], data);
        pair.complete(chain, &data);
        assert_eq!(pair.driver.completion().unwrap().1.data, data);
        assert!(pair.channel.deliver(&delivery(9), &data).unwrap());
        let delivered = pair.driver.delivery().unwrap();
        assert_eq!(delivered.data, data);
        let buffers = u16::try_from((DELIVERY_HEADER + len).div_ceil(2048)).unwrap();
        assert_eq!(delivered.header, DeliveryHeader { buffers, data_len: u32::try_from(len).unwrap(), ..delivery(9) });
    }
    assert!(matches!(pair.channel.deliver(&delivery(9), &pattern(DATA_MAX + 1)), Err(ChannelError::TooLong(65_537))));
    assert_eq!(pair.driver.delivery(), None);
}

#[test]
fn a_completion_is_cut_to_its_room() {
    let mut pair = pair(8);
    let chain = pair.driver.request(&request(1), b"").unwrap();
    pair.channel.next_request().unwrap().unwrap();
    pair.complete(chain, &pattern(1025));
    let (_, cut) = pair.driver.completion().unwrap();
    assert_eq!((cut.header.data_len, cut.data), (1024, pattern(1024)));
}

#[test]
fn a_chain_is_completed_once() {
    let mut pair = pair(8);
    let chain = pair.driver.request(&request(1), b"").unwrap();
    assert!(matches!(pair.channel.complete(chain, &completion(1), b""), Err(ChannelError::NotOutstanding(0))));
    pair.channel.next_request().unwrap().unwrap();
    for refused in [chain + 1, 7, 8, u16::MAX] {
        assert!(pair.channel.complete(refused, &completion(1), b"").is_err());
    }
    pair.complete(chain, b"");
    assert!(matches!(pair.channel.complete(chain, &completion(1), b""), Err(ChannelError::NotOutstanding(0))));
    assert!(pair.driver.completion().is_some());
    assert!(pair.driver.completion().is_none());
}

#[test]
fn a_delivery_waits_for_enough_buffers() {
    let mut pair = pair(4);
    // 4 buffers of 512 bytes are posted.
    let data = pattern(3 * 512 - DELIVERY_HEADER);
    assert!(pair.channel.deliver(&delivery(1), &data).unwrap());
    assert!(!pair.channel.deliver(&delivery(2), &data).unwrap());
    assert!(!pair.channel.deliver(&delivery(2), &data).unwrap());
    // The one buffer that is left still takes what fits into it.
    assert!(pair.channel.deliver(&delivery(3), b"short").unwrap());
    assert!(!pair.channel.deliver(&delivery(4), b"").unwrap());
    // The next buffer posted rings.
    let kicks = |driver: &mut Driver| driver.kicks()[1].read().unwrap_or(0);
    kicks(&mut pair.driver);
    assert_eq!(pair.driver.delivery().unwrap().header.badge, 1);
    assert_eq!(kicks(&mut pair.driver), 1);
    assert_eq!(pair.driver.delivery().unwrap().data, b"short");
    assert_eq!(kicks(&mut pair.driver), 0);
    assert!(pair.channel.deliver(&delivery(2), &data).unwrap());
    assert_eq!(pair.driver.delivery().unwrap().data, data);
    assert_eq!(pair.driver.delivery(), None);
}

#[test]
fn a_buffer_may_be_scattered() {
    let mut pair = pair(8);
    let at = |offset: u64| WINDOW_BASE + 0x2_0000 + offset;
    let queue = pair.driver.queue(0);
    // Readable: 100 + 0 + 30 bytes; writable: 10 + 0 + 60 bytes.
    for (index, offset, len, flags) in [
        (5, 0x100, 100, NEXT),
        (4, 0x200, 0, NEXT),
        (3, 0x300, 30, NEXT),
        (2, 0x400, 10, NEXT | WRITE),
        (1, 0x500, 0, NEXT | WRITE),
        (0, 0x600, 60, WRITE),
    ] {
        queue.set_descriptor(index, Descriptor { address: at(offset), len, flags, next: index.wrapping_sub(1) });
    }
    queue.make_available(5);
    let window = Arc::clone(&pair.channel.window);
    let sent = pattern(130);
    crate::driver::write(&window, at(0x100), &sent[..100]);
    crate::driver::write(&window, at(0x300), &sent[100..]);
    let raw = pair.channel.next_request().unwrap().unwrap();
    assert_eq!((raw.chain, raw.capacity, raw.bytes), (5, 6, sent));
    // What the guest does to its descriptors meanwhile changes nothing.
    for index in 0..8 {
        let queue = pair.driver.queue(0);
        queue.set_descriptor(index, Descriptor { address: WINDOW_BASE, len: 4096, flags: NEXT | WRITE, next: index });
    }
    pair.channel.complete(5, &completion(3), b"123456789").unwrap();
    assert_eq!(pair.driver.queue(0).take_used(), Some((5, 70)));
    let mut written = crate::driver::read(&window, at(0x400), 10);
    written.extend(crate::driver::read(&window, at(0x600), 60));
    assert_eq!(written[..COMPLETION_HEADER], CompletionHeader { data_len: 6, ..completion(3) }.encode());
    assert_eq!(&written[COMPLETION_HEADER..], b"123456");
}

#[test]
fn a_used_descriptor_can_be_used_again() {
    let mut pair = pair(8);
    for chains in [[(0, 1)], [(1, 0)], [(0, 1)]] {
        for (head, tail) in chains {
            let queue = pair.driver.queue(0);
            let address = WINDOW_BASE + 0x2_0000;
            queue.set_descriptor(head, Descriptor { address, len: 128, flags: NEXT, next: tail });
            queue.set_descriptor(tail, Descriptor { address, len: 64, flags: WRITE, next: 0 });
            queue.make_available(head);
            assert_eq!(pair.channel.next_request().unwrap().unwrap().chain, head);
            pair.complete(head, b"");
        }
    }
}

#[test]
fn the_guest_is_woken_once_and_only_if_it_asked() {
    let mut pair = pair(8);
    let post = |pair: &mut Pair, count: u64| {
        let chains: Vec<u16> = (0..count).map(|token| pair.driver.request(&request(token), b"").unwrap()).collect();
        while let Some(raw) = pair.channel.next_request().unwrap() {
            pair.complete(raw.chain, b"");
        }
        chains
    };
    // used_event is 0 at first: the first use is told.
    pair.channel.flush().unwrap();
    assert_eq!(pair.wakes(), 0);
    post(&mut pair, 3);
    assert!(pair.channel.deliver(&delivery(1), b"").unwrap());
    assert_eq!(pair.wakes(), 0);
    pair.channel.flush().unwrap();
    assert_eq!(pair.wakes(), 1);
    pair.channel.flush().unwrap();
    assert_eq!(pair.wakes(), 0);
    // It has not asked again.
    while pair.driver.completion().is_some() {}
    post(&mut pair, 2);
    pair.channel.flush().unwrap();
    assert_eq!(pair.wakes(), 0);
    // It asks for the sixth.
    while pair.driver.completion().is_some() {}
    assert!(!pair.driver.queue(0).ask_for_notification());
    post(&mut pair, 1);
    pair.channel.flush().unwrap();
    assert_eq!(pair.wakes(), 1);
    // It asks for the ninth only.
    while pair.driver.completion().is_some() {}
    pair.driver.queue(0).set_used_event(8);
    post(&mut pair, 2);
    pair.channel.flush().unwrap();
    assert_eq!(pair.wakes(), 0);
    while pair.driver.completion().is_some() {}
    post(&mut pair, 2);
    pair.channel.flush().unwrap();
    assert_eq!(pair.wakes(), 1);
}

#[test]
fn a_full_call_counter_is_no_error() {
    let mut pair = pair(8);
    rustix::io::write(&pair.call, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    assert!(pair.channel.deliver(&delivery(1), b"").unwrap());
    pair.channel.flush().unwrap();
    assert_eq!(pair.wakes(), u64::MAX - 1);
}

#[test]
fn the_doorbell_rings_once_until_the_queue_is_drained() {
    let mut pair = pair(16);
    let rings = |pair: &Pair| pair.driver.kicks()[0].read().unwrap_or(0);
    for token in 0..3 {
        pair.driver.request(&request(token), b"").unwrap();
    }
    assert_eq!(rings(&pair), 1);
    assert!(pair.channel.next_request().unwrap().is_some());
    pair.driver.request(&request(3), b"").unwrap();
    assert_eq!(rings(&pair), 0);
    for _ in 0..3 {
        assert!(pair.channel.next_request().unwrap().is_some());
    }
    assert!(pair.channel.next_request().unwrap().is_none());
    pair.driver.request(&request(4), b"").unwrap();
    assert_eq!(rings(&pair), 1);
}
