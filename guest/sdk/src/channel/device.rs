//! The device's registers (virtio 1.2, section 4.2.2) and how it is set up. Each access leaves the guest and costs tens
//! of microseconds, so nothing is read that the ABI already promises (`docs/abi.md`, section 5).

use core::sync::atomic::{Ordering, fence};

use district_protocol::channel::{DELIVERY_QUEUE, FEATURES, REQUEST_QUEUE};

use super::ring::Ring;
use super::window::Window;
use crate::machine::write_register;

const DRIVER_FEATURES: u16 = 0x020;
const DRIVER_FEATURES_SELECT: u16 = 0x024;
const QUEUE_SELECT: u16 = 0x030;
const QUEUE_SIZE: u16 = 0x038;
const QUEUE_READY: u16 = 0x044;
const QUEUE_NOTIFY: u16 = 0x050;
const STATUS: u16 = 0x070;
const QUEUE_DESCRIPTORS_LOW: u16 = 0x080;
const QUEUE_DRIVER_LOW: u16 = 0x090;
const QUEUE_DEVICE_LOW: u16 = 0x0a0;

const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;

/// Takes the old queues away from a device that has been used before. Until then the broker may write into them, and wants
/// to find the count of consumed deliveries.
pub(super) fn reset() {
    write_register(STATUS, 0);
    // Writes to the new queues are ordinary ones, which the compiler could move to before the register's.
    fence(Ordering::SeqCst);
}

/// Gives a device in its reset state both queues, which begin to work at once.
pub(super) fn start(window: &Window, requests: &Ring, deliveries: &Ring) {
    write_register(STATUS, ACKNOWLEDGE | DRIVER);
    // What is zero after a reset is not written: selectors, and the upper halves of addresses, which are below 4 GiB.
    write_register(DRIVER_FEATURES, low(FEATURES));
    write_register(DRIVER_FEATURES_SELECT, 1);
    write_register(DRIVER_FEATURES, low(FEATURES >> 32));
    write_register(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    place_queue(window, requests);
    write_register(QUEUE_SELECT, u32::from(DELIVERY_QUEUE));
    place_queue(window, deliveries);
    write_register(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

fn place_queue(window: &Window, ring: &Ring) {
    let [descriptors, available, used] = ring.places();
    write_register(QUEUE_SIZE, u32::from(ring.size()));
    write_register(QUEUE_DESCRIPTORS_LOW, low(window.address(descriptors)));
    write_register(QUEUE_DRIVER_LOW, low(window.address(available)));
    write_register(QUEUE_DEVICE_LOW, low(window.address(used)));
    write_register(QUEUE_READY, 1);
}

const _: () = assert!(REQUEST_QUEUE == 0 && DELIVERY_QUEUE == 1);

/// Tells the device to look at this queue.
pub(super) fn ring_doorbell(queue: u16) {
    write_register(QUEUE_NOTIFY, u32::from(queue));
}

#[allow(clippy::cast_possible_truncation)] // that is what it is for
const fn low(value: u64) -> u32 {
    value as u32
}
