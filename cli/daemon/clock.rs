//! The event loop's time.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970, as the system's clock had it when the daemon started, and counted on from there by the
/// monotonic clock: deadlines must not move when somebody sets the system's clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
    started_ns: u64,
}

impl Clock {
    /// A clock that is right now.
    pub fn new() -> Clock {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { started: Instant::now(), started_ns: nanoseconds(since) }
    }

    /// The time.
    pub fn now(&self) -> u64 {
        self.started_ns.saturating_add(nanoseconds(self.started.elapsed()))
    }
}

fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
