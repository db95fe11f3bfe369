//! The guest's clock: the time-stamp counter, which a guest reads without leaving ring 3, and the wall-clock time at one
//! of its values.
//!
//! Guest and host read the same counter. On processors with virtualization extensions KVM adds an offset, which the vmm
//! process sets to zero; hosts that run ring 3 natively have none to begin with. So the host can compute the guest's time
//! with the guest's own formula ([`district_protocol::boot::BootPage::clock_scale`]), and a guest's deadline means
//! the same to both however the host's wall clock is corrected meanwhile.

use std::arch::x86_64::_rdtsc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Fixed for one life of a district.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestClock {
    /// Nanoseconds since 1970 at `tsc_base`.
    pub now: u64,
    /// Value of the counter at `now`.
    pub tsc_base: u64,
    /// Nanoseconds per tick, times 2^32.
    pub scale: u64,
}

impl GuestClock {
    /// A clock that is right at this moment, for a counter of `khz`; none if the counter stands still.
    pub fn start(khz: u32) -> Option<Self> {
        // Nanoseconds per tick are 10^6 / khz.
        let scale = (1_000_000u64 << 32).checked_div(u64::from(khz))?;
        let time = clock_gettime(ClockId::Realtime);
        let tsc_base = counter();
        let now = u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0);
        Some(Self { now, tsc_base, scale })
    }

    /// The guest's time, in nanoseconds since 1970.
    pub fn time(&self) -> u64 {
        self.at(counter())
    }

    /// The guest's time when the counter was `tsc`.
    fn at(&self, tsc: u64) -> u64 {
        let passed = (u128::from(tsc.saturating_sub(self.tsc_base)) * u128::from(self.scale)) >> 32;
        self.now.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// How long it is until the guest's clock shows `deadline`; zero if it does already.
    pub fn until(&self, deadline: u64) -> Duration {
        Duration::from_nanos(deadline.saturating_sub(self.time()))
    }
}

/// Has the host's clock ready to be read. The first time means looking for it, on older kernels in a file, which a thread
/// may have given up when it needs the time.
pub(crate) fn prepare() {
    let _ = clock_gettime(ClockId::Realtime);
}

/// The time-stamp counter.
fn counter() -> u64 {
    // SAFETY: `rdtsc` is there on every x86-64 processor, and Linux does not forbid it unless a process asks for that.
    unsafe { _rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_guests_formula() {
        let clock = GuestClock { now: 1_000, tsc_base: 50, scale: 1 << 31 };
        assert_eq!(clock.at(50), 1_000);
        assert_eq!(clock.at(250), 1_100);
        assert_eq!(clock.at(0), 1_000, "a counter that goes backwards does not");
        assert_eq!(GuestClock { now: u64::MAX, ..clock }.at(u64::MAX), u64::MAX);
    }

    #[test]
    fn deadlines_in_the_past_are_now() {
        let clock = GuestClock::start(1_000_000).unwrap();
        assert_eq!(clock.until(0), Duration::ZERO);
        assert_eq!(clock.until(clock.now), Duration::ZERO);
        assert!(clock.until(u64::MAX) > Duration::from_secs(1 << 30));
        assert_eq!(GuestClock::start(0), None);
    }
}
