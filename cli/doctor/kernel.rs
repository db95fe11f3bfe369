//! What districts need of the kernel beside KVM.

use rustix::fs::{MemfdFlags, SealFlags};
use std::fs;
use std::io;

use super::Finding;

pub(super) fn examine() -> Vec<Finding> {
    vec![sealing(), seccomp()]
}

/// The window must not shrink under the daemon that reads it.
fn sealing() -> Finding {
    let subject = "sealed memory";
    match try_sealing() {
        Ok(()) => Finding::good(subject, "memfd_create and seals work"),
        Err(error) => Finding::bad(
            subject,
            format!("no sealed memfd can be made: {error}"),
            "use a kernel with CONFIG_MEMFD_CREATE, and let this process's seccomp filter allow memfd_create",
        ),
    }
}

fn try_sealing() -> io::Result<()> {
    let memory = rustix::fs::memfd_create("district-doctor", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&memory, 4096)?;
    rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    if rustix::fs::ftruncate(&memory, 0).is_ok() {
        return Err(io::Error::other("a seal does not hold"));
    }
    Ok(())
}

/// The jail of a vmm process. The kernel lists what a filter can do (Linux `Documentation/userspace-api/seccomp_filter.rst`,
/// "Sysctls").
fn seccomp() -> Finding {
    let subject = "seccomp";
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    if actions.split_whitespace().any(|action| action == "kill_process") {
        return Finding::good(subject, "filters are available");
    }
    Finding::bad(
        subject,
        "no filter that can end a process",
        "use a kernel from 4.14 on with CONFIG_SECCOMP_FILTER, and mount /proc",
    )
}
