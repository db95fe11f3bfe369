//! Real guests, each a few instructions in a minimal ELF file, run through [`crate::machine`]. They need `/dev/kvm`;
//! without it they fail, unless `DISTRICT_NO_KVM=1` says that this is known.

mod checkpoint;
pub(crate) mod elf;
mod entry;
mod fault;
mod garbage;
mod isolation;
mod jail;
mod memory;
mod park;
mod process;
mod random;
mod session;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use district_devices::Window;
use district_protocol::ABI_VERSION;
use district_protocol::boot::StartReason;
use district_protocol::layout::{PROGRAM_BASE, WINDOW_SIZE_MIN};
use kvm_ioctls::Kvm;

use crate::control::{Beginning, Start};
use crate::cpuid::Cpuid;
use crate::features::{Standby, supported_cpuid};
use crate::kick;
use crate::machine::{Blank, BuildError, Handle, Machine, Parts};
use crate::memory::Ram;
use crate::origin::Origin;
use crate::report::{Ended, Fault};
use elf::Elf;

/// Where [`program`] puts the code.
pub(crate) const CODE: u64 = PROGRAM_BASE;
/// Where [`program`] puts a page of zeros that the guest may write.
pub(crate) const DATA: u64 = 0x4002_0000;

/// A guest's code, assembled into this test binary: `guest!(name, "instructions");` makes `fn name() -> &'static [u8]`.
/// It must not depend on where it runs.
macro_rules! guest {
    ($name:ident, $($line:literal),+ $(,)?) => {
        std::arch::global_asm!(
            ".pushsection .rodata.guests, \"a\"",
            concat!(".globl guest_", stringify!($name)),
            concat!(".globl guest_end_", stringify!($name)),
            concat!("guest_", stringify!($name), ":"),
            $($line),+,
            concat!("guest_end_", stringify!($name), ":"),
            ".popsection"
        );
        fn $name() -> &'static [u8] {
            unsafe extern "C" {
                #[link_name = concat!("guest_", stringify!($name))]
                static START: u8;
                #[link_name = concat!("guest_end_", stringify!($name))]
                static END: u8;
            }
            let (start, end) = (&raw const START, &raw const END);
            // SAFETY: the symbols delimit bytes of one read-only section, in this order.
            unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
        }
    };
}
pub(crate) use guest;

/// What all tests of one process share.
pub(crate) struct Host {
    pub(crate) cpuid: Cpuid,
    _standby: Standby,
}

impl Host {
    /// None: there is no KVM, and that is known.
    pub(crate) fn get() -> Option<&'static Host> {
        static HOST: OnceLock<Option<Host>> = OnceLock::new();
        let host = HOST.get_or_init(|| {
            let kvm = match Kvm::new() {
                Ok(kvm) => kvm,
                Err(_) if std::env::var_os("DISTRICT_NO_KVM").is_some_and(|value| value == "1") => return None,
                Err(error) => panic!("/dev/kvm: {error}; DISTRICT_NO_KVM=1 skips what needs it"),
            };
            kick::install_handler().unwrap();
            Some(Host { cpuid: supported_cpuid(&kvm).unwrap(), _standby: Standby::new(&kvm).unwrap() })
        });
        if host.is_none()
            && let Some(list) = std::env::var_os("DISTRICT_SKIPPED")
        {
            // The test harness names its threads after the tests.
            let mut list = OpenOptions::new().append(true).create(true).open(list).unwrap();
            writeln!(list, "{}", std::thread::current().name().unwrap_or("?")).unwrap();
        }
        host.as_ref()
    }

    pub(crate) fn start(&self) -> Start {
        Start {
            abi_version: ABI_VERSION,
            district_id: *b"district of test",
            name: "test".into(),
            epoch: 7,
            reason: StartReason::Cold as u32,
            generation: 0,
            checkpoint_time: 0,
            memory: 2 << 20,
            window: WINDOW_SIZE_MIN,
            arguments: Vec::new(),
            from: Beginning::Program,
            checkpoints: None,
        }
    }
}

/// Whether the host's processor is software.
pub(crate) fn is_slow() -> bool {
    std::env::var_os("DISTRICT_SLOW_HOST").is_some_and(|value| value == "1")
}

/// A program with `code` and a page of data.
pub(crate) fn program(code: &[u8]) -> Elf {
    Elf::new(CODE).segment(CODE, elf::READ | elf::EXECUTE, code).segment(DATA, elf::READ | elf::WRITE, &[0; 4096])
}

pub(crate) struct Guest {
    pub(crate) machine: Machine,
    pub(crate) handle: Handle,
    /// The daemon's mapping.
    pub(crate) window: Arc<Window>,
}

impl Guest {
    pub(crate) fn new(start: &Start, program: &File) -> Self {
        Self::from(start, Origin::Program(program.try_clone().unwrap())).unwrap()
    }

    pub(crate) fn from(start: &Start, origin: Origin) -> Result<Self, BuildError> {
        let window = Window::create(start.window).unwrap();
        let memfd: OwnedFd = window.memfd().try_clone_to_owned().unwrap();
        let (machine, handle) = Machine::build(start, blank(), Parts { origin, window: memfd })?;
        Ok(Self { machine, handle, window: Arc::new(window) })
    }

    pub(crate) fn ram(&self) -> Arc<Ram> {
        self.handle.ram()
    }

    /// Runs on a thread of its own, to be stopped if it does not end by itself.
    pub(crate) fn spawn(self) -> (JoinHandle<Ended>, Handle) {
        let Self { mut machine, handle, .. } = self;
        (std::thread::spawn(move || machine.run()), handle)
    }
}

/// A machine with nothing in it, where there is KVM.
pub(crate) fn blank() -> Blank {
    let blank = Blank::new(&Kvm::new().unwrap(), Host::get().unwrap().cpuid.clone());
    // As in a vmm process.
    blank.and_then(Blank::warm_up).unwrap()
}

/// Runs `code` as a program of its own until it ends.
pub(crate) fn run(host: &Host, code: &[u8]) -> Ended {
    Guest::new(&host.start(), &program(code).file()).machine.run()
}

/// Runs `code`, which must end in a fault.
pub(crate) fn fault(host: &Host, code: &[u8]) -> Fault {
    match run(host, code) {
        Ended::Fault(fault) => fault,
        ended => panic!("{ended:?}"),
    }
}

/// Code that moves `value` into rbx, to go in front of a guest.
pub(crate) fn with_rbx(value: u64, code: &[u8]) -> Vec<u8> {
    let mut all = vec![0x48, 0xbb];
    all.extend_from_slice(&value.to_le_bytes());
    all.extend_from_slice(code);
    all
}

pub(crate) fn exited(code: u8) -> Ended {
    Ended::Exit { code, message: String::new() }
}

/// A descriptor for `/dev/kvm`.
pub(crate) fn kvm_fd() -> OwnedFd {
    let file = File::options().read(true).write(true).open("/dev/kvm").unwrap();
    file.as_fd().try_clone_to_owned().unwrap()
}
