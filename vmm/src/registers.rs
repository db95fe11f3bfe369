//! The state of a district's processor at its first instruction: ring 3, 64-bit mode, paging on, all entry points into
//! ring 0 but the interrupt gates closed.

use district_protocol::layout::{BOOT_PAGE, GDT_BASE, IDT_BASE, SHIM_BASE, TSS_BASE};
use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, Msrs, kvm_device_attr, kvm_dtable, kvm_msr_entry, kvm_regs,
    kvm_segment, kvm_sregs, kvm_xcr, kvm_xcrs,
};
use kvm_ioctls::VcpuFd;
use thiserror::Error;
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use crate::cpuid::{Cpuid, XCR0};
use crate::tables::{GDT_LIMIT, IDT_LIMIT, RING3_CODE, RING3_DATA, TSS, TSS_LIMIT};

// Linux `include/uapi/linux/kvm.h`; kvm-ioctls has it for devices only.
ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);

/// KVM refuses a part of the processor's state.
#[derive(Debug, Error)]
#[error("kvm refuses to {verb} {what}: {source}")]
pub struct RegisterError {
    verb: &'static str,
    what: &'static str,
    source: errno::Error,
}

impl RegisterError {
    pub(crate) fn set(what: &'static str, source: errno::Error) -> Self {
        Self { verb: "set", what, source }
    }

    pub(crate) fn get(what: &'static str, source: errno::Error) -> Self {
        Self { verb: "show", what, source }
    }
}

/// Control registers (Intel SDM volume 3, 2.5), and EFER (2.2.1).
const CR0_PE: u64 = 1 << 0;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_AM: u64 = 1 << 18;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_UMIP: u64 = 1 << 11;
pub(crate) const CR4_FSGSBASE: u64 = 1 << 16;
pub(crate) const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;

/// What `SYSCALL`, `SYSENTER` and relatives would use. EFER.SCE is off, so that `SYSCALL` is an invalid instruction;
/// some hosts jump to `LSTAR` all the same, without leaving ring 3: there, too, is nothing that ring 3 may run.
const MSRS: [(u32, u64); 8] = [
    (0x0000_0174, 0),         // IA32_SYSENTER_CS: null, which makes SYSENTER fault.
    (0x0000_0175, 0),         // IA32_SYSENTER_ESP
    (0x0000_0176, 0),         // IA32_SYSENTER_EIP
    (0xc000_0081, 0),         // STAR
    (0xc000_0082, SHIM_BASE), // LSTAR
    (0xc000_0083, SHIM_BASE), // CSTAR
    (0xc000_0084, 0),         // FMASK
    (0xc000_0102, 0),         // KERNEL_GS_BASE
];

fn flat(selector: u16, kind: u8, long: bool) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        dpl: 3,
        s: 1,
        l: u8::from(long),
        db: u8::from(!long),
        g: 1,
        ..Default::default()
    }
}

/// CR4 for a processor with these features.
pub(crate) fn cr4(cpuid: &Cpuid) -> u64 {
    let mut cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_FSGSBASE | CR4_OSXSAVE;
    for (offered, bit) in
        [(cpuid.leaf_7_ecx(2), CR4_UMIP), (cpuid.leaf_7_ebx(7), CR4_SMEP), (cpuid.leaf_7_ebx(20), CR4_SMAP)]
    {
        if offered {
            cr4 |= bit;
        }
    }
    cr4
}

/// Segment, control and descriptor-table registers. `initial` is what KVM gives a new vCPU.
pub(crate) fn system(initial: kvm_sregs, cr3: u64, cr4: u64) -> kvm_sregs {
    let data = flat(RING3_DATA, 3, false);
    kvm_sregs {
        cs: flat(RING3_CODE, 11, true),
        ss: data,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        tr: kvm_segment {
            base: TSS_BASE,
            limit: TSS_LIMIT.into(),
            selector: TSS,
            type_: 11,
            present: 1,
            ..Default::default()
        },
        ldt: kvm_segment { unusable: 1, type_: 2, ..Default::default() },
        gdt: kvm_dtable { base: GDT_BASE, limit: GDT_LIMIT, ..Default::default() },
        idt: kvm_dtable { base: IDT_BASE, limit: IDT_LIMIT, ..Default::default() },
        cr0: CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG,
        cr3,
        cr4,
        efer: EFER_LME | EFER_LMA | EFER_NXE,
        ..initial
    }
}

/// Sets what is the same for every program, on a new vCPU.
pub(crate) fn prepare(vcpu: &VcpuFd, cpuid: &Cpuid) -> Result<(), RegisterError> {
    let refused = |what| move |source| RegisterError::set(what, source);
    set_cpuid(vcpu, cpuid)?;
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    xcrs.xcrs[0] = kvm_xcr { value: XCR0, ..Default::default() };
    vcpu.set_xcrs(&xcrs).map_err(refused("xcr0"))?;
    set_msrs(vcpu)?;
    share_counter(vcpu)
}

/// Sets which processor the guest sees. Possible until it has run.
pub(crate) fn set_cpuid(vcpu: &VcpuFd, cpuid: &Cpuid) -> Result<(), RegisterError> {
    let refused = |source| RegisterError::set("cpuid", source);
    let leaves = cpuid.to_kvm().ok_or_else(|| refused(errno::Error::new(libc::E2BIG)))?;
    vcpu.set_cpuid2(&leaves).map_err(refused)
}

/// Sets the rest, before a program's first instruction at `entry`. `stack_top` is 16-byte aligned; the program sees the
/// stack pointer as if it had just been called, with zero as its return address. x87 and SSE control words stay as KVM
/// makes them, which is as the System V ABI wants them.
pub(crate) fn enter(vcpu: &VcpuFd, cpuid: &Cpuid, cr3: u64, entry: u64, stack_top: u64) -> Result<(), RegisterError> {
    let refused = |what| move |source| RegisterError::set(what, source);
    vcpu.set_sregs(&ring3(vcpu, cpuid, cr3)?).map_err(refused("system registers"))?;
    let regs = kvm_regs { rip: entry, rsp: stack_top - 8, rdi: BOOT_PAGE, rflags: 2, ..Default::default() };
    vcpu.set_regs(&regs).map_err(refused("registers"))
}

/// System registers of a program with these page tables, for a vCPU that has run nothing yet.
pub(crate) fn ring3(vcpu: &VcpuFd, cpuid: &Cpuid, cr3: u64) -> Result<kvm_sregs, RegisterError> {
    let initial = vcpu.get_sregs().map_err(|source| RegisterError::get("system registers", source))?;
    Ok(system(initial, cr3, cr4(cpuid)))
}

fn set_msrs(vcpu: &VcpuFd) -> Result<(), RegisterError> {
    let refused = |source| RegisterError::set("model-specific registers", source);
    let entries = MSRS.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
    let msrs = Msrs::from_entries(&entries).map_err(|_| refused(errno::Error::new(libc::E2BIG)))?;
    let set = vcpu.set_msrs(&msrs).map_err(refused)?;
    // KVM stops at the first one that it does not take.
    if set < MSRS.len() { Err(refused(errno::Error::new(libc::EINVAL))) } else { Ok(()) }
}

/// Makes the guest's time-stamp counter the host's (Linux `Documentation/virt/kvm/devices/vcpu.rst`, section 4.1).
fn share_counter(vcpu: &VcpuFd) -> Result<(), RegisterError> {
    let offset = 0u64;
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: (&raw const offset).expose_provenance() as u64,
        flags: 0,
    };
    // SAFETY: `ioctl_with_ref` wants a request that reads no more than the argument: this one reads the structure, and
    // through it the eight bytes of `offset`, which is alive.
    let result = unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &attribute) };
    if result == 0 { Ok(()) } else { Err(RegisterError::set("the counter's offset", errno::Error::last())) }
}
