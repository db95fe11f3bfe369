//! What a district finds when it starts, and what has become of it when it was restored.

use alloc::format;
use alloc::string::String;
use core::fmt::Write;
use core::time::Duration;

use district_sdk::protocol::layout::{BOOT_PAGE, STACK_SIZE, WINDOW_BASE, WINDOW_SIZE_MIN};
use district_sdk::{Clock, Directory, Error, Reason, boot, log, time};

use crate::{Verdict, expect, works};

/// How far the district's clock may be from the host's.
const CLOCK_ERROR: u64 = 50_000_000;

/// The boot page describes memory that is there.
pub(crate) fn boot_page(argument: &str) -> Verdict {
    if boot::reason().is_none() || boot::epoch() == 0 || boot::session() == 0 {
        return Err(format!("reason {:?}, epoch {}, session {}", boot::reason(), boot::epoch(), boot::session()));
    }
    if boot::district_id() == [0; 16] || boot::entropy().chunks(8).any(|chunk| chunk == [0; 8]) {
        return Err(String::from("identity or entropy is zero"));
    }
    expect("window", boot::window().0, WINDOW_BASE)?;
    expect("window is big enough", boot::window().1 >= WINDOW_SIZE_MIN, true)?;
    expect("stack size", boot::stack().1, STACK_SIZE)?;
    let local = 0u8;
    let (stack, size) = boot::stack();
    let here = &raw const local as u64;
    expect("stack is where it should be", (stack..stack + size).contains(&here), true)?;
    expect("stack is above the boot page", stack > BOOT_PAGE, true)?;
    expect("checkpoint is in the past", boot::checkpoint_time() <= time::now(), true)?;
    let (heap, size) = boot::heap();
    for page in (heap..heap + size).step_by(1 << 20).chain([heap + size - 8]) {
        // SAFETY: the heap is readable in all its length, which is what is tested; the allocator's own data is not
        // written.
        let _ = unsafe { (page as *const u64).read_volatile() };
    }
    expect("argument", argument, boot::arguments().nth(1).as_deref().unwrap_or(""))
}

/// The clock of the boot page and the clock key agree.
pub(crate) fn clock(_: &str) -> Verdict {
    let clock = works("look-up of clock", Directory::bootstrap().lookup("clock").map(Clock))?;
    for _ in 0..10 {
        let before = time::now();
        let there = works("clock", clock.now())?;
        let after = time::now();
        if there + CLOCK_ERROR < before || there > after + CLOCK_ERROR {
            return Err(format!("the host's clock says {there}, the district's {before} to {after}"));
        }
        let slept = Duration::from_millis(20);
        works("sleep", clock.sleep(slept))?;
        expect("slept long enough", time::now() >= after + 20_000_000, true)?;
        time::sleep(slept);
        expect("parked long enough", time::now() >= after + 40_000_000, true)?;
    }
    Ok(())
}

/// Logs what must be different in each life.
pub(crate) fn identity(_: &str) -> Verdict {
    let mut text = String::new();
    for byte in boot::entropy() {
        works("format", write!(text, "{byte:02x}"))?;
    }
    let key = works("export", district_sdk::export(1))?;
    log!("identity epoch={} handle={:#x} entropy={text}", boot::epoch(), key.handle().0);
    Ok(())
}

/// Sleeps, by a call, for a minute: a restore must end the call.
pub(crate) fn c03_sleep_through_a_restore(_: &str) -> Verdict {
    let clock = works("look-up of clock", Directory::bootstrap().lookup("clock").map(Clock))?;
    log!("sleeping");
    let outcome = clock.sleep(Duration::from_secs(60));
    log!("woken by {outcome:?} in epoch {}", boot::epoch());
    expect("outcome", outcome, Err(Error::Unknown(Reason::SelfRestart)))
}
