//! Getting a vCPU thread out of the guest, wherever it is.

use std::mem::offset_of;
use std::os::fd::BorrowedFd;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::JoinHandle;

use kvm_bindings::kvm_run;
use rustix::mm::{MapFlags, ProtFlags};
use vmm_sys_util::errno;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

const MAPPED: usize = 4096;
const IMMEDIATE_EXIT: usize = offset_of!(kvm_run, immediate_exit);
const _: () = assert!(IMMEDIATE_EXIT < MAPPED);

/// The request to one vCPU's thread to come out of the guest: to stop for good, or to look around. It may come at any
/// time, from another thread, and is never lost: the flag that keeps `KVM_RUN` from entering the guest is set first, so
/// whether the signal finds the thread in the guest, on its way there or elsewhere makes no difference (Linux
/// `Documentation/virt/kvm/api.rst`, `immediate_exit`).
pub(crate) struct Kick {
    /// A mapping of our own of the vCPU's `kvm_run`: the one that runs the vCPU hands out exclusive references.
    run: NonNull<u8>,
    stop: AtomicBool,
}

// SAFETY: `run` is a shared mapping that only atomic operations touch.
unsafe impl Send for Kick {}
// SAFETY: as above.
unsafe impl Sync for Kick {}

impl Kick {
    pub(crate) fn new(vcpu: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: `mmap` without a fixed address replaces no mapping; nothing but `Kick` gets to know this one.
        let run = unsafe { rustix::mm::mmap(null_mut(), MAPPED, protection, MapFlags::SHARED, vcpu, 0) }?;
        let run = NonNull::new(run.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Self { run, stop: AtomicBool::new(false) })
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        let flag = self.run.as_ptr().wrapping_add(IMMEDIATE_EXIT);
        // SAFETY: `from_ptr` wants a live byte that is only accessed atomically: it is inside the mapping, which lives
        // as long as `self`, and the kernel reads it in one piece.
        unsafe { AtomicU8::from_ptr(flag) }
    }

    /// Asks the vCPU, which runs or is going to run on `thread`, to stop.
    pub(crate) fn stop<T>(&self, thread: &JoinHandle<T>) -> errno::Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        self.interrupt(thread)
    }

    /// Gets the vCPU out of the guest; what it is to do there has been said before.
    pub(crate) fn interrupt<T>(&self, thread: &JoinHandle<T>) -> errno::Result<()> {
        self.immediate_exit().store(1, Ordering::SeqCst);
        thread.kill(SIGRTMIN())
    }

    /// The vCPU is out. To be called before looking at what it is to do, so that what is said later gets it out again.
    pub(crate) fn is_out(&self) {
        self.immediate_exit().store(0, Ordering::SeqCst);
    }

    /// Whether the vCPU has been asked to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

impl Drop for Kick {
    fn drop(&mut self) {
        // SAFETY: `munmap` wants that nobody uses the mapping any more; it was `self`'s alone.
        // An error could only mean that it is not mapped.
        let _ = unsafe { rustix::mm::munmap(self.run.as_ptr().cast(), MAPPED) };
    }
}

/// Makes this process survive the signal that [`Kick::interrupt`] sends. Its arrival is all that matters.
pub(crate) fn install_handler() -> errno::Result<()> {
    extern "C" fn interrupt(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    register_signal_handler(SIGRTMIN(), interrupt)
}
