//! Has memory and writes to it, as benchmarks want it: `pages FILL [WRITE [PERIOD]]`.
//!
//! It fills FILL pages of heap with what is not zero and logs `filled`. From then on it never parks. Every PERIOD
//! milliseconds it writes to the first WRITE of them and logs `wrote <count> <time>`: how many writes there were in all, and
//! the time then, in nanoseconds since 1970. With a PERIOD of 0 it does nothing but write, and says so every 10 ms.
//!
//! It looks at its epoch all the time, and when that changes it logs `restored <time>`, the time before anything else. A copy
//! of it parks then, for ever.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use core::time::Duration;

use district_sdk::protocol::boot::StartReason;
use district_sdk::{boot, log, time};

district_sdk::entry!(main);

const PAGE: usize = 4096;
/// Time between two log lines of a program that writes all the time.
const REPORT_EVERY: Duration = Duration::from_millis(10);

fn main() {
    let mut arguments = boot::arguments();
    let mut number = || arguments.next().and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
    let (fill, write, period) = (number(), number(), number());
    let mut memory = filled(fill as usize);
    log!("filled");
    let write = memory.len().min(write as usize);
    let period = Duration::from_millis(period.into());
    let mut epoch = boot::epoch();
    let (mut count, mut due) = (0u64, time::deadline(period));
    loop {
        if boot::epoch() != epoch {
            let now = time::now();
            epoch = boot::epoch();
            log!("restored {now}");
            if boot::reason() == Some(StartReason::Clone) {
                time::sleep(Duration::MAX);
            }
        }
        let now = time::now();
        if write == 0 || (!period.is_zero() && now < due) {
            core::hint::spin_loop();
            continue;
        }
        for page in &mut memory[..write] {
            page.touch();
            count += 1;
        }
        if now >= due {
            log!("wrote {count} {}", time::now());
            due = time::deadline(if period.is_zero() { REPORT_EVERY } else { period });
        }
    }
}

/// A page of the heap.
#[repr(align(4096))]
struct Page([u64; PAGE / 8]);

impl Page {
    /// Writes to it, in one place, as a program does that changes something here and there.
    fn touch(&mut self) {
        self.0[0] = core::hint::black_box(self.0[0].wrapping_add(2));
    }
}

/// Pages of which none is zero, and no two are the same.
fn filled(count: usize) -> Vec<Page> {
    let mut seed = 1u64;
    let mut memory = Vec::with_capacity(count);
    for _ in 0..count {
        memory.push(Page([0; PAGE / 8]));
        if let Some(Page(words)) = memory.last_mut() {
            for word in words {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) | 1;
                *word = seed;
            }
        }
    }
    memory
}
