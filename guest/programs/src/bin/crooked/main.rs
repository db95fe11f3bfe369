//! Breaks the rules of its queues, as a driver without the SDK: `crooked GROUP [NAME]`. Each case of the group is tried on
//! a device that was reset for it, and must leave it in need of the next reset. Then the SDK takes the device over, and
//! calls the `pong` called NAME as if nothing had happened.

#![no_std]
#![no_main]

extern crate alloc;

mod cases;
mod device;

use alloc::format;
use alloc::string::String;
use core::time::Duration;

use district_sdk::{Directory, boot, log};

use cases::GROUPS;
use device::Device;

district_sdk::entry!(main);

/// What was not as it should be.
type Verdict = Result<(), String>;

/// How long `pong` may take to be there.
const PATIENCE: Duration = Duration::from_secs(60);
/// Calls after all that.
const CALLS: u64 = 50;

fn main() -> Verdict {
    let mut arguments = boot::arguments();
    let group = arguments.next().unwrap_or_default();
    let name = arguments.next().unwrap_or_else(|| String::from("pong"));
    let Some((_, cases)) = GROUPS.iter().find(|(known, _)| *known == group) else {
        return Err(format!("no group {group:?}"));
    };
    for (case, provoke) in *cases {
        let device = Device::reset();
        provoke(&device).and_then(|()| device.until_it_needs_a_reset()).map_err(|wrong| format!("{case}: {wrong}"))?;
    }
    // The SDK sets up a device that nobody has used.
    device::write_status(0);
    let answered = call(&name).map_err(|error| format!("after all cases: {error:?}"))?;
    log!("{} cases refused, {answered} calls answered", cases.len());
    Ok(())
}

/// Makes calls, and counts the right answers.
fn call(name: &str) -> Result<usize, district_sdk::Error> {
    let pong = Directory::bootstrap().lookup_wait(name, PATIENCE)?;
    let mut answered = 0;
    for number in 0..CALLS {
        let reply = pong.call(number, &number.to_le_bytes()).reply_capacity(8).wait()?;
        answered += usize::from(reply.result == number && reply.data == number.to_le_bytes());
    }
    Ok(answered)
}
