//! What a vmm process may still ask of the kernel: a list of system calls, everything else kills it.
//!
//! Each thread has its own list. Those that make the machine have had another one before: before they hear of a district,
//! and with it of a program and a checkpoint that somebody else has made, they give up all that making a machine does not
//! need: opening, connecting, new threads, other programs, descriptor flags, executable memory. Before the first
//! instruction of the guest they give up the rest, too: shared memory, and of KVM all but running the guest and looking at
//! it.
//!
//! The lists are short for speed, too: the kernel tries a filter on each system call that there is when it installs it,
//! and on those only that an earlier filter has left.

use std::collections::BTreeMap;

use kvm_bindings::{KVMIO, kvm_debugregs, kvm_dirty_log, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xsave};
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};
use vmm_sys_util::{ioctl_io_nr, ioctl_ior_nr, ioctl_iow_nr};

// Linux `include/uapi/linux/kvm.h`.
ioctl_io_nr!(KVM_RUN, KVMIO, 0x80);
ioctl_ior_nr!(KVM_GET_REGS, KVMIO, 0x81, kvm_regs);
ioctl_ior_nr!(KVM_GET_SREGS, KVMIO, 0x83, kvm_sregs);
ioctl_ior_nr!(KVM_GET_VCPU_EVENTS, KVMIO, 0x9f, kvm_vcpu_events);
ioctl_ior_nr!(KVM_GET_DEBUGREGS, KVMIO, 0xa1, kvm_debugregs);
ioctl_ior_nr!(KVM_GET_XSAVE, KVMIO, 0xa4, kvm_xsave);
ioctl_iow_nr!(KVM_GET_DIRTY_LOG, KVMIO, 0x42, kvm_dirty_log);

/// Allowed to all threads with any arguments.
const ALL: [c_long; 18] = [
    // The daemon: vhost-user handshake, eventfds, sockets.
    libc::SYS_ppoll,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    // No system call where the kernel offers the clock without one, which depends on the host.
    libc::SYS_clock_gettime,
    // Waiting for the other thread, and what a signal interrupts.
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    // The allocator.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // The end of the thread and of the process.
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Allowed to the control thread beyond [`ALL`]: taking daemons, and signalling the vCPU thread.
const CONTROL: [c_long; 7] = [
    libc::SYS_accept4,
    libc::SYS_getsockopt,
    libc::SYS_geteuid,
    libc::SYS_recvfrom,
    libc::SYS_getpid,
    libc::SYS_rt_sigprocmask,
    // Where this is not the process's first thread, its end.
    libc::SYS_sigaltstack,
];

/// Allowed to the control thread, and to the vCPU thread as well, while there is no guest: looking at what the daemon has
/// passed.
const SET_UP: [c_long; 8] = [
    libc::SYS_eventfd2,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_pread64,
    libc::SYS_getrandom,
    // A thread's signal to itself.
    libc::SYS_gettid,
];

/// Allowed to the vCPU thread beyond [`ALL`]: what ends a thread.
const VCPU: [c_long; 2] = [libc::SYS_rt_sigprocmask, libc::SYS_sigaltstack];

/// Allowed to the checkpoint thread beyond [`ALL`]: the log, which it has open, and signalling the vCPU thread.
const CHECKPOINT: [c_long; 11] = [
    libc::SYS_pread64,
    libc::SYS_pwritev,
    libc::SYS_sync_file_range,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_getpid,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
];

/// What may be asked with `fcntl`: flags (the standard library does, before it closes a file in debug builds) and
/// duplicates. Setting flags, seals or owners may not.
const FCNTL: [libc::c_int; 3] = [libc::F_GETFD, libc::F_GETFL, libc::F_DUPFD_CLOEXEC];

/// The lower half of an argument, compared with a constant.
fn is(argument: u8, operation: SeccompCmpOp, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operation, value)
}

fn when(argument: u8, operation: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![is(argument, operation, value)?])
}

/// The control thread's filter, for [`seccompiler::apply_filter`].
pub(crate) fn control() -> Result<BpfProgram, seccompiler::BackendError> {
    filter(&CONTROL, [kill_own()?])
}

/// The filter of the control thread, and of the vCPU thread, while there is no guest.
pub(crate) fn set_up() -> Result<BpfProgram, seccompiler::BackendError> {
    use SeccompCmpOp::{Eq, MaskedEq};
    let any = |argument, values: &[libc::c_int]| -> Result<Vec<_>, _> {
        values.iter().map(|&value| when(argument, Eq, number(value))).collect()
    };
    let fcntl = [&FCNTL[..], &[libc::F_GET_SEALS]].concat();
    // Bits 8 to 15 of a request say of what kind it is (Linux `include/uapi/asm-generic/ioctl.h`).
    let kvm = when(1, MaskedEq(0xff << 8), u64::from(KVMIO) << 8)?;
    let more = [
        kill_own()?,
        (libc::SYS_ioctl, vec![kvm]),
        (libc::SYS_mmap, vec![SeccompRule::new(vec![no_code()?])?]),
        (libc::SYS_fcntl, any(1, &fcntl)?),
        // The thread's name, and the next filter.
        (libc::SYS_prctl, any(0, &[libc::PR_SET_NAME, libc::PR_SET_NO_NEW_PRIVS])?),
        (libc::SYS_seccomp, vec![when(0, Eq, u64::from(libc::SECCOMP_SET_MODE_FILTER))?]),
    ];
    filter(&[&CONTROL[..], &SET_UP].concat(), more)
}

/// The vCPU thread's filter.
pub(crate) fn vcpu() -> Result<BpfProgram, seccompiler::BackendError> {
    let requests = [
        KVM_RUN(),
        KVM_GET_REGS(),
        KVM_GET_SREGS(),
        KVM_GET_VCPU_EVENTS(),
        KVM_GET_DEBUGREGS(),
        KVM_GET_XSAVE(),
        KVM_GET_DIRTY_LOG(),
    ];
    let requests = requests.map(|request| when(1, SeccompCmpOp::Eq, request));
    filter(&VCPU, [(libc::SYS_ioctl, requests.into_iter().collect::<Result<_, _>>()?)])
}

/// The checkpoint thread's filter.
pub(crate) fn checkpoint() -> Result<BpfProgram, seccompiler::BackendError> {
    let dirty_log = vec![when(1, SeccompCmpOp::Eq, KVM_GET_DIRTY_LOG())?];
    filter(&CHECKPOINT, [(libc::SYS_ioctl, dirty_log), kill_own()?])
}

/// Signals to threads of this process.
fn kill_own() -> Result<(c_long, Vec<SeccompRule>), seccompiler::BackendError> {
    Ok((libc::SYS_tgkill, vec![when(0, SeccompCmpOp::Eq, u64::from(std::process::id()))?]))
}

/// Memory that cannot be executed.
fn no_code() -> Result<SeccompCondition, seccompiler::BackendError> {
    is(2, SeccompCmpOp::MaskedEq(number(libc::PROT_EXEC)), 0)
}

fn filter(
    allowed: &[c_long],
    instead: impl IntoIterator<Item = (c_long, Vec<SeccompRule>)>,
) -> Result<BpfProgram, seccompiler::BackendError> {
    // Shared memory would not count towards the process's limit.
    let not_shared = || is(3, SeccompCmpOp::MaskedEq(number(libc::MAP_SHARED)), 0);
    let fcntl = |&command| when(1, SeccompCmpOp::Eq, number(command));
    let mut rules: BTreeMap<_, _> = ALL.iter().chain(allowed).map(|&call| (call, Vec::new())).collect();
    rules.insert(libc::SYS_mmap, vec![SeccompRule::new(vec![no_code()?, not_shared()?])?]);
    rules.insert(libc::SYS_mprotect, vec![SeccompRule::new(vec![no_code()?])?]);
    rules.insert(libc::SYS_fcntl, FCNTL.iter().map(fcntl).collect::<Result<_, _>>()?);
    rules.extend(instead);
    search(&rules.into_iter().collect::<Vec<_>>())
}

/// Load a word of `struct seccomp_data`; jump if it is not below a constant; jump (Linux
/// `include/uapi/linux/bpf_common.h`).
const LOAD: u16 = 0x20;
const JUMP_IF_NOT_BELOW: u16 = 0x35;
const JUMP: u16 = 0x05;
const _: () = {
    assert!(LOAD as u32 == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
    assert!(JUMP_IF_NOT_BELOW as u32 == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K);
    assert!(JUMP as u32 == libc::BPF_JMP | libc::BPF_JA);
};

/// Most system calls that are compared one after the other.
const LEAF: usize = 4;

/// A program that finds a system call's rules by bisection. `seccompiler` compares a call with each rule in turn, and the
/// kernel, when it installs a filter, runs it on every number there is: that would take longer than making the vCPU.
/// The programs at the leaves are complete: each checks the architecture first, and kills what it does not know.
fn search(rules: &[(c_long, Vec<SeccompRule>)]) -> Result<BpfProgram, seccompiler::BackendError> {
    if rules.len() <= LEAF {
        let rules = rules.iter().cloned().collect();
        return SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?
            .try_into();
    }
    let (low, high) = rules.split_at(rules.len() / 2);
    let (pivot, low, high) = (high[0].0, search(low)?, search(high)?);
    let length = |program: &BpfProgram| u32::try_from(program.len()).unwrap_or(u32::MAX);
    // The number is the first field of `struct seccomp_data`; a conditional jump
    // reaches 255 instructions at most, hence the unconditional one.
    let instruction = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let mut program = vec![
        instruction(LOAD, 0, 0, 0),
        instruction(JUMP_IF_NOT_BELOW, 0, 1, u32::try_from(pivot).unwrap_or(u32::MAX)),
        instruction(JUMP, 0, 0, length(&low)),
    ];
    program.extend(low);
    program.extend(high);
    Ok(program)
}

fn number(value: libc::c_int) -> u64 {
    u64::from(value.unsigned_abs())
}
