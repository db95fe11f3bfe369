//! Processes, and what can be seen of them from outside.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// Sends a signal to a process that may be gone.
pub fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    let _ = kill_process(pid, signal);
}

/// Whether any thread of this process has not ended. A process that is dying has its files for as long.
pub fn is_alive(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stats = threads.map(|thread| fs::read_to_string(thread.path().join("stat")).unwrap_or_default());
    stats.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next()).any(|state| !matches!(state, 'Z' | 'X'))
}

/// Whether this process has set up what it does about SIGTERM (proc(5), `SigCgt`: a mask, lowest bit for signal 1).
pub fn handles_term(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigCgt:")?.trim(), 16).ok());
    caught.is_some_and(|caught| caught >> (Signal::TERM.as_raw() - 1) & 1 == 1)
}
