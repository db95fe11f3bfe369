use district_protocol::layout::{WINDOW_BASE, WINDOW_SIZE_MIN};

use super::*;

const EPOCH: u64 = 0x0000_0007_0000_0003;

fn registers() -> Registers {
    Registers::new(EPOCH, WINDOW_SIZE_MIN)
}

fn get(registers: &Registers, offset: u32) -> u32 {
    let mut data = [0xee; 4];
    registers.read(offset.into(), &mut data);
    u32::from_le_bytes(data)
}

fn put(registers: &mut Registers, offset: u32, value: u32) -> Action {
    registers.write(offset.into(), &value.to_le_bytes())
}

fn put_all(registers: &mut Registers, writes: &[(u32, u32)]) {
    for &(offset, value) in writes {
        assert_eq!(put(registers, offset, value), Action::None, "{offset:#x}");
    }
}

const ACCEPT: [(u32, u32); 6] = [
    (VIRTIO_MMIO_STATUS, ACKNOWLEDGE),
    (VIRTIO_MMIO_STATUS, ACKNOWLEDGE | DRIVER),
    (VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0),
    (VIRTIO_MMIO_DRIVER_FEATURES, 1 << 29),
    (VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1),
    (VIRTIO_MMIO_DRIVER_FEATURES, 1),
];
const ACCEPTED: (u32, u32) = (VIRTIO_MMIO_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
const GO: u32 = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;

/// A place for each queue, 8 KiB apart.
fn place(queue: u32) -> QueueSetup {
    let base = WINDOW_BASE + 64 + u64::from(queue) * 0x2000;
    QueueSetup { size: 128, descriptors: base, driver_area: base + 0x800, device_area: base + 0x1000 }
}

fn queue_writes(queue: u32) -> [(u32, u32); 9] {
    let setup = place(queue);
    [
        (VIRTIO_MMIO_QUEUE_SEL, queue),
        (VIRTIO_MMIO_QUEUE_NUM, setup.size.into()),
        (VIRTIO_MMIO_QUEUE_DESC_LOW, low(setup.descriptors)),
        (VIRTIO_MMIO_QUEUE_DESC_HIGH, high(setup.descriptors)),
        (VIRTIO_MMIO_QUEUE_AVAIL_LOW, low(setup.driver_area)),
        (VIRTIO_MMIO_QUEUE_AVAIL_HIGH, 0),
        (VIRTIO_MMIO_QUEUE_USED_LOW, low(setup.device_area)),
        (VIRTIO_MMIO_QUEUE_USED_HIGH, 0),
        (VIRTIO_MMIO_QUEUE_READY, 1),
    ]
}

fn placed() -> Registers {
    let mut registers = registers();
    put_all(&mut registers, &ACCEPT);
    put_all(&mut registers, &[ACCEPTED]);
    put_all(&mut registers, &queue_writes(0));
    put_all(&mut registers, &queue_writes(1));
    registers
}

fn running() -> Registers {
    let mut registers = placed();
    let setup = ChannelSetup { queues: [place(0), place(1)] };
    assert_eq!(put(&mut registers, VIRTIO_MMIO_STATUS, GO), Action::Activate(setup));
    registers
}

#[test]
fn constants_read_as_the_specification_says() {
    let registers = registers();
    for (offset, expected) in [
        (0x000, 0x7472_6976),
        (0x004, 2),
        (0x008, 0x4449),
        (0x00c, 0x5453_4944),
        (0x010, 1 << 29),
        (0x034, 1024),
        (0x044, 0),
        (0x060, 0),
        (0x070, 0),
        (0x0b0, u32::MAX),
        (0x0b4, u32::MAX),
        (0x0b8, u32::MAX),
        (0x0bc, u32::MAX),
        (0x0fc, 0),
        (0x100, 1),
        (0x104, 0),
        (0x108, 3),
        (0x10c, 7),
        (0x110, 262_144),
        (0x114, 0),
        (0x118, 0),
        (0xffc, 0),
        // Write-only, legacy and unknown registers.
        (0x014, 0),
        (0x020, 0),
        (0x028, 0),
        (0x030, 0),
        (0x038, 0),
        (0x040, 0),
        (0x050, 0),
        (0x080, 0),
        (0x0c0, 0),
    ] {
        assert_eq!(get(&registers, offset), expected, "{offset:#x}");
    }
}

#[test]
fn other_widths_and_offsets_read_as_zero_and_write_nothing() {
    let mut registers = running();
    for offset in [0x000, 0x001, 0x002, 0x070, 0x100, 0x102, 0x108, 0xfff, 0x1000, u64::from(u32::MAX) + 1, u64::MAX] {
        for width in [0, 1, 2, 3, 5, 8, 16] {
            let mut data = vec![0xee; width];
            registers.read(offset, &mut data);
            assert_eq!(data, vec![0; width], "{offset:#x}, {width} bytes");
            assert_eq!(registers.write(offset, &vec![0; width]), Action::None, "{offset:#x}, {width} bytes");
        }
    }
    for offset in [0x001, 0x0fe, 0x101, 0x1000, u64::from(u32::MAX) + 0x71] {
        let mut data = [0xee; 4];
        registers.read(offset, &mut data);
        assert_eq!(data, [0; 4], "{offset:#x}");
    }
    assert_eq!(get(&registers, VIRTIO_MMIO_STATUS), GO);
}

#[test]
fn selectors_choose_feature_words_and_queues() {
    let mut registers = registers();
    for (selector, features) in [(0, 1 << 29), (1, 1), (2, 0), (u32::MAX, 0)] {
        put(&mut registers, VIRTIO_MMIO_DEVICE_FEATURES_SEL, selector);
        assert_eq!(get(&registers, VIRTIO_MMIO_DEVICE_FEATURES), features);
    }
    for (selector, size) in [(0, 1024), (1, 1024), (2, 0), (u32::MAX, 0)] {
        put(&mut registers, VIRTIO_MMIO_QUEUE_SEL, selector);
        assert_eq!(get(&registers, VIRTIO_MMIO_QUEUE_NUM_MAX), size);
        assert_eq!(get(&registers, VIRTIO_MMIO_QUEUE_READY), 0);
    }
}

#[test]
fn features_must_be_exactly_those_offered() {
    for (writes, sticks) in [
        (&[(0, 1 << 29), (1, 1)][..], true),
        (&[(0, 1 << 29)], false),
        (&[(1, 1)], false),
        (&[(0, 1 << 29 | 1), (1, 1)], false),
        (&[(0, 1 << 29), (1, 3)], false),
        (&[(0, 1 << 29), (1, 1), (2, 1)], false),
        (&[(0, 1 << 29), (1, 1), (2, 0)], true),
        (&[(0, 0), (0, 1 << 29), (1, 1)], true),
        (&[], false),
    ] {
        let mut registers = registers();
        put_all(&mut registers, &ACCEPT[..2]);
        for &(selector, value) in writes {
            put_all(
                &mut registers,
                &[(VIRTIO_MMIO_DRIVER_FEATURES_SEL, selector), (VIRTIO_MMIO_DRIVER_FEATURES, value)],
            );
        }
        put_all(&mut registers, &[ACCEPTED]);
        assert_eq!(get(&registers, VIRTIO_MMIO_STATUS) & FEATURES_OK != 0, sticks, "{writes:?}");
    }
}

#[test]
fn features_do_not_count_outside_of_negotiation() {
    let mut registers = registers();
    put_all(&mut registers, &ACCEPT[2..]);
    put_all(&mut registers, &ACCEPT[..2]);
    put_all(&mut registers, &[ACCEPTED]);
    assert_eq!(get(&registers, VIRTIO_MMIO_STATUS), ACKNOWLEDGE | DRIVER);
    put_all(&mut registers, &ACCEPT[2..]);
    put_all(&mut registers, &[ACCEPTED, (VIRTIO_MMIO_DRIVER_FEATURES, 0)]);
    assert_eq!(registers.accepted, FEATURES);
}

#[test]
fn status_bits_come_in_order_and_stay() {
    for (writes, status) in [
        (&[DRIVER][..], 0),
        (&[FEATURES_OK], 0),
        (&[ACKNOWLEDGE | DRIVER], ACKNOWLEDGE | DRIVER),
        (&[ACKNOWLEDGE, DRIVER], ACKNOWLEDGE | DRIVER),
        (&[ACKNOWLEDGE | DRIVER, ACKNOWLEDGE], ACKNOWLEDGE | DRIVER),
        (&[NEEDS_RESET], 0),
        (&[u32::MAX], FAILED),
        (&[ACKNOWLEDGE, FAILED, DRIVER], ACKNOWLEDGE | FAILED),
        (&[ACKNOWLEDGE | DRIVER, DRIVER_OK], ACKNOWLEDGE | DRIVER | NEEDS_RESET),
        (&[DRIVER_OK], NEEDS_RESET),
        (&[DRIVER_OK, ACKNOWLEDGE], NEEDS_RESET),
        (&[DRIVER_OK, FAILED], NEEDS_RESET | FAILED),
    ] {
        let mut registers = registers();
        for &value in writes {
            assert_eq!(put(&mut registers, VIRTIO_MMIO_STATUS, value), Action::None);
        }
        assert_eq!(get(&registers, VIRTIO_MMIO_STATUS), status, "{writes:?}");
        assert_eq!(put(&mut registers, VIRTIO_MMIO_STATUS, 0), Action::Reset);
        assert_eq!(get(&registers, VIRTIO_MMIO_STATUS), 0);
    }
}

#[test]
fn queues_that_cannot_be_used_need_a_reset() {
    let end = low(WINDOW_BASE + WINDOW_SIZE_MIN);
    for (why, writes) in [
        ("queue 1 not ready", &[(VIRTIO_MMIO_QUEUE_READY, 0)][..]),
        ("no size", &[(VIRTIO_MMIO_QUEUE_READY, 0), (VIRTIO_MMIO_QUEUE_NUM, 0), (VIRTIO_MMIO_QUEUE_READY, 1)]),
        ("odd size", &[(VIRTIO_MMIO_QUEUE_READY, 0), (VIRTIO_MMIO_QUEUE_NUM, 100), (VIRTIO_MMIO_QUEUE_READY, 1)]),
        ("big size", &[(VIRTIO_MMIO_QUEUE_READY, 0), (VIRTIO_MMIO_QUEUE_NUM, 2048), (VIRTIO_MMIO_QUEUE_READY, 1)]),
        ("wide size", &[(VIRTIO_MMIO_QUEUE_READY, 0), (VIRTIO_MMIO_QUEUE_NUM, 65_664), (VIRTIO_MMIO_QUEUE_READY, 1)]),
        ("table at 8", &[(VIRTIO_MMIO_QUEUE_READY, 0), (VIRTIO_MMIO_QUEUE_DESC_LOW, 8), (VIRTIO_MMIO_QUEUE_READY, 1)]),
        ("table end", &[(VIRTIO_MMIO_QUEUE_READY, 0), (VIRTIO_MMIO_QUEUE_DESC_LOW, end), (VIRTIO_MMIO_QUEUE_READY, 1)]),
        ("far used", &[(VIRTIO_MMIO_QUEUE_READY, 0), (VIRTIO_MMIO_QUEUE_USED_HIGH, 1), (VIRTIO_MMIO_QUEUE_READY, 1)]),
    ] {
        let mut registers = placed();
        put_all(&mut registers, writes);
        assert_eq!(put(&mut registers, VIRTIO_MMIO_STATUS, GO), Action::None, "{why}");
        assert_eq!(get(&registers, VIRTIO_MMIO_STATUS), GO & !DRIVER_OK | NEEDS_RESET, "{why}");
        // Nothing but a reset helps.
        put_all(&mut registers, &queue_writes(1));
        assert_eq!(put(&mut registers, VIRTIO_MMIO_STATUS, GO), Action::None, "{why}");
    }
}

#[test]
fn a_queue_that_is_ready_or_running_stays_where_it_is() {
    let mut registers = placed();
    put_all(&mut registers, &[(VIRTIO_MMIO_QUEUE_DESC_LOW, 0x2000_4000), (VIRTIO_MMIO_QUEUE_NUM, 1)]);
    assert_eq!(registers.queues[1].setup, place(1));
    let mut registers = running();
    put_all(&mut registers, &[(VIRTIO_MMIO_QUEUE_READY, 0), (VIRTIO_MMIO_QUEUE_NUM, 1)]);
    assert_eq!(get(&registers, VIRTIO_MMIO_QUEUE_READY), 1);
    assert_eq!(registers.queues[1].setup, place(1));
}

#[test]
fn queues_are_placed_only_after_the_features() {
    let mut registers = registers();
    put_all(&mut registers, &ACCEPT);
    put_all(&mut registers, &queue_writes(0));
    assert_eq!(get(&registers, VIRTIO_MMIO_QUEUE_READY), 0);
    put_all(&mut registers, &[ACCEPTED, (VIRTIO_MMIO_QUEUE_SEL, 2), (VIRTIO_MMIO_QUEUE_READY, 1)]);
    assert_eq!(get(&registers, VIRTIO_MMIO_QUEUE_READY), 0);
}

#[test]
fn doorbells_ring_only_while_the_device_runs() {
    for (queue, action) in [(0, Action::Notify(0)), (1, Action::Notify(1)), (2, Action::None), (0x1_0000, Action::None)]
    {
        assert_eq!(put(&mut running(), VIRTIO_MMIO_QUEUE_NOTIFY, queue), action);
        assert_eq!(put(&mut placed(), VIRTIO_MMIO_QUEUE_NOTIFY, queue), Action::None);
    }
}

#[test]
fn interrupt_bits_are_set_by_events_and_cleared_by_the_driver() {
    let mut registers = placed();
    registers.used_buffer_notification();
    assert_eq!(get(&registers, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    let mut registers = running();
    registers.used_buffer_notification();
    assert_eq!(get(&registers, VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    registers.set_needs_reset();
    assert_eq!(get(&registers, VIRTIO_MMIO_INTERRUPT_STATUS), 3);
    assert_eq!(get(&registers, VIRTIO_MMIO_STATUS), GO | NEEDS_RESET);
    put_all(&mut registers, &[(VIRTIO_MMIO_INTERRUPT_ACK, 1)]);
    assert_eq!(get(&registers, VIRTIO_MMIO_INTERRUPT_STATUS), 2);
    put_all(&mut registers, &[(VIRTIO_MMIO_INTERRUPT_ACK, u32::MAX)]);
    assert_eq!(get(&registers, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

#[test]
fn a_device_in_reset_needs_none() {
    let mut registers = registers();
    registers.set_needs_reset();
    assert_eq!(get(&registers, VIRTIO_MMIO_STATUS), 0);
    put_all(&mut registers, &[(VIRTIO_MMIO_STATUS, ACKNOWLEDGE)]);
    registers.set_needs_reset();
    assert_eq!(get(&registers, VIRTIO_MMIO_STATUS), ACKNOWLEDGE | NEEDS_RESET);
    assert_eq!(get(&registers, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

#[test]
fn reset_resets_everything() {
    let mut registers = running();
    put_all(&mut registers, &[(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1), (VIRTIO_MMIO_DRIVER_FEATURES_SEL, 5)]);
    registers.used_buffer_notification();
    registers.set_needs_reset();
    assert_eq!(put(&mut registers, VIRTIO_MMIO_STATUS, 0), Action::Reset);
    assert_eq!(format!("{registers:?}"), format!("{:?}", self::registers()));
    // And the device can be used again.
    put_all(&mut registers, &ACCEPT);
    put_all(&mut registers, &[ACCEPTED]);
    put_all(&mut registers, &queue_writes(0));
    put_all(&mut registers, &queue_writes(1));
    assert!(matches!(put(&mut registers, VIRTIO_MMIO_STATUS, GO), Action::Activate(_)));
}

proptest::proptest! {
    #[test]
    fn c41_random_accesses_never_activate_queues_that_do_not_fit(
        accesses in proptest::collection::vec((0_u64..0x200, proptest::collection::vec(0_u8.., 0..9)), 0..200),
        from_running in proptest::bool::ANY,
    ) {
        let mut registers = if from_running { placed() } else { registers() };
        for (offset, data) in accesses {
            if let Action::Activate(setup) = registers.write(offset, &data) {
                proptest::prop_assert!(setup.check(WINDOW_SIZE_MIN).is_ok());
            }
            registers.read(offset, &mut data.clone());
        }
    }
}
