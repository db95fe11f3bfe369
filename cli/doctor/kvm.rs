//! KVM: is it there, may we use it, has it what districts need, how fast is it.

use district_vmm::features::{FeatureError, supported_cpuid};
use kvm_ioctls::Kvm;
use std::path::Path;

use super::{Finding, host, median_time};
use crate::terminal::units::rough_time;

const SUBJECT: &str = "KVM";
/// Runs of which the median time is shown.
const RUNS: usize = 5;

pub(super) fn examine() -> Vec<Finding> {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => return vec![unusable(error.errno())],
    };
    let version = kvm.get_api_version();
    let mut findings = vec![Finding::good(SUBJECT, format!("/dev/kvm, API version {version}{}", implementation()))];
    findings.push(features(&kvm));
    findings.push(times(&kvm));
    findings
}

fn unusable(errno: i32) -> Finding {
    let why = std::io::Error::from_raw_os_error(errno);
    let found = format!("/dev/kvm cannot be opened: {why}");
    let remedy = match errno {
        libc::EACCES | libc::EPERM => {
            "let your user open it: `sudo usermod -aG kvm $USER`, then log in again; in a container pass the device on"
        }
        libc::ENOENT | libc::ENODEV | libc::ENXIO => absent(&host::processor_flags()),
        _ => "see `dmesg | grep -i kvm` for what the kernel says about it",
    };
    Finding::bad(SUBJECT, found, remedy)
}

/// What to do where there is no KVM, by what the processor says of itself in `/proc/cpuinfo`.
fn absent(flags: &[String]) -> &'static str {
    let has = |flag: &str| flags.iter().any(|known| known == flag);
    if has("vmx") {
        "load the module: `sudo modprobe kvm_intel`; in a container pass the device on: `--device /dev/kvm`"
    } else if has("svm") {
        "load the module: `sudo modprobe kvm_amd`; in a container pass the device on: `--device /dev/kvm`"
    } else if has("hypervisor") {
        "this host is a virtual machine itself: have nested virtualization enabled for it, or use another host"
    } else {
        "enable virtualization (VT-x or AMD-V) in the firmware's setup"
    }
}

fn implementation() -> String {
    let loaded =
        ["kvm_intel", "kvm_amd", "kvm_pvm"].into_iter().find(|name| Path::new("/sys/module").join(name).exists());
    loaded.map(|name| format!(" ({name})")).unwrap_or_default()
}

/// The same question that the daemon asks before it starts anything.
fn features(kvm: &Kvm) -> Finding {
    let subject = "KVM features";
    match supported_cpuid(kvm) {
        Ok(_) => Finding::good(subject, "all that districts need"),
        Err(error) => {
            let remedy = match &error {
                FeatureError::ApiVersion(_) => "use a Linux kernel; no other KVM is known to work",
                FeatureError::Missing(_) => {
                    "use a newer kernel, or a newer processor; in a virtual machine have its host pass on its own"
                }
                _ => "see `dmesg | grep -i kvm`; another hypervisor may have the processor to itself",
            };
            Finding::bad(subject, error.to_string(), remedy)
        }
    }
}

fn times(kvm: &Kvm) -> Finding {
    let subject = "KVM times";
    let machine = median_time(RUNS, || kvm.create_vm().ok().map(drop));
    let both = median_time(RUNS, || {
        let vm = kvm.create_vm().ok()?;
        vm.create_vcpu(0).ok().map(drop)
    });
    match (machine, both) {
        (Some(machine), Some(both)) => Finding::good(
            subject,
            format!(
                "virtual machine made and closed in {}, with a processor in {}",
                rough_time(machine),
                rough_time(both)
            ),
        ),
        _ => Finding::bad(
            subject,
            "no virtual machine can be made",
            "see `dmesg | grep -i kvm`; another hypervisor may have the processor's virtualization to itself",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_fits_the_processor() {
        let flags = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(absent(&flags("fpu vmx hypervisor")).contains("kvm_intel"));
        assert!(absent(&flags("fpu svm")).contains("kvm_amd"));
        assert!(absent(&flags("fpu hypervisor")).contains("nested"));
        assert!(absent(&[]).contains("firmware"));
    }

    #[test]
    fn a_closed_door_and_no_door_are_told_apart() {
        assert!(unusable(libc::EACCES).remedy.unwrap().contains("usermod"));
        assert!(!unusable(libc::ENOENT).remedy.unwrap().contains("usermod"));
    }
}
