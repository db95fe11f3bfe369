//! Districts of all sizes.

use super::{Guest, Host, exited, guest, program};

guest!(
    touch_heap_ends,
    // First and last word of the heap, as the boot page says.
    "mov rsi, [rdi + 88]",
    "mov rcx, [rdi + 96]",
    "mov qword ptr [rsi], 1",
    "mov qword ptr [rsi + rcx - 8], 2",
    "mov rax, [rsi]",
    "add rax, [rsi + rcx - 8]",
    "mov rdi, rax",
    "mov eax, 2",
    "xor edx, edx",
    "int3",
);

#[test]
fn all_of_the_heap_is_there_from_1_mib_to_4_gib() {
    let Some(host) = Host::get() else { return };
    const MIB: u64 = 1 << 20;
    for memory in
        [MIB, MIB + 0x1000, 2 * MIB, 3 * MIB - 0x1000, 64 * MIB, 1023 * MIB, 3 << 30, (3 << 30) + MIB, 4 << 30]
    {
        let mut start = host.start();
        start.memory = memory;
        let mut guest = Guest::new(&start, &program(touch_heap_ends()).file());
        assert_eq!(guest.machine.run(), exited(3), "{memory:#x}");
    }
}

#[test]
fn windows_of_all_sizes_are_there() {
    let Some(host) = Host::get() else { return };
    for window in [256 << 10, (256 << 10) + 0x1000, 2 << 20, (2 << 20) + 0x3000, 256 << 20] {
        let mut start = host.start();
        start.window = window;
        let last = district_protocol::layout::WINDOW_BASE + window - 8;
        let code = super::with_rbx(last, touch_rbx());
        let mut guest = Guest::new(&start, &program(&code).file());
        assert_eq!(guest.machine.run(), exited(4), "{window:#x}");
    }
}

guest!(touch_rbx, "mov qword ptr [rbx], 4", "mov rdi, [rbx]", "mov eax, 2", "xor edx, edx", "int3");
