//! The time of day.

/// `12:00:01.123`, the local time at so many milliseconds since 1970.
pub fn time_of_day(time_ms: u64) -> String {
    let seconds = libc::time_t::try_from(time_ms / 1000).unwrap_or(0);
    // SAFETY: `tm` is a C struct of integers and one pointer that may be null; all zero is a value of it.
    let mut parts: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: localtime_r wants a readable time_t and a writable tm; both are references to locals. It reads the
    // environment, which nothing in this program changes.
    let filled = unsafe { libc::localtime_r(&raw const seconds, &raw mut parts) };
    if filled.is_null() {
        return format!("{time_ms}ms");
    }
    format!("{:02}:{:02}:{:02}.{:03}", parts.tm_hour, parts.tm_min, parts.tm_sec, time_ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_milliseconds_and_survives_any_number() {
        assert!(time_of_day(1_700_000_000_007).ends_with(":20.007"));
        assert!(!time_of_day(u64::MAX).is_empty());
    }
}
