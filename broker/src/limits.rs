//! What one district may use of the broker (semantics, section 10).

/// Limits of one district, from its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Keys in its table: live, broken, in transit to others, and room promised to calls and queued messages.
    pub handles: u32,
    /// Objects that it exports, notifiers included.
    pub exports: u32,
    /// Bytes of its messages that are queued at others; each counts [`Limits::MESSAGE_COST`] more than its frame.
    pub queued_bytes: u64,
    /// Watches, until their `Down` has been delivered.
    pub watches: u32,
    /// Names of its that are bound at one time.
    pub bindings: u32,
    /// Requests per second, on average; as many may come at once.
    pub frames_per_second: u32,
    /// Calls without an answer.
    pub calls: u32,
}

impl Limits {
    /// What a queued message counts beyond the bytes of its frame.
    pub const MESSAGE_COST: u64 = 256;
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            handles: 4096,
            exports: 1024,
            queued_bytes: 4 << 20,
            watches: 1024,
            bindings: 64,
            frames_per_second: 1_000_000,
            calls: 1024,
        }
    }
}

const SECOND: u64 = 1_000_000_000;

/// Lets through so many frames per second. What is stored is only the time at which everything let through so far would
/// be paid for.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    paid_at: u64,
    interval: u64,
}

impl Bucket {
    pub(crate) fn new(frames_per_second: u32) -> Self {
        // A rate of zero lets one frame through per century.
        let interval = SECOND.checked_div(u64::from(frames_per_second)).unwrap_or(100 * 365 * 86_400 * SECOND);
        Bucket { paid_at: 0, interval }
    }

    /// Takes one frame if there is one left.
    pub(crate) fn take(&mut self, now: u64) -> bool {
        if self.paid_at > now.saturating_add(SECOND) {
            return false;
        }
        self.charge(now, 1);
        true
    }

    /// Takes this many frames, also ones that are not there yet.
    pub(crate) fn charge(&mut self, now: u64, frames: u64) {
        self.paid_at = self.paid_at.max(now).saturating_add(self.interval.saturating_mul(frames));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_frames_at_once_then_the_rate() {
        let mut bucket = Bucket::new(1000);
        let burst = (0..5000).filter(|_| bucket.take(0)).count();
        assert!((1000..=1001).contains(&burst), "{burst}");
        let later = (0..5000).filter(|_| bucket.take(SECOND / 10)).count();
        assert!((99..=101).contains(&later), "{later}");
    }

    #[test]
    fn no_rate_overflows() {
        for rate in [0, 1, u32::MAX] {
            let mut bucket = Bucket::new(rate);
            bucket.charge(u64::MAX - 5, u64::MAX);
            bucket.take(u64::MAX);
        }
    }
}
