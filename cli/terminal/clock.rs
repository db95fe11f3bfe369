//! The time of day, and the day.

/// `12:00:01.123`, the local time at so many milliseconds since 1970.
pub fn time_of_day(time_ms: u64) -> String {
    let Some(parts) = local(time_ms) else { return format!("{time_ms}ms") };
    format!("{:02}:{:02}:{:02}.{:03}", parts.tm_hour, parts.tm_min, parts.tm_sec, time_ms % 1000)
}

/// `2026-05-01 12:00:01`, likewise.
pub fn date_and_time(time_ms: u64) -> String {
    let Some(parts) = local(time_ms) else { return format!("{time_ms}ms") };
    let (year, month) = (i64::from(parts.tm_year) + 1900, parts.tm_mon + 1);
    let (day, hour, minute, second) = (parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

fn local(time_ms: u64) -> Option<libc::tm> {
    let seconds = libc::time_t::try_from(time_ms / 1000).unwrap_or(0);
    // SAFETY: `tm` is a C struct of integers and one pointer that may be null; all zero is a value of it.
    let mut parts: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: localtime_r wants a readable time_t and a writable tm; both are references to locals. It reads the
    // environment, which nothing in this program changes.
    let filled = unsafe { libc::localtime_r(&raw const seconds, &raw mut parts) };
    (!filled.is_null()).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_milliseconds_and_survives_any_number() {
        assert!(time_of_day(1_700_000_000_007).ends_with(":20.007"));
        assert!(!time_of_day(u64::MAX).is_empty());
    }

    #[test]
    fn a_date_has_the_year_first() {
        let noon = date_and_time(1_700_049_600_000);
        assert!(noon.starts_with("2023-11-1") && noon.ends_with(":00"), "{noon}");
        assert_eq!(noon.len(), 19);
        assert!(!date_and_time(u64::MAX).is_empty());
    }
}
