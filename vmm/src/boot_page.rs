//! Writing the boot page, and telling a running guest that it has a new session.

use std::mem::offset_of;
use std::sync::atomic::Ordering;

use district_protocol::ABI_VERSION;
use district_protocol::boot::{ARGUMENTS_MAX, ARGUMENTS_OFFSET, BOOT_MAGIC, BootPage, StartReason};
use district_protocol::layout::{BOOT_PAGE, DEVICE_BASE};

use crate::clock::GuestClock;
use crate::control::Start;
use crate::memory::{MemoryError, Ram};
use crate::state::Layout;

/// The session that a life begins with.
pub(crate) const FIRST_SESSION: u64 = 1;

/// Fills the boot page before the first instruction. `start` has been checked.
pub(crate) fn write(
    ram: &Ram,
    layout: &Layout,
    start: &Start,
    clock: &GuestClock,
    entropy: [u8; 64],
) -> Result<(), MemoryError> {
    let arguments: Vec<u8> = start.arguments.iter().flat_map(|it| it.bytes().chain([0])).collect();
    let length = |range: &std::ops::Range<u64>| range.end - range.start;
    let page = BootPage {
        magic: BOOT_MAGIC,
        abi_version: ABI_VERSION,
        reason: start.reason,
        district_id: start.district_id,
        epoch: start.epoch,
        generation: start.generation,
        checkpoint_time: start.checkpoint_time,
        now: clock.now,
        tsc_base: clock.tsc_base,
        clock_scale: clock.scale,
        session: FIRST_SESSION,
        heap_base: layout.heap.start,
        heap_size: length(&layout.heap),
        window_base: layout.window().start,
        window_size: layout.window,
        device_base: DEVICE_BASE,
        stack_base: layout.stack.start,
        stack_size: length(&layout.stack),
        arguments_len: arguments.len() as u64,
        entropy,
    };
    // All of the page, and once: a restored one may have more arguments of an earlier life.
    let mut bytes = page.encode().to_vec();
    bytes.resize(ARGUMENTS_OFFSET, 0);
    bytes.extend(arguments);
    bytes.resize(ARGUMENTS_OFFSET + ARGUMENTS_MAX, 0);
    ram.write(BOOT_PAGE, &bytes)
}

/// Tells the running guest that its connection to the broker is a new one. Who sees the new session with an acquiring
/// load sees the reason, too.
pub(crate) fn begin_session(ram: &Ram, session: u64) -> Result<(), MemoryError> {
    let reason = BOOT_PAGE + offset_of!(BootPage, reason) as u64;
    ram.store_u32(reason, StartReason::BrokerRestart as u32, Ordering::Relaxed)?;
    ram.store_u64(BOOT_PAGE + offset_of!(BootPage, session) as u64, session, Ordering::Release)
}
