//! What starting a district costs, beside what the same work costs with nothing around it: `cargo bench -p district-vmm`.
//!
//! The district's first instruction stores the time-stamp counter, which guest and host share, into the window; so the
//! way from the daemon's decision to that instruction is measured without guessing. Times are microseconds.

#![expect(clippy::expect_used, reason = "a measurement that fails has nothing better to do")]

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use district_devices::{Window, driver};
use district_protocol::ABI_VERSION;
use district_protocol::layout::{PROGRAM_BASE, WINDOW_BASE, WINDOW_SIZE_DEFAULT};
use district_vmm::control::{Beginning, DaemonEnd, FromVmm, Start, StartFiles, listen};
use district_vmm::cpuid::Cpuid;
use district_vmm::features::{Standby, supported_cpuid};
use district_vmm::machine::{Blank, Machine, Parts};
use district_vmm::origin::Origin;
use district_vmm::process::run;
use district_vmm::report::Ended;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{GuestAddress, GuestMemoryRegion, GuestRegionMmap};

const ROUNDS: usize = 200;
const MEMORY: u64 = 64 << 20;

/// Reads the counter into the window, then parks for ever.
const PROGRAM: &[u8] = &[
    0x0f, 0x31, // rdtsc
    0x89, 0x04, 0x25, 0x00, 0x10, 0x00, 0x20, // mov [0x20001000], eax
    0x89, 0x14, 0x25, 0x04, 0x10, 0x00, 0x20, // mov [0x20001004], edx
    0xb8, 1, 0, 0, 0, // mov eax, PARK
    0x48, 0xc7, 0xc7, 0xff, 0xff, 0xff, 0xff, // mov rdi, NO_DEADLINE
    0xcc, // int3
];

/// Parks [`EXITS`] times with a deadline that has passed, then ends.
const PARKS: &[u8] = &[
    0xbb, 0xe8, 0x03, 0, 0, // mov ebx, 1000
    0xb8, 1, 0, 0, 0, // mov eax, PARK
    0x31, 0xff, // xor edi, edi
    0xcc, // int3
    0xff, 0xcb, // dec ebx
    0x75, 0xf4, // jnz, to mov eax
    0xb8, 2, 0, 0, 0, 0x31, 0xff, 0x31, 0xd2, 0xcc, // EXIT(0)
];
/// Reads the device's status [`EXITS`] times, then ends.
const READS: &[u8] = &[
    0xbb, 0xe8, 0x03, 0, 0, // mov ebx, 1000
    0x8b, 0x04, 0x25, 0x70, 0, 0, 0x10, // mov eax, [0x10000070]
    0xff, 0xcb, // dec ebx
    0x75, 0xf5, // jnz, to mov eax
    0xb8, 2, 0, 0, 0, 0x31, 0xff, 0x31, 0xd2, 0xcc, // EXIT(0)
];
const EXITS: f64 = 1000.0;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("vmm") => ExitCode::from(u8::from(run().is_err())),
        Some("nothing") => ExitCode::SUCCESS,
        _ => measure(),
    }
}

fn measure() -> ExitCode {
    let kvm = Kvm::new().expect("/dev/kvm");
    println!("{:<58}{:>8}{:>8}", "", "best", "median");
    let (cpuid, took) = timed(|| supported_cpuid(&kvm).expect("a host for districts"));
    row("features and CPUID, once per host", vec![took]);

    for (what, code) in [("park and back", PARKS), ("read of a device register", READS)] {
        row(what, rounds(|| exits(&cpuid, code)));
    }
    let nothing = rounds(|| timed(|| spawn("nothing", Stdio::null()).wait().expect("wait")).1);
    let nothing = row("a: fork, exec and wait for a program that does nothing", nothing);
    let bare = row("b: bare machine: VM, slot, vCPU, enter, exit", rounds(|| timed(|| bare_machine(&kvm)).1));

    let standby = Standby::new(&kvm).expect("a vCPU");
    row("b': the same beside another machine", rounds(|| timed(|| bare_machine(&kvm)).1));

    let starts = rounds(|| District::start(&kvm, &cpuid).end());
    let column = |pick: fn(&Timeline) -> f64| starts.iter().map(pick).collect();
    row("district: fork and exec until its hello", column(|it| it.hello));
    row("district: start message until the first instruction", column(|it| it.first - it.hello));
    let total = row("c: district: fork until the first instruction", column(|it| it.first));
    row("district: stop message until the report", column(|it| it.stop));
    row("KiB of a parked vmm process outside of its RAM (PSS)", column(|it| it.pss));
    let ratio = |index: usize| total[index] / (nothing[index] + bare[index]);
    println!("{:<58}{:>8.2}{:>8.2}", "c / (a + b), at most 1.5 wanted", ratio(0), ratio(1));
    drop(standby);
    let alone = rounds(|| District::start(&kvm, &cpuid).end().first);
    row("district: fork until the first instruction, no standby", alone);
    ExitCode::SUCCESS
}

/// Results of doing something many times. What the last round left to the kernel (the end of a virtual machine takes
/// longer than its beginning) has time to be done.
fn rounds<T>(work: impl Fn() -> T) -> Vec<T> {
    let round = |_| {
        std::thread::sleep(Duration::from_millis(10));
        work()
    };
    (0..ROUNDS).map(round).collect()
}

/// Prints the best and the median of some numbers, and returns both.
fn row(what: &str, mut numbers: Vec<f64>) -> [f64; 2] {
    numbers.sort_by(f64::total_cmp);
    let [best, median] = [numbers[0], numbers[numbers.len() / 2]];
    println!("{what:<58}{best:>8.1}{median:>8.1}");
    [best, median]
}

fn microseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let begin = Instant::now();
    let result = work();
    (result, microseconds(begin.elapsed()))
}

/// This program again, with another purpose.
fn spawn(purpose: &str, listener: Stdio) -> Child {
    Command::new("/proc/self/exe").arg(purpose).stdin(listener).spawn().expect("spawn")
}

/// The least that KVM can do: one `hlt` in real mode.
fn bare_machine(kvm: &Kvm) -> impl Sized {
    let vm = kvm.create_vm().expect("VM");
    let size = usize::try_from(MEMORY).expect("64 bits");
    let ram = GuestRegionMmap::<()>::from_range(GuestAddress(0), size, None).expect("RAM");
    vm_memory::Bytes::write_slice(&ram, &[0xf4], vm_memory::MemoryRegionAddress(0)).expect("write");
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: ram.len(),
        userspace_addr: ram.as_ptr().addr() as u64,
    };
    // SAFETY: the memory outlives the virtual machine.
    unsafe { vm.set_user_memory_region(region) }.expect("slot");
    let mut vcpu = vm.create_vcpu(0).expect("vCPU");
    let mut sregs = vcpu.get_sregs().expect("sregs");
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).expect("sregs");
    vcpu.set_regs(&kvm_bindings::kvm_regs { rflags: 2, ..Default::default() }).expect("regs");
    assert!(matches!(black_box(vcpu.run()), Ok(VcpuExit::Hlt)));
    // Closing takes as long as all of this, and no district waits for it.
    (vm, vcpu, ram)
}

fn description() -> Start {
    Start {
        abi_version: ABI_VERSION,
        district_id: [1; 16],
        name: "bench".into(),
        epoch: 1,
        reason: 1,
        generation: 0,
        checkpoint_time: 0,
        memory: MEMORY,
        window: WINDOW_SIZE_DEFAULT,
        arguments: vec!["one".into()],
        from: Beginning::Program,
        checkpoints: None,
    }
}

/// Microseconds for each exit of a guest that does little else.
fn exits(cpuid: &Cpuid, code: &[u8]) -> f64 {
    let window = Window::create(WINDOW_SIZE_DEFAULT).expect("window");
    let window = window.memfd().try_clone_to_owned().expect("window");
    let blank = Blank::new(&Kvm::new().expect("/dev/kvm"), cpuid.clone()).expect("blank machine");
    let parts = Parts { origin: Origin::Program(program(code)), window };
    let (mut machine, _handle) = Machine::build(&description(), blank, parts).expect("machine");
    let (ended, took) = timed(|| machine.run());
    assert!(matches!(ended, Ended::Exit { code: 0, .. }), "{ended:?}");
    took / EXITS
}

/// Microseconds since the fork; KiB.
struct Timeline {
    hello: f64,
    first: f64,
    stop: f64,
    pss: f64,
}

struct District {
    process: Child,
    daemon: DaemonEnd,
    timeline: Timeline,
}

impl District {
    fn start(kvm: &Kvm, cpuid: &Cpuid) -> Self {
        let path = std::env::temp_dir().join(format!("district-bench-{}.sock", std::process::id()));
        let listener = listen(&path).expect("listen");
        let program = program(PROGRAM);
        let window = Window::create(WINDOW_SIZE_DEFAULT).expect("window");
        let start = description();

        let (begin, counter) = (Instant::now(), counter());
        let process = spawn("vmm", Stdio::from(listener));
        let daemon = DaemonEnd::connect(&path).expect("connect");
        assert!(matches!(receive(&daemon), FromVmm::Hello { .. }));
        let hello = begin.elapsed();
        // SAFETY: the descriptor is `kvm`'s, which lives.
        let kvm = unsafe { BorrowedFd::borrow_raw(kvm.as_raw_fd()) };
        daemon.prepare(cpuid.clone(), kvm).expect("prepare");
        daemon.start(start, &StartFiles::program(&program.as_fd(), window.memfd())).expect("start");
        daemon.run().expect("run");
        assert_eq!(receive(&daemon), FromVmm::Running);
        let seen = loop {
            let bytes = driver::read(&window, WINDOW_BASE + 0x1000, 8);
            let seen = u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
            if seen >> 32 != 0 {
                break seen;
            }
            std::thread::yield_now();
        };
        let (ticks, elapsed) = (self::counter() - counter, begin.elapsed());
        let first = microseconds(elapsed) * (seen - counter) as f64 / ticks as f64;
        std::fs::remove_file(Path::new(&path)).expect("remove");
        let timeline = Timeline { hello: microseconds(hello), first, stop: 0.0, pss: pss(process.id()) };
        Self { process, daemon, timeline }
    }

    fn end(mut self) -> Timeline {
        let (report, took) = timed(|| {
            self.daemon.stop().expect("stop");
            receive(&self.daemon)
        });
        assert!(matches!(report, FromVmm::Ended(_)), "{report:?}");
        assert!(self.process.wait().expect("wait").success());
        self.timeline.stop = took;
        self.timeline
    }
}

fn counter() -> u64 {
    // SAFETY: `rdtsc` is there on every x86-64 processor.
    unsafe { std::arch::x86_64::_rdtsc() }
}

fn receive(daemon: &DaemonEnd) -> FromVmm {
    loop {
        if let Some((message, _)) = daemon.receive().expect("a message") {
            return message;
        }
        poll(&mut [PollFd::new(daemon, PollFlags::IN)], None).expect("poll");
    }
}

/// A minimal ELF file with `code` as its only segment.
fn program(code: &[u8]) -> File {
    let mut elf = vec![0; 120];
    let mut put = |at: usize, bytes: &[u8]| elf[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    put(16, &[2, 0, 62, 0, 1, 0, 0, 0]);
    put(24, &PROGRAM_BASE.to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(52, &[64, 0, 56, 0, 1, 0]);
    put(64, &[1, 0, 0, 0, 5, 0, 0, 0]);
    for (at, value) in [(72, 120), (80, PROGRAM_BASE), (96, code.len() as u64), (104, code.len() as u64)] {
        put(at, &value.to_le_bytes());
    }
    elf.extend_from_slice(code);
    let mut file = File::from(memfd_create("program", MemfdFlags::CLOEXEC).expect("memfd"));
    file.write_all(&elf).expect("write");
    file
}

/// KiB in all mappings of a process but its guest's RAM, which is the one of that size.
fn pss(pid: u32) -> f64 {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).expect("smaps");
    let (mut total, mut size) = (0, 0);
    for line in maps.lines() {
        let kib = || line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
        match line.split(':').next() {
            Some("Size") => size = kib(),
            Some("Pss") if size != MEMORY >> 10 => {
                total += kib();
            }
            _ => {}
        }
    }
    total as f64
}
