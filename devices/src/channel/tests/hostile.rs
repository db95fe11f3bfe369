//! One wrong queue for each mistake that a guest can make.

use super::*;

#[test]
fn c42_unusable_queues_are_refused() {
    let window = Arc::new(Window::create(WINDOW_SIZE_MIN).unwrap());
    let good = Driver::new(Arc::clone(&window), pair_geometry()).setup();
    let end = WINDOW_BASE + WINDOW_SIZE_MIN;
    for (change, expected) in [
        ((|queue: &mut _| queue.size = 0) as fn(&mut crate::QueueSetup), "queue 1: size 0 is not a power of two"),
        (|queue| queue.size = 3, "queue 1: size 3 is not a power of two"),
        (|queue| queue.size = 2048, "queue 1: size 2048 is not a power of two up to 1024"),
        (|queue| queue.descriptors += 8, "queue 1: descriptor table at"),
        (|queue| queue.driver_area += 1, "queue 1: available ring at"),
        (|queue| queue.device_area += 2, "queue 1: used ring at"),
        (|queue| queue.descriptors = 0, "queue 1: descriptor table at 0x0 is"),
        (|queue| queue.driver_area = WINDOW_BASE - 2, "queue 1: available ring at 0x1ffffffe is"),
        (|queue| queue.device_area = u64::MAX - 3, "queue 1: used ring at 0xfffffffffffffffc is"),
    ] {
        let mut setup = good;
        change(&mut setup.queues[1]);
        let make = || eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let error = Channel::new(Arc::clone(&window), &setup, [make(), make()], make()).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    }
    // The last place for each area is fine, one step further is not.
    for (bytes, step, place) in [
        (8 * 16, 16, (|queue: &mut _, at| queue.descriptors = at) as fn(&mut crate::QueueSetup, u64)),
        (6 + 8 * 2, 2, |queue, at| queue.driver_area = at),
        (6 + 8 * 8, 4, |queue, at| queue.device_area = at),
    ] {
        let last = (end - bytes) / step * step;
        for (at, fits) in [(last, true), (last + step, false)] {
            let mut setup = good;
            place(&mut setup.queues[0], at);
            assert_eq!(setup.check(WINDOW_SIZE_MIN).is_ok(), fits, "{at:#x}");
        }
    }
}

fn pair_geometry() -> Geometry {
    Geometry { queue_size: 8, request_data: 1024, completion_data: 1024, delivery_buffer: 512 }
}

/// Posts these descriptors, from index 0 on, as one chain to a fresh queue 0, and says what comes of it.
fn fault_of(descriptors: &[Descriptor]) -> String {
    let mut pair = pair(8);
    let queue = pair.driver.queue(0);
    for (index, descriptor) in descriptors.iter().enumerate() {
        queue.set_descriptor(u16::try_from(index).unwrap(), *descriptor);
    }
    queue.make_available(0);
    match pair.channel.next_request() {
        Err(error @ ChannelError::Ring { queue: 0, .. }) => error.to_string(),
        other => panic!("{descriptors:?}: {other:?}"),
    }
}

const BUFFER: u64 = WINDOW_BASE + 0x1_0000;

fn readable(address: u64, len: u32, next: u16) -> Descriptor {
    Descriptor { address, len, flags: NEXT, next }
}

fn last(address: u64, len: u32) -> Descriptor {
    Descriptor { address, len, flags: WRITE, next: 0 }
}

#[test]
fn c42_broken_chains_are_refused() {
    let good = readable(BUFFER, 128, 1);
    let with_flags = |flags| Descriptor { flags, ..last(BUFFER, 64) };
    for (expected, chain) in [
        ("queue 0: descriptor 8 is out of range", &[readable(BUFFER, 128, 8)][..]),
        ("queue 0: descriptor 65535 is out of range", &[good, readable(BUFFER, 0, u16::MAX)]),
        ("queue 0: descriptor 0 is already in use", &[readable(BUFFER, 128, 0)]),
        (
            "queue 0: descriptor 1 is already in use",
            &[good, Descriptor { flags: NEXT | WRITE, next: 1, ..last(BUFFER, 64) }],
        ),
        ("queue 0: descriptor 0 is already in use", &[good, readable(BUFFER, 1, 2), readable(BUFFER, 1, 0)]),
        ("queue 0: descriptor 1 has flags 0x4", &[good, with_flags(INDIRECT)]),
        ("queue 0: descriptor 1 has flags 0x6", &[good, with_flags(INDIRECT | WRITE)]),
        ("queue 0: descriptor 1 has flags 0x8002", &[good, with_flags(0x8000 | WRITE)]),
        ("queue 0: descriptor 1: 64 bytes at 0x0 are outside", &[good, last(0, 64)]),
        (
            "queue 0: descriptor 0: 1 bytes at 0x1fffffff are outside",
            &[readable(WINDOW_BASE - 1, 1, 1), last(BUFFER, 64)],
        ),
        ("queue 0: descriptor 1: 65 bytes at 0x2003ffc0 are outside", &[good, last(END - 64, 65)]),
        ("queue 0: descriptor 1: 0 bytes at 0x20040001 are outside", &[good, last(END + 1, 0)]),
        ("queue 0: descriptor 1: 64 bytes at 0xffffffffffffffc1 are", &[good, last(u64::MAX - 62, 64)]),
        (
            "queue 0: descriptor 0: 4294967295 bytes at 0x20000000 are",
            &[readable(WINDOW_BASE, u32::MAX, 1), last(BUFFER, 64)],
        ),
        (
            "queue 0: descriptor 1 is readable and follows",
            &[
                Descriptor { flags: WRITE | NEXT, next: 1, ..last(BUFFER, 64) },
                Descriptor { flags: 0, ..last(BUFFER, 64) },
            ],
        ),
        ("queue 0: room of 63 bytes for a completion", &[good, last(BUFFER, 63)]),
        ("queue 0: room of 0 bytes for a completion", &[Descriptor { flags: 0, ..good }]),
        ("queue 0: request of 65665 bytes", &[readable(BUFFER, 65_665, 1), last(BUFFER, 64)]),
        ("queue 0: request of 65665 bytes", &[readable(BUFFER, 65_664, 1), readable(BUFFER, 1, 2), last(BUFFER, 64)]),
    ] {
        let fault = fault_of(chain);
        assert!(fault.starts_with(expected), "{fault}, not {expected}");
    }
}

#[test]
fn c42_a_chain_of_more_than_4_gib_is_refused() {
    // 16 times 256 MiB is one too many for a u32.
    let window_size = district_protocol::layout::WINDOW_SIZE_MAX;
    for (writable_from, expected) in [(32, true), (0, true), (8, true), (15, true)] {
        let mut pair = pair_in(window_size, Geometry { queue_size: 32, ..pair_geometry() });
        let queue = pair.driver.queue(0);
        for index in 0..16 {
            let flags = NEXT | if index >= writable_from { WRITE } else { 0 };
            let len = u32::try_from(window_size).unwrap();
            queue.set_descriptor(index, Descriptor { address: WINDOW_BASE, len, flags, next: index + 1 });
        }
        queue.set_descriptor(16, last(WINDOW_BASE, 64));
        queue.make_available(0);
        let error = pair.channel.next_request().unwrap_err().to_string();
        assert_eq!(error == "queue 0: chain 0 is longer than 4 GiB", expected, "{error}");
    }
}

#[test]
fn c42_a_chain_of_every_descriptor_is_fine_and_one_that_loops_is_not() {
    for (last_next, works) in [(None, true), (Some(0), false), (Some(1023), false)] {
        let mut pair = pair_in(4 << 20, Geometry { queue_size: 1024, ..pair_geometry() });
        let queue = pair.driver.queue(0);
        for index in 0..1023 {
            queue.set_descriptor(index, readable(BUFFER, 1, index + 1));
        }
        let next = last_next.map_or(0, |_| NEXT);
        queue
            .set_descriptor(1023, Descriptor { flags: WRITE | next, next: last_next.unwrap_or(0), ..last(BUFFER, 64) });
        queue.make_available(0);
        assert_eq!(pair.channel.next_request().is_ok(), works);
    }
}

#[test]
fn c42_a_head_that_is_none_or_outstanding_is_refused() {
    let mut pair = pair(8);
    pair.driver.queue(0).make_available(8);
    assert_eq!(pair.channel.next_request().unwrap_err().to_string(), "queue 0: descriptor 8 is out of range");

    let mut pair = self::pair(8);
    let chain = pair.driver.request(&request(1), b"").unwrap();
    pair.channel.next_request().unwrap().unwrap();
    pair.driver.queue(0).make_available(chain);
    assert_eq!(pair.channel.next_request().unwrap_err().to_string(), "queue 0: descriptor 0 is already in use");

    // Another head, but it runs into the chain that is outstanding.
    let mut pair = self::pair(8);
    pair.driver.request(&request(1), b"").unwrap();
    pair.channel.next_request().unwrap().unwrap();
    let queue = pair.driver.queue(0);
    queue.set_descriptor(4, readable(BUFFER, 128, 1));
    queue.make_available(4);
    assert_eq!(pair.channel.next_request().unwrap_err().to_string(), "queue 0: descriptor 1 is already in use");
}

#[test]
fn c42_an_available_index_that_jumps_is_refused() {
    for (index, works) in [(1, true), (8, true), (9, false), (0x8000, false), (u16::MAX, false)] {
        let mut pair = pair(8);
        let queue = pair.driver.queue(0);
        for head in 0..8 {
            queue.set_descriptor(head, Descriptor { flags: WRITE, ..last(BUFFER, 64) });
            queue.make_available(head);
        }
        queue.set_available_index(index);
        match pair.channel.next_request() {
            Ok(Some(_)) => assert!(works, "{index}"),
            Ok(None) => panic!("{index}"),
            Err(error) => assert_eq!((works, error.to_string().as_str()), (false, "queue 0: available index jumped")),
        }
    }
    // Backwards, after something was taken.
    let mut pair = pair(8);
    pair.driver.request(&request(1), b"").unwrap();
    pair.channel.next_request().unwrap().unwrap();
    pair.driver.queue(0).set_available_index(0);
    assert_eq!(pair.channel.next_request().unwrap_err().to_string(), "queue 0: available index jumped");
}

#[test]
fn c42_bad_delivery_buffers_are_refused() {
    let small = u32::try_from(DELIVERY_BUFFER_MIN).unwrap() - 1;
    for (expected, descriptors) in [
        ("queue 1: delivery buffer of 255 writable and 0 readable bytes", &[last(BUFFER, small)][..]),
        ("queue 1: delivery buffer of 0 writable and 0 readable bytes", &[last(BUFFER, 0)]),
        ("queue 1: delivery buffer of 512 writable and 1 readable bytes", &[readable(BUFFER, 1, 1), last(BUFFER, 512)]),
        (
            "queue 1: delivery buffer of 0 writable and 512 readable bytes",
            &[Descriptor { flags: 0, ..last(BUFFER, 512) }],
        ),
        ("queue 1: descriptor 0 is already in use", &[Descriptor { flags: NEXT | WRITE, ..last(BUFFER, 512) }]),
        ("queue 1: descriptor 0: 512 bytes at 0x2003ff00 are outside", &[last(END - 256, 512)]),
    ] {
        let mut pair = pair(8);
        for (index, descriptor) in descriptors.iter().enumerate() {
            pair.driver.queue(1).set_descriptor(u16::try_from(index).unwrap(), *descriptor);
        }
        let error = pair.channel.deliver(&delivery(1), b"").unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}, not {expected}");
        assert_eq!(pair.driver.queue(1).used_index(), 0);
    }
}

#[test]
fn c42_buffers_over_the_rings_harm_only_their_owner() {
    let mut pair = pair(8);
    let setup = pair.driver.setup().queues[0];
    let queue = pair.driver.queue(0);
    // The completion goes over the descriptor table, the available ring and the used ring alike.
    let len = u32::try_from(setup.device_area + 70 - setup.descriptors).unwrap();
    queue.set_descriptor(0, readable(setup.descriptors, 128, 1));
    queue.set_descriptor(1, last(setup.descriptors, len));
    queue.make_available(0);
    let raw = pair.channel.next_request().unwrap().unwrap();
    pair.complete(raw.chain, &[0xff; 1024]);
    assert!(matches!(pair.channel.next_request(), Err(ChannelError::Ring { queue: 0, .. })));
    pair.channel.flush().unwrap();
}
