//! Fails in whatever way it is told: `flaky HOW [after MILLISECONDS | on call]`. With `on call` it publishes `flaky` and
//! fails when somebody calls that.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::string::String;
use alloc::vec::Vec;
use core::arch::asm;
use core::hint::black_box;
use core::time::Duration;

use district_sdk::protocol::layout::{BOOT_PAGE, DEVICE_BASE, GDT_BASE, PAGE_SIZE, RAM_BASE};
use district_sdk::{Error, Event, boot, exit, log, next_event, publish, time};

district_sdk::entry!(main);

/// The register `QueueNotify` of the device.
const DOORBELL: u64 = DEVICE_BASE + 0x50;
/// An address that no district has.
const NOWHERE: u64 = 0x0dea_d000;

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = boot::arguments().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (how, when) = arguments.split_first().unwrap_or((&"exit", &[]));
    log!("going to fail: {}", arguments.join(" "));
    match when {
        ["after", time] => time::sleep(Duration::from_millis(time.parse().unwrap_or(0))),
        ["on", "call"] => wait_for_call()?,
        _ => {}
    }
    fail(how, when.first().and_then(|code| code.parse().ok()).unwrap_or(1))
}

fn wait_for_call() -> Result<(), Error> {
    let mut _service = publish("flaky", 0)?;
    loop {
        match next_event(None) {
            // The caller must learn of the end from the broker alone.
            Some(Event::Message(message)) => {
                core::mem::forget(message);
                return Ok(());
            }
            Some(Event::Lost(_)) => _service = publish("flaky", 0)?,
            _ => {}
        }
    }
}

fn fail(how: &str, code: u8) -> Result<(), Error> {
    match how {
        "exit" => exit(code, "as asked"),
        "error" => return Err(Error::NoSuchOperation),
        "panic" => assert!(black_box(false), "as asked"),
        "null" => drop(peek(0)),
        "fault" => poke(NOWHERE, 1),
        // One of them ends it.
        "wild" => (GDT_BASE..=BOOT_PAGE).step_by(4096).for_each(|page| poke(page, u64::MAX)),
        "read-system" => drop(peek(RAM_BASE)),
        "write-code" => poke(fail as *const () as u64, 0),
        "run-data" => run([0xc3; 16]),
        "stack" => drop(overflow(0)),
        "heap" => exhaust(),
        "spin" => loop {
            core::hint::spin_loop();
        },
        // SAFETY: each of these instructions ends the program, as is intended; none returns.
        "ud2" => unsafe { asm!("ud2", options(noreturn)) },
        // SAFETY: as above.
        "div0" => unsafe { asm!("xor ecx, ecx", "div ecx", "ud2", options(noreturn)) },
        // SAFETY: as above.
        "hlt" => unsafe { asm!("hlt", "ud2", options(noreturn)) },
        // SAFETY: as above; no shim call has this number.
        "shim" => unsafe { asm!("int3", "ud2", in("eax") 77, options(noreturn)) },
        "doorbell" => loop {
            ring(0);
            ring(1);
            ring(u32::MAX);
        },
        "badqueue" => garbage(),
        other => log!("no such way to fail: {other}"),
    }
    exit(code, "still alive")
}

fn peek(address: u64) -> u64 {
    // SAFETY: none can be had: the read is there to end the program.
    unsafe { (address as *const u64).read_volatile() }
}

fn poke(address: u64, value: u64) {
    // SAFETY: none can be had: the write is there to end the program.
    unsafe { (address as *mut u64).write_volatile(value) }
}

fn ring(queue: u32) {
    // SAFETY: a register of the device page, which is mapped; the device bears every value.
    unsafe { (DOORBELL as *mut u32).write_volatile(queue) }
}

fn run(code: [u8; 16]) {
    // SAFETY: none can be had: the call is there to end the program.
    let function: extern "C" fn() = unsafe { core::mem::transmute(black_box(&code).as_ptr()) };
    function();
}

fn overflow(depth: u64) -> u64 {
    if depth == u64::MAX {
        return depth;
    }
    let frame = black_box([depth; 64]);
    overflow(depth + 1) + black_box(frame[0])
}

fn exhaust() {
    let mut hoard = Vec::new();
    loop {
        hoard.push(black_box(Vec::<u8>::with_capacity(1 << 16)));
    }
}

/// Overwrites the window, queues and all, with a sequence that is different in each epoch, and rings the doorbells. Each
/// time that the host ends the connection for it, it makes a new one and goes on.
fn garbage() {
    let (base, size) = boot::window();
    let mut seed = u64::from_le_bytes(core::array::from_fn(|index| boot::entropy()[index])) | 1;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed ^ seed >> 29
    };
    let mut session = boot::session();
    loop {
        // Mostly the first pages, where the queues are.
        let span = if random() % 4 == 0 { size } else { 16 * PAGE_SIZE };
        for _ in 0..random() % 2000 {
            let place = base + random() % span / 16 * 16;
            // Noise; a descriptor that is almost right; ring entries that are; nothing.
            let (low, high) = match random() % 4 {
                0 => (random(), random()),
                1 => (base + random() % size, random() & 0x03ff_0007_0000_ffff),
                2 => (random() & 0x03ff_03ff_03ff_03ff, random() & 0x03ff_03ff_03ff_03ff),
                _ => (0, 0),
            };
            poke(place, low);
            poke(place + 8, high);
        }
        ring(0);
        ring(1);
        if boot::session() != session {
            session = boot::session();
            log!("connection {session}");
        }
    }
}
