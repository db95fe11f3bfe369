//! What a program finds at its first instruction, and what of the processor it can use.

use district_protocol::boot::{ARGUMENTS_OFFSET, BOOT_MAGIC, BootPage};
use district_protocol::layout::{BOOT_PAGE, DEVICE_BASE, STACK_SIZE, WINDOW_BASE};
use rustix::time::{ClockId, clock_gettime};

use super::{DATA, Guest, Host, exited, guest, program, run};
use crate::report::Ended;

guest!(
    dump_registers,
    "mov byte ptr [0x400200b8], 1",
    "mov [0x40020000], rax",
    "pushfq",
    "pop qword ptr [0x40020080]",
    "mov [0x40020008], rbx",
    "mov [0x40020010], rcx",
    "mov [0x40020018], rdx",
    "mov [0x40020020], rsi",
    "mov [0x40020028], rdi",
    "mov [0x40020030], rbp",
    "mov [0x40020038], rsp",
    "mov [0x40020040], r8",
    "mov [0x40020048], r9",
    "mov [0x40020050], r10",
    "mov [0x40020058], r11",
    "mov [0x40020060], r12",
    "mov [0x40020068], r13",
    "mov [0x40020070], r14",
    "mov [0x40020078], r15",
    "fnstcw [0x40020088]",
    "stmxcsr [0x40020090]",
    "mov eax, cs",
    "mov [0x40020098], rax",
    "mov rax, [rsp]",
    "mov [0x400200a0], rax",
    "rdfsbase rax",
    "mov [0x400200a8], rax",
    "rdgsbase rax",
    "mov [0x400200b0], rax",
    "mov eax, 2",
    "xor edi, edi",
    "xor edx, edx",
    "int3",
);

/// Control words of x87 and SSE, as the System V ABI wants them.
const X87: u64 = 0x37f;
const MXCSR: u64 = 0x1f80;

/// The table of registers in `docs/abi.md`, section 1: its first two columns.
fn documented() -> impl Iterator<Item = (&'static str, &'static str)> {
    let document = include_str!("../../../docs/abi.md");
    let rows = document.lines().skip_while(|line| *line != "| register | value |").skip(2);
    rows.map_while(|row| row.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "))
}

/// Each row stands for one of the assertions in the test after this one.
#[test]
fn the_documented_registers_are_those_that_are_looked_at() {
    let controls = format!("{X87:#x}, {MXCSR:#x}:");
    let rows = [
        ("`rip`", "the entry point"),
        ("`rdi`", "address of the boot page,"),
        ("`rsp`", "8 below the end of the stack, where a return address of 0 stands:"),
        ("all other general registers", "0"),
        ("`rflags`", "no flag that a program can set is set"),
        ("x87, `mxcsr`", controls.as_str()),
        ("`fs`, `gs` base", "0;"),
    ];
    let documented: Vec<_> = documented().collect();
    assert_eq!(documented.iter().map(|(name, _)| *name).collect::<Vec<_>>(), rows.map(|(name, _)| name));
    for ((name, value), (_, begins)) in documented.iter().zip(rows) {
        assert!(value.starts_with(begins), "{name}: {value}");
    }
}

#[test]
fn registers_are_as_documented() {
    let Some(host) = Host::get() else { return };
    let mut guest = Guest::new(&host.start(), &program(dump_registers()).file());
    assert_eq!(guest.machine.run(), exited(0));
    let ram = guest.ram();
    let word = |offset| ram.read_u64(DATA + offset).unwrap();
    for (offset, name) in [(0, "rax"), (8, "rbx"), (0x10, "rcx"), (0x18, "rdx"), (0x20, "rsi"), (0x30, "rbp")] {
        assert_eq!(word(offset), 0, "{name}");
    }
    assert!((0x40..0x80).step_by(8).all(|offset| word(offset) == 0), "r8 to r15");
    assert_eq!(word(0x28), BOOT_PAGE, "rdi");
    let stack = DATA + 0x1000 + 0x1000;
    assert_eq!(word(0x38), stack + STACK_SIZE - 8, "rsp");
    assert_eq!((word(0x38) + 8) % 16, 0, "the stack is aligned as for a function that was just called");
    assert_eq!(word(0xb8), 1, "rip: the first instruction was executed");
    // Hosts that run ring 3 natively show their own IF (bit 9).
    assert_eq!(word(0x80) & !0x200, 0x2, "rflags: no IOPL, no TF, no AC");
    assert_eq!(word(0x88), X87, "x87 control word");
    assert_eq!(word(0x90), MXCSR, "mxcsr");
    assert_eq!(word(0x98) & 3, 3, "ring");
    assert_eq!((word(0xa0), word(0xa8), word(0xb0)), (0, 0, 0), "return address, fs base, gs base");
}

guest!(
    exit_with_message,
    "lea rsi, [rip + 1f]",
    "mov edx, 17",
    "mov eax, 2",
    "mov edi, 0x1234562a",
    "int3",
    "1: .ascii \"the end \\303\\244 \\377 here\"",
);

#[test]
fn exit_code_and_message_arrive() {
    let Some(host) = Host::get() else { return };
    let message = "the end \u{e4} \u{fffd} here".to_owned();
    assert_eq!(run(host, exit_with_message()), Ended::Exit { code: 0x2a, message });
}

guest!(exit_at_rbx, "mov rsi, rbx", "mov edx, 0x7fffffff", "mov eax, 2", "mov edi, 3", "int3");

#[test]
fn messages_are_cut_and_come_only_from_the_programs_memory() {
    let Some(host) = Host::get() else { return };
    let Ended::Exit { code: 3, message } = run(host, &super::with_rbx(DATA, exit_at_rbx())) else { panic!() };
    assert_eq!(message.len(), district_protocol::shim::EXIT_MESSAGE_MAX);
    for address in [0, WINDOW_BASE, DEVICE_BASE, 0x4000_0000, BOOT_PAGE, 0x401f_fc01, u64::MAX, u64::MAX - 100] {
        assert_eq!(run(host, &super::with_rbx(address, exit_at_rbx())), exited(3), "{address:#x}");
    }
}

guest!(
    vector_state,
    "mov eax, 0x12345678",
    "wrfsbase rax",
    "vmovd xmm0, eax",
    "vpbroadcastd ymm1, xmm0",
    "vpaddd ymm2, ymm1, ymm1",
    // Through ring 0 and the host with the state in registers: park, with a deadline that has passed.
    "mov eax, 1",
    "xor edi, edi",
    "int3",
    "vmovdqu [0x40020000], ymm2",
    "rdfsbase rbx",
    "mov [0x40020020], rbx",
    "xor ecx, ecx",
    "xgetbv",
    "mov [0x40020028], eax",
    "mov eax, 2",
    "xor edi, edi",
    "xor edx, edx",
    "int3",
);

#[test]
fn sse_avx_and_fs_base_survive_a_shim_call() {
    let Some(host) = Host::get() else { return };
    let mut guest = Guest::new(&host.start(), &program(vector_state()).file());
    assert_eq!(guest.machine.run(), exited(0));
    let ram = guest.ram();
    let mut lanes = [0; 32];
    ram.read(DATA, &mut lanes).unwrap();
    assert_eq!(lanes, 0x2468_acf0u32.to_le_bytes().repeat(8)[..]);
    assert_eq!(ram.read_u64(DATA + 0x20).unwrap(), 0x1234_5678);
    // Hosts that run ring 3 natively may show more than x87, SSE and AVX.
    assert_eq!(ram.read_u64(DATA + 0x28).unwrap() & 7, 7);
}

guest!(
    read_clock,
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov rdi, 0x40005000",
    "sub rax, [rdi + 64]",
    "mul qword ptr [rdi + 72]",
    "shrd rax, rdx, 32",
    "add rax, [rdi + 56]",
    "mov [0x40020000], rax",
    "mov eax, 2",
    "xor edi, edi",
    "xor edx, edx",
    "int3",
);

#[test]
fn the_guests_clock_is_the_hosts() {
    let Some(host) = Host::get() else { return };
    let mut guest = Guest::new(&host.start(), &program(read_clock()).file());
    let wall = || {
        let time = clock_gettime(ClockId::Realtime);
        u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap()
    };
    let before = wall();
    assert_eq!(guest.machine.run(), exited(0));
    let (seen, after) = (guest.ram().read_u64(DATA).unwrap(), wall());
    let slack = 10_000_000;
    assert!((before - slack..after + slack).contains(&seen), "{before} {seen} {after}");
}

#[test]
fn c05_the_boot_page_says_how_the_life_began() {
    let Some(host) = Host::get() else { return };
    let mut start = host.start();
    start.arguments = vec!["one".into(), String::new(), "z\u{fc}ri".into()];
    (start.generation, start.checkpoint_time, start.reason) = (9, 1_234, 2);
    let program = program(dump_registers()).file();
    let (first, second) = (Guest::new(&start, &program), Guest::new(&start, &program));
    let page = |guest: &Guest| {
        let mut page = [0; 4096];
        guest.ram().read(BOOT_PAGE, &mut page).unwrap();
        page
    };
    let (one, two) = (page(&first), page(&second));
    let word = |offset: usize| u64::from_le_bytes(one[offset..offset + 8].try_into().unwrap());
    assert_eq!(word(0), BOOT_MAGIC);
    assert_eq!(word(8), 1 | 2 << 32, "version and reason");
    assert_eq!(&one[16..32], b"district of test");
    assert_eq!((word(32), word(40), word(48)), (7, 9, 1_234), "epoch, generation, checkpoint time");
    assert_eq!(word(80), 1, "session");
    let (heap, heap_size) = (word(88), word(96));
    assert_eq!(heap, DATA + 0x2000 + STACK_SIZE + 0x1000);
    assert!(heap_size > 1 << 20 && heap + heap_size < 0x4020_0000);
    assert_eq!((word(104), word(112), word(120)), (WINDOW_BASE, 256 << 10, DEVICE_BASE));
    let arguments = "one\0\0z\u{fc}ri\0".as_bytes();
    assert_eq!(word(144), arguments.len() as u64);
    assert_eq!(&one[ARGUMENTS_OFFSET..ARGUMENTS_OFFSET + arguments.len()], arguments);
    let entropy = std::mem::offset_of!(BootPage, entropy);
    assert_ne!(one[entropy..entropy + 64], two[entropy..entropy + 64], "entropy of two lives");
    assert!(one[entropy..entropy + 64].iter().any(|&byte| byte != 0));
}
