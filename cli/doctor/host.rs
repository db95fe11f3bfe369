//! The machine: processors, clock, memory, limits.

use rustix::process::{Resource, getrlimit};
use std::fs;

use super::Finding;
use crate::terminal::units::rough_size;

/// Open files below which a daemon with some tens of districts may run out.
const FILES_ENOUGH: u64 = 1024;
/// Available memory below which it is soon used up.
const MEMORY_ENOUGH: u64 = 256 << 20;

pub(super) fn examine() -> Vec<Finding> {
    vec![cores(), clock(&processor_flags()), memory(), files()]
}

/// The `flags` of the first processor in `/proc/cpuinfo`; none where there is no such file.
pub(super) fn processor_flags() -> Vec<String> {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    line.split_once(':').map(|(_, flags)| flags.split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
}

fn cores() -> Finding {
    let subject = "processors";
    match std::thread::available_parallelism().map_or(1, usize::from) {
        1 => Finding::doubtful(subject, "1", "a call between two districts is slow without a second processor"),
        count => Finding::good(subject, count.to_string()),
    }
}

/// Districts compute the time from the time-stamp counter, without asking anybody.
fn clock(flags: &[String]) -> Finding {
    let subject = "clock";
    let missing: Vec<&str> =
        ["constant_tsc", "nonstop_tsc"].into_iter().filter(|flag| !flags.iter().any(|known| known == flag)).collect();
    if missing.is_empty() {
        return Finding::good(subject, "the time-stamp counter has one rate and never stops");
    }
    Finding::doubtful(
        subject,
        format!("the processor does not promise {}", missing.join(" and ")),
        "the clock of a long-lived district may drift; programs that mind can ask `host/clock`",
    )
}

fn memory() -> Finding {
    let subject = "memory";
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let Some(available) = available_memory(&text) else {
        return Finding::doubtful(subject, "not known: /proc/meminfo cannot be read", "mount /proc");
    };
    let found = format!("{} available", rough_size(available));
    if available < MEMORY_ENOUGH {
        return Finding::doubtful(subject, found, "give districts little `memory`, or end something else");
    }
    Finding::good(subject, found)
}

fn available_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn files() -> Finding {
    let subject = "open files";
    match getrlimit(Resource::Nofile).current {
        Some(most) if most < FILES_ENOUGH => {
            Finding::doubtful(subject, format!("at most {most}"), "allow more: `ulimit -n 4096`")
        }
        Some(most) => Finding::good(subject, format!("at most {most}")),
        None => Finding::good(subject, "no limit"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_and_nonsense_is_not() {
        assert_eq!(available_memory("MemTotal: 9 kB\nMemAvailable:   1024 kB\n"), Some(1 << 20));
        for bad in ["", "MemAvailable: x kB", "MemAvailable: 5", "MemAvailable: 99999999999999999999 kB"] {
            assert_eq!(available_memory(bad), None, "{bad}");
        }
    }
}
