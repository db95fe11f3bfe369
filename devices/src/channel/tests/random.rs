//! Random queues, held against what the specification says of them.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// What the specification says about a chain, from the descriptors as they are in the window now.
struct Expected {
    readable: Vec<u8>,
    /// Offsets in the window of all writable bytes, in order.
    writable: Vec<usize>,
    indices: Vec<u16>,
}

fn expected(memory: &[u8], setup: &crate::QueueSetup, head: u16, held: &HashSet<u16>) -> Option<Expected> {
    let mut chain = Expected { readable: vec![], writable: vec![], indices: vec![] };
    let mut index = head;
    loop {
        if index >= setup.size || held.contains(&index) || chain.indices.contains(&index) {
            return None;
        }
        chain.indices.push(index);
        let at = usize::try_from(setup.descriptors - WINDOW_BASE).unwrap() + 16 * usize::from(index);
        let address = u64::from_le_bytes(memory[at..at + 8].try_into().unwrap());
        let len = u32::from_le_bytes(memory[at + 8..at + 12].try_into().unwrap());
        let flags = u16::from_le_bytes(memory[at + 12..at + 14].try_into().unwrap());
        let next = u16::from_le_bytes(memory[at + 14..at + 16].try_into().unwrap());
        let (start, end) = (u128::from(address), u128::from(address) + u128::from(len));
        if flags > 3 || start < u128::from(WINDOW_BASE) || end > u128::from(END) {
            return None;
        }
        let offset = usize::try_from(address - WINDOW_BASE).unwrap();
        let range = offset..offset + len as usize;
        if flags & WRITE != 0 {
            chain.writable.extend(range);
        } else if chain.writable.is_empty()
            && !chain.indices.iter().rev().skip(1).any(|i| is_writable(memory, setup, *i))
        {
            chain.readable.extend(&memory[range]);
        } else {
            return None;
        }
        if flags & NEXT == 0 {
            return Some(chain);
        }
        index = next;
    }
}

fn is_writable(memory: &[u8], setup: &crate::QueueSetup, index: u16) -> bool {
    let at = usize::try_from(setup.descriptors - WINDOW_BASE).unwrap() + 16 * usize::from(index) + 12;
    memory[at] & 2 != 0
}

/// Anything.
fn wild() -> impl Strategy<Value = Descriptor> {
    let address = prop_oneof![
        4 => (0..WINDOW_SIZE_MIN).prop_map(|offset| WINDOW_BASE + offset),
        // Over the rings.
        2 => (0_u64..0x400).prop_map(|offset| WINDOW_BASE + offset),
        1 => any::<u64>(),
        1 => (0_u64..256).prop_map(|before| END - before),
    ];
    let len = prop_oneof![4 => 0_u32..300, 2 => 0_u32..70_000, 1 => any::<u32>()];
    let flags = prop_oneof![8 => 0_u16..4, 1 => any::<u16>()];
    let next = prop_oneof![8 => 0_u16..8, 1 => any::<u16>()];
    (address, len, flags, next).prop_map(|(address, len, flags, next)| Descriptor { address, len, flags, next })
}

/// Mostly such that most chains are good; otherwise anything.
fn descriptor() -> impl Strategy<Value = Descriptor> {
    let flags = prop_oneof![3 => Just(NEXT), 3 => Just(NEXT | WRITE), 8 => Just(WRITE)];
    let good = (0x1_0000..WINDOW_SIZE_MIN - 300, 64_u32..300, flags, 0_u16..8)
        .prop_map(|(offset, len, flags, next)| Descriptor { address: WINDOW_BASE + offset, len, flags, next });
    prop_oneof![12 => good, 1 => wild()]
}

#[derive(Debug, Clone)]
enum Step {
    Write(u16, Descriptor),
    Post(u16),
    Jump(u16),
    Take,
    Complete(usize, usize),
    Deliver(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        40 => (0_u16..8, descriptor()).prop_map(|(index, descriptor)| Step::Write(index, descriptor)),
        80 => (0_u16..8).prop_map(Step::Post),
        1 => any::<u16>().prop_map(Step::Post),
        1 => any::<u16>().prop_map(Step::Jump),
        80 => Just(Step::Take),
        60 => (0_usize..8, 0_usize..2000).prop_map(|(which, len)| Step::Complete(which, len)),
        20 => (0_usize..2000).prop_map(Step::Deliver),
    ]
}

/// All of the window except what the device may write: these offsets and its used rings.
fn outside(memory: &[u8], setup: &ChannelSetup, written: &[usize]) -> Vec<u8> {
    let mut masked = memory.to_vec();
    written.iter().for_each(|&offset| masked[offset] = 0);
    for queue in &setup.queues {
        let start = usize::try_from(queue.device_area - WINDOW_BASE).unwrap();
        masked[start..start + 6 + 8 * usize::from(queue.size)].fill(0);
    }
    masked
}

fn memory(channel: &Channel) -> Vec<u8> {
    crate::driver::read(&channel.window, WINDOW_BASE, usize::try_from(WINDOW_SIZE_MIN).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn c42_random_queues_give_the_frame_or_the_error(
        table in proptest::collection::vec(descriptor(), 8),
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let mut pair = pair(8);
        let setup = pair.driver.setup();
        for (index, descriptor) in table.into_iter().enumerate() {
            pair.driver.queue(0).set_descriptor(u16::try_from(index).unwrap(), descriptor);
        }
        let mut taken = 0_u16;
        let mut held = HashSet::new();
        let mut outstanding: Vec<(RawRequest, Expected)> = vec![];
        for step in steps {
            match step {
                Step::Write(index, descriptor) => pair.driver.queue(0).set_descriptor(index, descriptor),
                Step::Post(head) => pair.driver.queue(0).make_available(head),
                Step::Jump(index) => pair.driver.queue(0).set_available_index(index),
                Step::Take => {
                    let memory = memory(&pair.channel);
                    let at = usize::try_from(setup.queues[0].driver_area - WINDOW_BASE).unwrap();
                    let word = |at: usize| u16::from_le_bytes(memory[at..at + 2].try_into().unwrap());
                    let available = word(at + 2).wrapping_sub(taken);
                    let got = pair.channel.next_request();
                    if available == 0 {
                        prop_assert_eq!(got.unwrap(), None);
                        continue;
                    }
                    let head = word(at + 4 + 2 * usize::from(taken % 8));
                    let chain = (available <= 8).then(|| expected(&memory, &setup.queues[0], head, &held)).flatten();
                    let chain = chain.filter(|chain| {
                        chain.readable.len() <= REQUEST_HEADER + DATA_MAX && chain.writable.len() >= COMPLETION_HEADER
                    });
                    let Some(chain) = chain else {
                        let is_fault = matches!(got, Err(ChannelError::Ring { queue: 0, .. }));
                        prop_assert!(is_fault, "{:?}", got);
                        return Ok(());
                    };
                    let raw = got.unwrap().unwrap();
                    prop_assert_eq!(raw.chain, head);
                    prop_assert_eq!(raw.capacity as usize, (chain.writable.len() - COMPLETION_HEADER).min(DATA_MAX));
                    prop_assert_eq!(&raw.bytes, &chain.readable);
                    taken = taken.wrapping_add(1);
                    held.extend(&chain.indices);
                    outstanding.push((raw, chain));
                }
                Step::Complete(which, len) => {
                    if outstanding.is_empty() {
                        continue;
                    }
                    let (raw, chain) = outstanding.swap_remove(which % outstanding.len());
                    let before = outside(&memory(&pair.channel), &setup, &chain.writable);
                    pair.channel.complete(raw.chain, &completion(1), &pattern(len)).unwrap();
                    let after = memory(&pair.channel);
                    prop_assert_eq!(before == outside(&after, &setup, &chain.writable), true);
                    let overlaps = chain.writable.iter().collect::<HashSet<_>>().len() < chain.writable.len();
                    let rings = usize::try_from(pair.driver.setup().queues[1].device_area - WINDOW_BASE).unwrap() + 70;
                    if !overlaps && chain.writable.iter().all(|&offset| offset > rings) {
                        let data = &pattern(len)[..len.min(raw.capacity as usize)];
                        let written: Vec<u8> = chain.writable.iter().map(|&offset| after[offset]).collect();
                        prop_assert_eq!(&written[COMPLETION_HEADER..COMPLETION_HEADER + data.len()], data);
                    }
                    chain.indices.iter().for_each(|index| { held.remove(index); });
                }
                // The guest's own completions may have gone over this queue; whatever comes of it is fine.
                Step::Deliver(len) => if pair.channel.deliver(&delivery(1), &pattern(len)).is_err() {
                    return Ok(());
                },
            }
            pair.channel.flush().unwrap();
        }
    }
}
