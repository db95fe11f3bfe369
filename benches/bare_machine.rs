//! The least that KVM can be asked for: a machine that stops at its first instruction.

use std::ptr::null_mut;

use anyhow::{Context, Result, ensure};
use kvm_bindings::{kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Bytes of memory, as many as a district has where nothing else is asked for.
const MEMORY: usize = 16 << 20;
const HLT: u8 = 0xf4;

/// The way to KVM, opened once.
pub struct BareMachine {
    kvm: Kvm,
}

/// A machine that has run. Dropping it takes about as long as making it, and no district waits for that.
pub struct Ended {
    _vcpu: VcpuFd,
    _vm: VmFd,
    _ram: Ram,
}

impl BareMachine {
    pub fn new() -> Result<BareMachine> {
        Ok(BareMachine { kvm: Kvm::new().context("/dev/kvm")? })
    }

    /// Makes one, with memory, lets it execute `hlt` in real mode, and is back.
    pub fn run(&self) -> Result<Ended> {
        let vm = self.kvm.create_vm()?;
        let ram = Ram::new()?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: MEMORY as u64,
            userspace_addr: ram.at.addr() as u64,
        };
        // SAFETY: `set_user_memory_region` wants memory that is mapped as long as the guest may run and to which there
        // are no references: it is, until `Ended` drops it after the machine.
        unsafe { vm.set_user_memory_region(region) }?;
        let mut vcpu = vm.create_vcpu(0)?;
        let mut sregs = vcpu.get_sregs()?;
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        vcpu.set_sregs(&sregs)?;
        vcpu.set_regs(&kvm_regs { rflags: 2, ..Default::default() })?;
        let exit = vcpu.run()?;
        ensure!(matches!(exit, VcpuExit::Hlt), "the bare machine stopped with {exit:?}");
        Ok(Ended { _vcpu: vcpu, _vm: vm, _ram: ram })
    }
}

struct Ram {
    at: *mut u8,
}

impl Ram {
    fn new() -> Result<Ram> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: `mmap_anonymous` without a fixed address replaces no mapping.
        let at = unsafe { mmap_anonymous(null_mut(), MEMORY, access, flags) }?.cast::<u8>();
        // SAFETY: `write` wants a place for a byte that nobody else uses: the new mapping begins with one.
        unsafe { at.write(HLT) };
        Ok(Ram { at })
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: `munmap` wants that nobody uses the mapping any more: the machine is closed before its memory.
        // An error could only mean that it is not mapped.
        let _ = unsafe { munmap(self.at.cast(), MEMORY) };
    }
}
