//! What the page tables keep a program from.

use district_protocol::layout::{
    BOOT_PAGE, DEVICE_BASE, GDT_BASE, IDT_BASE, KVM_PRIVATE_BASE, PAGE_SIZE, RAM_BASE, SHIM_BASE, SHIM_STACK_BASE,
    TSS_BASE, WINDOW_BASE,
};

use super::{CODE, DATA, Guest, Host, exited, fault, guest, program, run, with_rbx};
use crate::report::{Ended, Fault};

guest!(load, "mov rax, [rbx]", "mov eax, 2", "mov edi, 1", "xor edx, edx", "int3");
guest!(store, "mov [rbx], rax", "mov eax, 2", "mov edi, 1", "xor edx, edx", "int3");
guest!(jump, "jmp rbx");

/// Bits of a page fault's error code (Intel SDM volume 3, 4.7): present, write, user, instruction.
const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const I: u64 = 16;

/// Runs `code` with rbx pointing at `address`, which must be a page fault with this error code.
fn page_fault(host: &Host, name: &str, code: &[u8], address: u64, error_code: u64) {
    let fault = fault(host, &with_rbx(address, code));
    let rip = if error_code & I != 0 { address } else { CODE + 10 };
    assert_eq!(
        (fault.vector, fault.error_code, fault.rip, fault.cr2),
        (14, error_code, rip, address),
        "{name}: {fault:x?}"
    );
}

/// Where things are in the machine that the other tests run.
struct Places {
    stack: u64,
    heap: u64,
    tables: u64,
    end: u64,
}

fn places(host: &Host) -> Places {
    let start = host.start();
    let image = crate::loader::Image::read(&program(jump()).file()).unwrap();
    let space = crate::address_space::AddressSpace::new(&image, start.memory, start.window).unwrap();
    Places { stack: space.stack.start, heap: space.heap.start, tables: space.tables.start, end: space.ram.end }
}

#[test]
fn c41_ring_0_is_out_of_reach() {
    let Some(host) = Host::get() else { return };
    for (name, address) in [
        ("gdt", GDT_BASE),
        ("idt", IDT_BASE),
        ("tss", TSS_BASE),
        ("shim", SHIM_BASE),
        ("shim call", crate::shim::CALL_RIP),
        ("shim stack", SHIM_STACK_BASE),
    ] {
        page_fault(host, name, load(), address, U | P);
        page_fault(host, name, store(), address, U | P | W);
        page_fault(host, name, jump(), address, U | P | I);
    }
    let tables = places(host).tables;
    for address in [tables, tables + PAGE_SIZE] {
        page_fault(host, "page tables", load(), address, U);
        page_fault(host, "page tables", store(), address, U | W);
    }
}

#[test]
fn c41_what_is_not_mapped_is_not_there() {
    let Some(host) = Host::get() else { return };
    let Places { stack, heap, end, .. } = places(host);
    for (name, address) in [
        ("null", 0),
        ("page zero", 0xff8),
        ("kvm's pages", KVM_PRIVATE_BASE),
        ("before the device", DEVICE_BASE - 8),
        ("after the device", DEVICE_BASE + PAGE_SIZE),
        ("before the window", WINDOW_BASE - 8),
        ("after the window", WINDOW_BASE + host.start().window),
        ("before RAM", RAM_BASE - 8),
        ("after the boot page", BOOT_PAGE + PAGE_SIZE),
        ("between segments", CODE + PAGE_SIZE),
        ("below the stack", stack - 8),
        ("above the stack", heap - 8),
        ("after RAM", end),
        ("far away", 0x7fff_ffff_f000),
    ] {
        page_fault(host, name, load(), address, U);
        page_fault(host, name, store(), address, U | W);
        page_fault(host, name, jump(), address, U | I);
    }
}

#[test]
fn c41_nothing_is_writable_and_executable() {
    let Some(host) = Host::get() else { return };
    let Places { stack, heap, tables, .. } = places(host);
    page_fault(host, "code", store(), CODE, U | P | W);
    page_fault(host, "boot page", store(), BOOT_PAGE, U | P | W);
    for (name, address) in [
        ("data", DATA),
        ("stack", stack),
        ("heap", heap),
        ("end of heap", tables - 8),
        ("window", WINDOW_BASE),
        ("boot page", BOOT_PAGE),
        ("device", DEVICE_BASE),
    ] {
        page_fault(host, name, jump(), address, U | P | I);
    }
}

#[test]
fn what_is_the_programs_is_usable() {
    let Some(host) = Host::get() else { return };
    let Places { stack, heap, tables, .. } = places(host);
    for address in [DATA, stack, heap - PAGE_SIZE - 8, heap, tables - 8, WINDOW_BASE] {
        assert_eq!(run(host, &with_rbx(address, load())), exited(1), "{address:#x}");
        assert_eq!(run(host, &with_rbx(address, store())), exited(1), "{address:#x}");
    }
    assert_eq!(run(host, &with_rbx(BOOT_PAGE, load())), exited(1));
    assert_eq!(run(host, &with_rbx(CODE, load())), exited(1));
}

#[test]
fn a_segment_without_write_permission_is_read_only() {
    let Some(host) = Host::get() else { return };
    let constants = 0x4004_0000;
    let elf = program(&with_rbx(constants, store())).segment(constants, super::elf::READ, b"constant");
    let Ended::Fault(Fault { vector, error_code, .. }) = Guest::new(&host.start(), &elf.file()).machine.run() else {
        panic!()
    };
    assert_eq!((vector, error_code), (14, U | P | W));
}

guest!(
    device_page,
    // Magic number; then odd widths and offsets, which read as zero and write nothing.
    "mov eax, [0x10000000]",
    "mov [0x40020000], eax",
    "mov al, [0x10000000]",
    "mov [0x40020004], al",
    "mov ax, [0x10000ffe]",
    "mov [0x40020008], ax",
    "mov rax, [0x10000000]",
    "mov [0x40020010], rax",
    "mov eax, [0x10000ffc]",
    "mov [0x40020018], eax",
    "mov byte ptr [0x10000070], 1",
    "mov qword ptr [0x10000070], -1",
    "lock add dword ptr [0x10000001], 5",
    "mov ecx, 16",
    "mov rsi, 0x10000000",
    "mov rdi, 0x40020020",
    "rep movsb",
    "movups xmm0, [0x10000000]",
    "movups [0x10000ff0], xmm0",
    "push qword ptr [0x10000000]",
    "pop qword ptr [0x10000000]",
    "mov eax, [0x10000100]",
    "mov [0x40020030], eax",
    "mov eax, [0x10000108]",
    "mov [0x40020038], eax",
    "mov dword ptr [0x10000050], 7",
    "mov dword ptr [0x10000050], 1",
    "mov word ptr [0x10000050], 0",
    "mov eax, 2",
    "xor edi, edi",
    "xor edx, edx",
    "int3",
);

#[test]
fn the_device_answers_accesses_of_any_width() {
    let Some(host) = Host::get() else { return };
    let mut guest = Guest::new(&host.start(), &program(device_page()).file());
    assert_eq!(guest.machine.run(), exited(0));
    let ram = guest.ram();
    let mut page = [0; 64];
    ram.read(DATA, &mut page).unwrap();
    let word = |offset: usize| u32::from_le_bytes(page[offset..offset + 4].try_into().unwrap());
    assert_eq!(word(0), u32::from_le_bytes(*b"virt"));
    assert_eq!((word(0x4), word(0x8), word(0x10), word(0x18)), (0, 0, 0, 0));
    assert_eq!(word(0x30), district_protocol::ABI_VERSION);
    assert_eq!(word(0x38), 7, "epoch");
}

guest!(wide_store, "vmovdqu [rbx], ymm0", "mov eax, 2", "xor edi, edi", "xor edx, edx", "int3");
guest!(straddling_store, "mov [rbx], rax", "mov eax, 2", "xor edi, edi", "xor edx, edx", "int3");
guest!(
    device_atomics,
    "lock cmpxchg16b [rbx]",
    "lock xadd [rbx], rax",
    "xsave [rbx]",
    "mov eax, 2",
    "xor edi, edi",
    "xor edx, edx",
    "int3"
);
guest!(device_stack, "mov rsp, rbx", "push rax", "call 3f", "3: ret");

#[test]
fn c41_odd_accesses_to_the_device_end_in_a_report() {
    let Some(host) = Host::get() else { return };
    for (name, address, code) in [
        ("32 bytes", DEVICE_BASE, wide_store()),
        ("across its end", DEVICE_BASE + PAGE_SIZE - 4, straddling_store()),
        ("across its start", DEVICE_BASE - 4, straddling_store()),
        ("atomics", DEVICE_BASE, device_atomics()),
        ("as a stack", DEVICE_BASE + 0x800, device_stack()),
    ] {
        match run(host, &with_rbx(address, code)) {
            Ended::Failed { error } => panic!("{name}: {error}"),
            ended => println!("{name}: {ended:x?}"),
        }
    }
}
