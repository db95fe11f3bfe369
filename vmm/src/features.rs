//! Whether a host can run districts. Asked once per host, by the daemon or by `doctor`; the vmm processes rely on it.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use thiserror::Error;
use vmm_sys_util::errno;

use crate::cpuid::Cpuid;
use crate::registers::{self, CR4_FSGSBASE, CR4_OSXSAVE};

/// `KVM_GET_API_VERSION` of every kernel since 2.6.22.
const API_VERSION: i32 = 12;

/// KVM's extensions that a district needs, with their names in Linux `Documentation/virt/kvm/api.rst`.
const CAPABILITIES: [(Cap, &str); 9] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::Xcrs, "KVM_CAP_XCRS"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::SyncRegs, "KVM_CAP_SYNC_REGS"),
    (Cap::GetTscKhz, "KVM_CAP_GET_TSC_KHZ"),
];
/// Has no name in `kvm-ioctls` (Linux `include/uapi/linux/kvm.h`).
const KVM_CAP_VCPU_ATTRIBUTES: libc::c_ulong = 127;

/// Why a host cannot run districts.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FeatureError {
    /// Something else than KVM is behind `/dev/kvm`, or a KVM older than any that is supported.
    #[error("kvm has API version {0}: {API_VERSION} is needed")]
    ApiVersion(i32),
    /// KVM or the processor lacks something.
    #[error("this host lacks {}", .0.join(", "))]
    Missing(Vec<&'static str>),
    /// KVM does not answer.
    #[error("kvm does not {what}: {source}")]
    Kvm {
        /// What was asked of it.
        what: &'static str,
        /// Its answer.
        source: errno::Error,
    },
}

/// The processor that districts see on this host, after checking that the host has everything that they need. Takes
/// about a millisecond.
pub fn supported_cpuid(kvm: &Kvm) -> Result<Cpuid, FeatureError> {
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(FeatureError::ApiVersion(version));
    }
    let mut missing: Vec<_> =
        CAPABILITIES.iter().filter(|(cap, _)| !kvm.check_extension(*cap)).map(|(_, name)| *name).collect();
    if kvm.check_extension_raw(KVM_CAP_VCPU_ATTRIBUTES) <= 0 {
        missing.push("KVM_CAP_VCPU_ATTRIBUTES");
    }
    if !missing.is_empty() {
        return Err(FeatureError::Missing(missing));
    }
    let failed = |what| move |source| FeatureError::Kvm { what, source };
    let supported: CpuId =
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(failed("say which processor it offers"))?;
    let cpuid = Cpuid::mask(&supported);
    check_processor(kvm, &cpuid)?;
    Ok(cpuid)
}

/// A vCPU that never runs; for whoever starts districts, to be kept as long as there may be any.
///
/// KVM patches its own code when the first vCPU without a local APIC appears and when the last one goes
/// (`kvm_has_noapic_vcpu`, Linux `arch/x86/kvm/lapic.h`), which takes longer than making a vCPU. With this one, none that
/// matters is ever the first or the last.
#[derive(Debug)]
pub struct Standby {
    _vcpu: VcpuFd,
    _vm: VmFd,
}

impl Standby {
    /// Makes the vCPU.
    pub fn new(kvm: &Kvm) -> Result<Self, FeatureError> {
        let (vm, vcpu) = scratch(kvm)?;
        Ok(Self { _vcpu: vcpu, _vm: vm })
    }
}

fn scratch(kvm: &Kvm) -> Result<(VmFd, VcpuFd), FeatureError> {
    let failed = |what| move |source| FeatureError::Kvm { what, source };
    let vm = kvm.create_vm().map_err(failed("make a virtual machine"))?;
    let vcpu = vm.create_vcpu(0).map_err(failed("make a virtual processor"))?;
    Ok((vm, vcpu))
}

/// Tries the control registers of a district on a vCPU. What counts is whether KVM takes them: there are hosts where
/// ring 3 has FSGSBASE and AVX although `KVM_GET_SUPPORTED_CPUID` names neither.
fn check_processor(kvm: &Kvm, cpuid: &Cpuid) -> Result<(), FeatureError> {
    let failed = |what| move |source| FeatureError::Kvm { what, source };
    let (_vm, vcpu) = scratch(kvm)?;
    let leaves = cpuid.to_kvm().ok_or(FeatureError::Missing(vec!["a sane list of features"]))?;
    vcpu.set_cpuid2(&leaves).map_err(failed("take the list of features"))?;
    let initial = vcpu.get_sregs().map_err(failed("show system registers"))?;
    let accepts = |cr4| vcpu.set_sregs(&registers::system(initial, 0, cr4)).is_ok();
    let all = registers::cr4(cpuid);
    if accepts(all) {
        return Ok(());
    }
    let mut missing = Vec::new();
    for (bit, name) in [(CR4_FSGSBASE, "FSGSBASE"), (CR4_OSXSAVE, "XSAVE")] {
        if accepts(all & !(CR4_FSGSBASE | CR4_OSXSAVE)) && !accepts(all & !(CR4_FSGSBASE | CR4_OSXSAVE) | bit) {
            missing.push(name);
        }
    }
    if missing.is_empty() {
        missing.push("64-bit mode with PAE, SSE, FSGSBASE and XSAVE");
    }
    Err(FeatureError::Missing(missing))
}
