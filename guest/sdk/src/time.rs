//! The district's clock. It costs no way out of the guest.

use core::time::Duration;

use district_protocol::shim::NO_DEADLINE;

use crate::{boot, machine, restart};

/// Nanoseconds since 1970.
pub fn now() -> u64 {
    boot::now()
}

/// The time at which `timeout` from now is over, in nanoseconds since 1970.
pub fn deadline(timeout: Duration) -> u64 {
    now().saturating_add(nanoseconds(timeout))
}

/// Parks the district for this long, or until a restore has made the time later anyway. Nothing is received meanwhile.
pub fn sleep(time: Duration) {
    let until = deadline(time);
    while now() < until {
        machine::park(until.min(NO_DEADLINE - 1));
    }
    restart::notice();
}

/// The length of `time` in nanoseconds, at most 584 years.
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
