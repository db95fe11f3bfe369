//! Taking a vCPU up to the point where it would enter a guest, before there is one.
//!
//! The first `KVM_RUN` of a vCPU loads floating-point state, and fills KVM's caches for page tables, about eighty pages:
//! a third of the time from there to a program's first instruction. All that is done when KVM notices that a signal is
//! pending and returns instead of entering the guest. The signal is blocked in the thread, so that it is pending, and not
//! blocked while KVM runs the vCPU (Linux `Documentation/virt/kvm/api.rst`, `KVM_SET_SIGNAL_MASK`).

use kvm_bindings::{KVMIO, kvm_signal_mask};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::{ioctl_with_ptr, ioctl_with_ref};
use vmm_sys_util::ioctl_iow_nr;
use vmm_sys_util::signal::{SIGRTMIN, block_signal, unblock_signal};

// Linux `include/uapi/linux/kvm.h`.
ioctl_iow_nr!(KVM_SET_SIGNAL_MASK, KVMIO, 0x8b, kvm_signal_mask);

/// `struct kvm_signal_mask` with the kernel's set of signals behind it.
#[repr(C)]
struct Mask {
    len: u32,
    signals: [u8; 8],
}

const NONE: Mask = Mask { len: 8, signals: [0; 8] };

/// Runs a vCPU up to its guest, in the thread that is going to run it: KVM remembers that, too.
pub(crate) fn warm_up(vcpu: &mut VcpuFd) -> errno::Result<()> {
    // SAFETY: `ioctl_with_ref` wants a request that reads no more than the argument: this one reads the length, and as
    // many bytes behind it.
    done(unsafe { ioctl_with_ref(vcpu, KVM_SET_SIGNAL_MASK(), &NONE) })?;
    // The only other thing that can be wrong is the signal's number. Its handler does nothing.
    block_signal(SIGRTMIN()).map_err(|_| errno::Error::last())?;
    // SAFETY: `raise` takes any number.
    done(unsafe { libc::raise(SIGRTMIN()) })?;
    let result = vcpu.run().map(drop).map_err(|error| error.errno());
    unblock_signal(SIGRTMIN()).map_err(|_| errno::Error::last())?;
    // SAFETY: null says that there is no mask any more.
    done(unsafe { ioctl_with_ptr::<_, Mask>(vcpu, KVM_SET_SIGNAL_MASK(), std::ptr::null()) })?;
    match result {
        // Under shadow paging KVM has no page tables to give to a machine without memory, and says so first.
        Err(libc::EINTR | libc::ENOSPC) => Ok(()),
        Err(errno) => Err(errno::Error::new(errno)),
        // It has entered a guest that is not there.
        Ok(()) => Err(errno::Error::new(libc::EIO)),
    }
}

fn done(result: libc::c_int) -> errno::Result<()> {
    if result == 0 { Ok(()) } else { errno::errno_result() }
}

#[cfg(test)]
mod tests {
    use kvm_ioctls::Kvm;

    use super::*;
    use crate::registers;
    use crate::tests::Host;

    /// KVM lets nobody change the processor once its guest has run. A checkpoint may want another one.
    #[test]
    fn a_warm_vcpu_can_still_become_another_processor() {
        let Some(host) = Host::get() else { return };
        let vm = Kvm::new().unwrap().create_vm().unwrap();
        let mut vcpu = vm.create_vcpu(0).unwrap();
        registers::prepare(&vcpu, &host.cpuid).unwrap();
        warm_up(&mut vcpu).unwrap();
        let less = host.cpuid.without_cmpxchg16b();
        assert_eq!(host.cpuid.beyond(&less), ["CMPXCHG16B"]);
        registers::set_cpuid(&vcpu, &less).unwrap();
    }
}
