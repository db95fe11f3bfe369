//! The device's registers (virtio 1.2, section 4.2.2) and how it is set up. Each access leaves the guest and costs tens
//! of microseconds, so nothing is read that the ABI already promises (`docs/abi.md`, section 5).

use core::sync::atomic::{Ordering, fence};

use district_protocol::channel::status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK};
use district_protocol::channel::{DELIVERY_QUEUE, FEATURES, REQUEST_QUEUE, register};

use super::ring::Ring;
use super::window::Window;
use crate::machine::write_register;

/// Takes the old queues away from a device that has been used before. Until then the broker may write into them, and wants
/// to find the count of consumed deliveries.
pub(super) fn reset() {
    write_register(register::STATUS, 0);
    // Writes to the new queues are ordinary ones, which the compiler could move to before the register's.
    fence(Ordering::SeqCst);
}

/// Gives a device in its reset state both queues, which begin to work at once.
pub(super) fn start(window: &Window, requests: &Ring, deliveries: &Ring) {
    write_register(register::STATUS, ACKNOWLEDGE | DRIVER);
    // What is zero after a reset is not written: selectors, and the upper halves of addresses, which are below 4 GiB.
    write_register(register::DRIVER_FEATURES, low(FEATURES));
    write_register(register::DRIVER_FEATURES_SELECT, 1);
    write_register(register::DRIVER_FEATURES, low(FEATURES >> 32));
    write_register(register::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    place_queue(window, requests);
    write_register(register::QUEUE_SELECT, u32::from(DELIVERY_QUEUE));
    place_queue(window, deliveries);
    write_register(register::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

fn place_queue(window: &Window, ring: &Ring) {
    let [descriptors, available, used] = ring.places();
    write_register(register::QUEUE_SIZE, u32::from(ring.size()));
    write_register(register::QUEUE_DESCRIPTORS_LOW, low(window.address(descriptors)));
    write_register(register::QUEUE_DRIVER_LOW, low(window.address(available)));
    write_register(register::QUEUE_DEVICE_LOW, low(window.address(used)));
    write_register(register::QUEUE_READY, 1);
}

const _: () = assert!(REQUEST_QUEUE == 0 && DELIVERY_QUEUE == 1);

/// Tells the device to look at this queue.
pub(super) fn ring_doorbell(queue: u16) {
    write_register(register::QUEUE_NOTIFY, u32::from(queue));
}

#[allow(clippy::cast_possible_truncation)] // that is what it is for
const fn low(value: u64) -> u32 {
    value as u32
}
