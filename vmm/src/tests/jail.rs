//! The filter, in a child process: the only way out of it is to die.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use rustix::mm::{MapFlags, ProtFlags};
use rustix::process::DumpableBehavior;
use seccompiler::{BackendError, BpfProgram};

use crate::jail;

/// Names what the child is to try.
const VARIABLE: &str = "DISTRICT_JAIL_TEST";
/// Names the filter.
const FILTER: &str = "DISTRICT_JAIL_TEST_FILTER";

type Attempt = (&'static str, fn());

/// None of these returns, whichever filter it is.
const FORBIDDEN: [Attempt; 11] = [
    ("open", || ignore(std::fs::File::open("/dev/null"))),
    ("socket", || ignore(std::os::unix::net::UnixDatagram::unbound())),
    ("spawn", || drop(Command::new("/bin/true").spawn())),
    ("thread", || ignore(std::thread::Builder::new().spawn(|| ()))),
    ("set nonblocking", || ignore(rustix::io::ioctl_fionbio(std::io::stdin(), true))),
    ("set flags", || ignore(rustix::fs::fcntl_setfl(std::io::stdin(), rustix::fs::OFlags::NONBLOCK))),
    ("set socket options", || ignore(rustix::net::sockopt::set_socket_keepalive(std::io::stdin(), true))),
    ("executable memory", || map(ProtFlags::EXEC | ProtFlags::READ, MapFlags::PRIVATE)),
    ("signal a parent", || other_process()),
    ("dumpable", || ignore(rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable))),
    ("memfd", || ignore(rustix::fs::memfd_create("escape", rustix::fs::MemfdFlags::CLOEXEC))),
];

/// None of these returns once there is a guest.
const FORBIDDEN_LATER: [Attempt; 3] = [
    ("shared memory", || map(ProtFlags::WRITE | ProtFlags::READ, MapFlags::SHARED)),
    ("seals", || ignore(rustix::fs::fcntl_get_seals(std::io::stdin()))),
    ("create a vm", || create_vm()),
];

fn map(protection: ProtFlags, flags: MapFlags) {
    // SAFETY: a new anonymous mapping replaces nothing.
    let _ = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), 4096, protection, flags) };
}

fn other_process() {
    // SAFETY: signal 0 only asks.
    let _ = unsafe { libc::syscall(libc::SYS_tgkill, 1, 1, 0) };
}

fn create_vm() {
    // SAFETY: KVM_CREATE_VM on a descriptor that is not `/dev/kvm` does nothing.
    let _ = unsafe { libc::ioctl(0, 0xae01, 0) };
}

/// Nobody will see it.
fn ignore<T>(result: T) {
    std::mem::forget(result);
}

/// Not a test: what the test below runs in a process of its own.
#[test]
fn inmate() {
    let Ok(name) = std::env::var(VARIABLE) else { return };
    let filters: &[fn() -> Result<BpfProgram, BackendError>] = match std::env::var(FILTER).as_deref() {
        Ok("set-up") => &[jail::set_up],
        // One after the other, as in a vmm process.
        Ok("control") => &[jail::set_up, jail::control],
        Ok("vcpu") => &[jail::set_up, jail::vcpu],
        _ => &[jail::checkpoint],
    };
    let filters = filters.iter().map(|filter| filter().unwrap()).collect::<Vec<_>>();
    filters.iter().for_each(|filter| seccompiler::apply_filter(filter).unwrap());
    if let Some((_, attempt)) = FORBIDDEN.iter().chain(&FORBIDDEN_LATER).find(|(forbidden, _)| *forbidden == name) {
        attempt();
    } else {
        // What the run loop does between exits, and what the allocator needs.
        drop(vec![1u8; 1 << 20]);
        let _ = rustix::event::poll(&mut [], Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 1 }));
        map(ProtFlags::READ, MapFlags::PRIVATE);
    }
    // SAFETY: `_exit` takes any number.
    unsafe { libc::_exit(42) }
}

fn child(name: &str, filter: &str) -> std::process::ExitStatus {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "tests::jail::inmate", "--nocapture", "--test-threads=1"]);
    command.env(VARIABLE, name).env(FILTER, filter).output().unwrap().status
}

#[test]
fn forbidden_system_calls_kill() {
    for filter in ["set-up", "control", "vcpu", "checkpoint"] {
        for (name, _) in FORBIDDEN {
            let status = child(name, filter);
            assert_eq!(status.signal(), Some(libc::SIGSYS), "{name}, {filter}: {status}");
        }
        for (name, _) in FORBIDDEN_LATER {
            let (status, later) = (child(name, filter), filter != "set-up");
            let wanted = if later { (Some(libc::SIGSYS), None) } else { (None, Some(42)) };
            assert_eq!((status.signal(), status.code()), wanted, "{name}, {filter}: {status}");
        }
        assert_eq!(child("nothing", filter).code(), Some(42), "{filter}");
    }
}
