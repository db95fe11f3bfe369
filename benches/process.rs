//! What the kernel tells about a process.

use std::mem::MaybeUninit;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// A mapping of a process, in bytes (Linux `Documentation/filesystems/proc.rst`, `smaps`).
#[derive(Debug, Default)]
pub struct Mapping {
    /// File, or what stands for one; empty: anonymous memory.
    pub name: String,
    pub writable: bool,
    pub size: u64,
    /// Resident, each page divided by the number of those who share it.
    pub pss: u64,
    /// Resident and of no file.
    pub anonymous: u64,
}

/// All mappings of a process. One that hides from debuggers, as vmm processes do, shows them to root only.
pub fn mappings(process: u32) -> Result<Vec<Mapping>> {
    let path = format!("/proc/{process}/smaps");
    let text = std::fs::read_to_string(&path).with_context(|| format!("{path} (only root can measure memory)"))?;
    let mut found: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let Some(field) = first.strip_suffix(':') else {
            let writable = words.next().is_some_and(|permissions| permissions.contains('w'));
            // Offset, device and inode come before the name.
            let name = words.skip(3).collect::<Vec<_>>().join(" ");
            found.push(Mapping { name, writable, ..Mapping::default() });
            continue;
        };
        let Some(mapping) = found.last_mut() else { bail!("{path} begins with {line:?}") };
        let into = match field {
            "Size" => &mut mapping.size,
            "Pss" => &mut mapping.pss,
            "Anonymous" => &mut mapping.anonymous,
            _ => continue,
        };
        let kibibytes: u64 = words.next().unwrap_or_default().parse().with_context(|| format!("{path}: {line:?}"))?;
        *into = kibibytes << 10;
    }
    Ok(found)
}

/// Processor time that all threads of a process have used, to the nanosecond.
pub fn cpu_time(process: u32) -> Result<Duration> {
    let id = libc::pid_t::try_from(process)?;
    let mut clock = 0;
    // SAFETY: `clock_getcpuclockid` writes a number to `clock`.
    let code = unsafe { libc::clock_getcpuclockid(id, &raw mut clock) };
    if code != 0 {
        return Err(std::io::Error::from_raw_os_error(code)).with_context(|| format!("the time of process {process}"));
    }
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: `clock_gettime` writes a time to `time`.
    if unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) } != 0 {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("the time of process {process}"));
    }
    // SAFETY: `assume_init` wants an initialised value: zeroes are one, whatever was written since.
    let time = unsafe { time.assume_init() };
    Ok(Duration::new(u64::try_from(time.tv_sec)?, u32::try_from(time.tv_nsec)?))
}
