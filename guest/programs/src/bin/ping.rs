//! Measures calls: `ping [CALLS [BYTES [NAME [samples]]]]` makes that many calls with so much data to a `pong`, one after
//! the other, and logs how long they took; with `samples`, how long each did.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Write;
use core::time::Duration;

use district_sdk::{Directory, Error, boot, log, time};

district_sdk::entry!(main);

/// Calls that are not counted, until memory and caches are warm.
const WARM_UP: usize = 100;
/// Samples in one line of the log.
const PER_LINE: usize = 100;

fn main() -> Result<(), Error> {
    let mut arguments = boot::arguments();
    let calls = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(10_000);
    let bytes: u32 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(64);
    let name = arguments.next().unwrap_or_else(|| String::from("pong"));
    let samples = arguments.next().as_deref() == Some("samples");

    let pong = Directory::bootstrap().lookup_wait(&name, Duration::from_secs(30))?;
    let data = vec![0x5a; bytes as usize];
    let mut times = Vec::with_capacity(calls);
    for call in 0..calls + WARM_UP {
        let start = time::now();
        let reply = pong.call(call as u64, &data).reply_capacity(bytes).wait()?;
        let end = time::now();
        if reply.data != data {
            return Err(Error::BadArgument(district_sdk::Argument::DATA));
        }
        if call >= WARM_UP {
            times.push(end - start);
        }
    }
    if samples {
        log_each(&times);
    }
    times.sort_unstable();
    let at = |permille: usize| times.get((calls - 1) * permille / 1000).copied().unwrap_or(0);
    log!(
        "ping calls={calls} bytes={bytes} min_ns={} median_ns={} p90_ns={} p99_ns={} max_ns={}",
        at(0),
        at(500),
        at(900),
        at(990),
        at(1000)
    );
    Ok(())
}

fn log_each(times: &[u64]) {
    for times in times.chunks(PER_LINE) {
        let mut line = String::from("ping_ns");
        for time in times {
            // Writing to a string cannot fail.
            let _ = write!(line, " {time}");
        }
        log!("{line}");
    }
}
