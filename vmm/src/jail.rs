//! What a vmm process may still ask of the kernel once its guest runs: a list of system calls, everything else kills it.
//!
//! Both threads install the filter before the first instruction of the guest. What only set-up needs is not on the list:
//! no opening, no connecting, no new threads, no other programs, no descriptor flags, no executable memory, and of KVM
//! only running the guest and looking at it.

use std::collections::BTreeMap;

use kvm_bindings::{KVMIO, kvm_sregs};
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use vmm_sys_util::{ioctl_io_nr, ioctl_ior_nr};

// Linux `include/uapi/linux/kvm.h`.
ioctl_io_nr!(KVM_RUN, KVMIO, 0x80);
ioctl_ior_nr!(KVM_GET_SREGS, KVMIO, 0x83, kvm_sregs);

/// Allowed with any arguments.
const ALLOWED: &[c_long] = &[
    // The daemon: control socket, vhost-user handshake, eventfds.
    libc::SYS_ppoll,
    libc::SYS_accept4,
    libc::SYS_getsockopt,
    libc::SYS_geteuid,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    // Waiting for the other thread; signals; the clock where the vDSO does not read it.
    libc::SYS_futex,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_clock_gettime,
    // The allocator.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // The end.
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What may be asked with `fcntl`: flags (the standard library does, before it closes a file in debug builds) and
/// duplicates. Setting flags, seals or owners may not.
const FCNTL: [libc::c_int; 3] = [libc::F_GETFD, libc::F_GETFL, libc::F_DUPFD_CLOEXEC];

fn when(argument: u8, operation: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operation, value)?])
}

/// The filter, for [`seccompiler::apply_filter`].
pub(crate) fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq};
    let number = |value: libc::c_int| u64::from(value.unsigned_abs());
    let no_code = || when(2, MaskedEq(number(libc::PROT_EXEC)), 0);
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> = ALLOWED.iter().map(|&call| (call, Vec::new())).collect();
    rules.extend([
        (libc::SYS_ioctl, vec![when(1, Eq, KVM_RUN())?, when(1, Eq, KVM_GET_SREGS())?]),
        (libc::SYS_fcntl, FCNTL.iter().map(|&command| when(1, Eq, number(command))).collect::<Result<_, _>>()?),
        (libc::SYS_setsockopt, vec![when(1, Eq, number(libc::SOL_SOCKET))?]),
        (libc::SYS_mmap, vec![no_code()?]),
        (libc::SYS_mprotect, vec![no_code()?]),
        (libc::SYS_tgkill, vec![when(0, Eq, u64::from(std::process::id()))?]),
    ]);

    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?.try_into()
}
