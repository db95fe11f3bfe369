//! Sizes and durations, as people write and read them.

use std::time::Duration;

const SIZE_UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
const DURATION_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("min", 60_000), ("h", 3_600_000)];

/// The bytes that a text such as `8MiB` stands for; `None` for anything else, and for more than a `u64` holds.
pub fn parse_size(text: &str) -> Option<u64> {
    SIZE_UNITS.iter().find_map(|(unit, factor)| {
        let number = digits(text.strip_suffix(unit)?.trim_end_matches(' '))?;
        number.checked_mul(*factor)
    })
}

/// The duration that a text such as `100ms` stands for; `None` for anything else, and for more than a `u64` of
/// milliseconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    // `100ms` ends with `s` too, but `100m` is no number then.
    DURATION_UNITS.iter().find_map(|(unit, factor)| {
        let number = digits(text.strip_suffix(unit)?.trim_end_matches(' '))?;
        number.checked_mul(*factor).map(Duration::from_millis)
    })
}

fn digits(text: &str) -> Option<u64> {
    // `u64::from_str` takes a plus sign.
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A size without loss, in the largest unit that gives a whole number; it can be parsed again unless it is in bytes.
pub fn exact_size(bytes: u64) -> String {
    for (unit, factor) in SIZE_UNITS {
        if bytes != 0 && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    format!("{bytes} bytes")
}

/// A duration without loss down to milliseconds, in the largest unit that gives a whole number.
pub fn exact_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    for (unit, factor) in DURATION_UNITS.iter().rev() {
        if ms != 0 && ms.is_multiple_of(u128::from(*factor)) {
            return format!("{}{unit}", ms / u128::from(*factor));
        }
    }
    format!("{ms}ms")
}

/// A size to look at: three digits or four, and a unit.
pub fn rough_size(bytes: u64) -> String {
    for (unit, factor) in SIZE_UNITS {
        if bytes >= factor {
            let tenths = u128::from(bytes) * 10 / u128::from(factor);
            let (whole, tenth) = (tenths / 10, tenths % 10);
            return if tenth == 0 || whole >= 100 {
                format!("{whole} {unit}")
            } else {
                format!("{whole}.{tenth} {unit}")
            };
        }
    }
    format!("{bytes} B")
}

/// A time span to look at: its two largest units.
pub fn rough_span(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms}ms"),
        1..=9 => format!("{s}.{}s", ms % 1000 / 100),
        10..=59 => format!("{s}s"),
        60..=3599 => format!("{}min {}s", s / 60, s % 60),
        3600..=86_399 => format!("{}h {}min", s / 3600, s % 3600 / 60),
        _ => format!("{}d {}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// A short measured time to look at.
pub fn rough_time(duration: Duration) -> String {
    let ns = duration.as_nanos();
    match ns {
        0..10_000_000 => format!("{} us", ns / 1000),
        10_000_000..10_000_000_000 => format!("{} ms", ns / 1_000_000),
        _ => format!("{} s", ns / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_their_unit_and_fit() {
        assert_eq!(parse_size("8MiB"), Some(8 << 20));
        assert_eq!(parse_size("8 MiB"), Some(8 << 20));
        assert_eq!(parse_size("64GiB"), Some(64 << 30));
        for bad in
            ["", "8", "MiB", "-8MiB", "+8MiB", "8MB", "8.5MiB", "8mib", "17179869184GiB", "99999999999999999999KiB"]
        {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_need_their_unit_and_fit() {
        assert_eq!(parse_duration("100ms"), Some(Duration::from_millis(100)));
        assert_eq!(parse_duration("10s"), Some(Duration::from_secs(10)));
        assert_eq!(parse_duration("5min"), Some(Duration::from_secs(300)));
        for bad in ["", "10", "s", "1.5s", "10m", "18446744073709551615s"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn exact_texts_parse_back() {
        for bytes in [1 << 10, 1 << 20, 3 << 20, (1 << 20) + 4096, 64 << 30] {
            assert_eq!(parse_size(&exact_size(bytes)), Some(bytes));
        }
        for ms in [1, 999, 1000, 60_000, 86_400_000] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse_duration(&exact_duration(duration)), Some(duration));
        }
    }

    #[test]
    fn rough_texts_are_short() {
        assert_eq!(rough_size(512), "512 B");
        assert_eq!(rough_size(16 << 20), "16 MiB");
        assert_eq!(rough_size((1 << 30) + (1 << 29)), "1.5 GiB");
        assert_eq!(rough_size(u64::MAX), "17179869183 GiB");
        assert_eq!(rough_span(250), "250ms");
        assert_eq!(rough_span(2_540), "2.5s");
        assert_eq!(rough_span(125_000), "2min 5s");
        assert_eq!(rough_span(90_000_000), "1d 1h");
        assert_eq!(rough_time(Duration::from_micros(210)), "210 us");
    }
}
