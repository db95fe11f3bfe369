//! Everything that a program can do wrong ends in a report that says what and where.

use super::{CODE, Host, exited, fault, guest, run, with_rbx};
use crate::report::{Ended, Fault};

/// Runs `code`, whose instruction at offset `at` must end it with one of `vectors`.
fn faults(name: &str, code: &[u8], at: u64, vectors: &[u8]) {
    let Some(host) = Host::get() else { return };
    match run(host, code) {
        Ended::Fault(fault) if vectors.contains(&fault.vector) && fault.rip == CODE + at => {}
        ended => panic!("{name}: {ended:x?}"),
    }
}

guest!(divide, "xor edx, edx", "xor ecx, ecx", "div ecx");
guest!(ud2, "ud2");
guest!(breakpoint, "mov eax, 77", "int3", "nop");
guest!(single_step, "push 0x102", "popfq", "nop", "nop");
guest!(alignment, "push 0x40002", "popfq", "mov eax, [rsp + 1]", "ud2");
guest!(x87, "push 0x340", "fldcw [rsp]", "fldz", "fld1", "fdivrp", "fwait");
guest!(sse, "push 0", "ldmxcsr [rsp]", "xorps xmm0, xmm0", "movss xmm1, xmm0", "divss xmm1, xmm0", "ud2");
guest!(int80, "int 0x80");
guest!(port_in, "mov dx, 0x3f8", "in al, dx");
guest!(port_out, "out 0x80, al");

#[test]
fn c41_exceptions_are_reported_with_vector_and_rip() {
    faults("division", divide(), 4, &[0]);
    faults("ud2", ud2(), 0, &[6]);
    faults("unknown shim call", breakpoint(), 6, &[3]);
    faults("single step", single_step(), 7, &[1]);
    faults("x87", x87(), 14, &[16]);
    faults("int 0x80", int80(), 0, &[6, 13]);
    faults("in", port_in(), 4, &[13]);
    faults("out", port_out(), 0, &[13]);
}

/// Processors in software do not raise these; then it is the invalid instruction behind. Where ring 3 runs natively, the
/// host's own handler turns an SSE exception into a general protection fault.
#[test]
fn c41_exceptions_that_not_all_hosts_raise_do_no_harm() {
    let Some(host) = Host::get() else { return };
    for (name, code, at, vectors, behind) in
        [("alignment", alignment(), 6, [17, 17], 10), ("sse", sse(), 13, [13, 19], 17)]
    {
        let Fault { vector, rip, .. } = fault(host, code);
        let raised = vectors.contains(&vector) && rip == CODE + at;
        assert!(raised || (vector, rip) == (6, CODE + behind), "{name}: {vector} at {rip:#x}");
    }
}

#[test]
fn c41_privileged_instructions_are_reported() {
    for (name, code) in [
        ("hlt", &[0xf4][..]),
        ("cli", &[0xfa]),
        ("sti", &[0xfb]),
        ("mov rax, cr0", &[0x0f, 0x20, 0xc0]),
        ("mov cr3, rax", &[0x0f, 0x22, 0xd8]),
        ("mov rax, cr4", &[0x0f, 0x20, 0xe0]),
        ("mov dr7, rax", &[0x0f, 0x23, 0xf8]),
        ("mov rax, dr0", &[0x0f, 0x21, 0xc0]),
        ("rdmsr", &[0x0f, 0x32]),
        ("wrmsr", &[0x0f, 0x30]),
        ("rdpmc", &[0x0f, 0x33]),
        ("invd", &[0x0f, 0x08]),
        ("wbinvd", &[0x0f, 0x09]),
        ("clts", &[0x0f, 0x06]),
        ("invlpg [rax]", &[0x0f, 0x01, 0x38]),
        ("lgdt [rsp]", &[0x0f, 0x01, 0x14, 0x24]),
        ("lidt [rsp]", &[0x0f, 0x01, 0x1c, 0x24]),
        ("lmsw ax", &[0x0f, 0x01, 0xf0]),
        ("lldt ax", &[0x0f, 0x00, 0xd0]),
        ("ltr ax", &[0x0f, 0x00, 0xd8]),
        ("xsetbv", &[0x0f, 0x01, 0xd1]),
        ("swapgs", &[0x0f, 0x01, 0xf8]),
        ("sysretq", &[0x48, 0x0f, 0x07]),
        ("sysexit", &[0x0f, 0x35]),
        ("monitor", &[0x0f, 0x01, 0xc8]),
        ("mwait", &[0x0f, 0x01, 0xc9]),
        ("rsm", &[0x0f, 0xaa]),
        ("vmxoff", &[0x0f, 0x01, 0xc4]),
        ("vmrun", &[0x0f, 0x01, 0xd8]),
        ("stgi", &[0x0f, 0x01, 0xdc]),
        ("clac", &[0x0f, 0x01, 0xca]),
    ] {
        faults(name, code, 0, &[6, 13]);
    }
}

guest!(syscall, "syscall", "ud2");
guest!(sysenter, "sysenter", "ud2");

/// On some hosts `SYSCALL` jumps to LSTAR without leaving ring 3; that must be a place where ring 3 cannot be.
#[test]
fn c41_system_call_instructions_do_not_reach_ring_0() {
    let Some(host) = Host::get() else { return };
    for (name, code) in [("syscall", syscall()), ("sysenter", sysenter())] {
        let fault = fault(host, code);
        let at_instruction = fault.rip == CODE && matches!(fault.vector, 6 | 13);
        let at_lstar = fault.rip == crate::shim::entry(0) && fault.vector == 14 && fault.error_code & 4 != 0;
        assert!(at_instruction || at_lstar, "{name}: {fault:x?}");
    }
}

guest!(noncanonical_load, "mov rax, [rbx]");
guest!(noncanonical_push, "mov rsp, rbx", "push rax");
guest!(noncanonical_jump, "jmp rbx");

#[test]
fn c41_addresses_that_are_none_are_reported() {
    let Some(host) = Host::get() else { return };
    let address = 0x8000_0000_0000;
    assert_eq!(fault(host, &with_rbx(address, noncanonical_load())).vector, 13);
    for code in [noncanonical_push(), noncanonical_jump()] {
        let fault = fault(host, &with_rbx(address + 8, code));
        assert!(matches!(fault.vector, 12..=14), "{fault:x?}");
    }
    // The upper half is the host's own on hosts that run ring 3 natively.
    let kernel = fault(host, &with_rbx(0xffff_ffff_8100_0000, noncanonical_load()));
    assert!(matches!(kernel.vector, 13 | 14), "{kernel:x?}");
}

guest!(garbage_stack, "mov rsp, 0x8000000000000001", "mov eax, 2", "mov edi, 9", "xor edx, edx", "int3");
guest!(fault_on_garbage_stack, "mov rsp, 0x123456789abcdef0", "ud2");

#[test]
fn c41_the_stack_pointer_may_be_anything() {
    let Some(host) = Host::get() else { return };
    // kvm_pvm does not go back to such a program by itself once the host has interrupted it: it goes on by emulation,
    // which does not know `int3`.
    match run(host, garbage_stack()) {
        Ended::Fault(Fault { vector: 6, rip, rsp: 0x8000_0000_0000_0001, .. }) => assert_eq!(rip, CODE + 0x16),
        ended => assert_eq!(ended, exited(9)),
    }
    let Fault { vector, rsp, .. } = fault(host, fault_on_garbage_stack());
    assert_eq!((vector, rsp), (6, 0x1234_5678_9abc_def0));
}

guest!(overflow, "2: push rax", "jmp 2b");

#[test]
fn c41_a_stack_that_overflows_hits_its_guard() {
    let Some(host) = Host::get() else { return };
    let fault = fault(host, overflow());
    let stack = super::DATA + 0x2000;
    assert_eq!((fault.vector, fault.error_code, fault.cr2), (14, 6, stack - 8), "{fault:x?}");
    assert_eq!(fault.rip, CODE);
}

guest!(nested_task, "push 0x4002", "popfq", "iretq");
guest!(to_ring_0, "push 0x10", "push rsp", "pushfq", "push 8", "push rbx", "iretq");
guest!(far_to_ring_0, "push 8", "push rbx", "retfq");

#[test]
fn c41_returns_to_ring_0_are_reported() {
    let Some(host) = Host::get() else { return };
    for code in [nested_task(), &with_rbx(CODE, to_ring_0()), &with_rbx(CODE, far_to_ring_0())] {
        let fault = fault(host, code);
        // Processors in software read the stack as ring 0 would, which SMAP forbids.
        assert!(matches!(fault.vector, 13 | 14), "{fault:x?}");
    }
}

guest!(
    flags_then_park,
    "push 0x4cd7",
    "popfq",
    "mov eax, 1",
    "xor edi, edi",
    "int3",
    "mov eax, 2",
    "mov edi, 5",
    "xor edx, edx",
    "int3"
);

#[test]
fn shim_calls_work_with_any_flags() {
    let Some(host) = Host::get() else { return };
    assert_eq!(run(host, flags_then_park()), exited(5));
}

/// Instructions that may work, fault or be emulated, depending on the host. They end the guest or do nothing.
#[test]
fn c41_odd_instructions_do_no_harm() {
    let Some(host) = Host::get() else { return };
    for (name, code) in [
        ("sgdt [rsp-64]", &[0x0f, 0x01, 0x44, 0x24, 0xc0][..]),
        ("sidt [rsp-64]", &[0x0f, 0x01, 0x4c, 0x24, 0xc0]),
        ("sldt eax", &[0x0f, 0x00, 0xc0]),
        ("str eax", &[0x0f, 0x00, 0xc8]),
        ("smsw eax", &[0x0f, 0x01, 0xe0]),
        ("vmcall", &[0x0f, 0x01, 0xc1]),
        ("vmmcall", &[0x0f, 0x01, 0xd9]),
        ("ldtilecfg [rsp-64]", &[0xc4, 0xe2, 0x78, 0x49, 0x44, 0x24, 0xc0]),
        ("tilezero tmm0", &[0xc4, 0xe2, 0x7b, 0x49, 0xc0]),
        ("vpxord zmm", &[0x62, 0xf1, 0x7d, 0x48, 0xef, 0xc0]),
        ("rdpkru", &[0x31, 0xc9, 0x0f, 0x01, 0xee]),
        ("wrpkru", &[0x31, 0xc0, 0x31, 0xc9, 0x31, 0xd2, 0x0f, 0x01, 0xef]),
        ("rdtscp", &[0x0f, 0x01, 0xf9]),
        ("rdpid rax", &[0xf3, 0x0f, 0xc7, 0xf8]),
        ("xbegin", &[0xc7, 0xf8, 0, 0, 0, 0]),
        ("xsaves", &[0x0f, 0xc7, 0x2c, 0x24]),
        ("enqcmd", &[0xf2, 0x0f, 0x38, 0xf8, 0x04, 0x24]),
        ("umwait", &[0xf2, 0x0f, 0xae, 0xf0]),
        ("icebp", &[0xf1]),
        ("cpuid", &[0x0f, 0xa2]),
        ("pause", &[0xf3, 0x90]),
        ("clflush null", &[0x0f, 0xae, 0x3c, 0x25, 0, 0, 0, 0]),
        ("mov ss, null", &[0x31, 0xc0, 0x8e, 0xd0]),
        ("mov ds, ring 0", &[0xb8, 0x10, 0, 0, 0, 0x8e, 0xd8]),
        ("mov fs, code", &[0xb8, 0x23, 0, 0, 0, 0x8e, 0xe0]),
        ("mov gs, tss", &[0xb8, 0x28, 0, 0, 0, 0x8e, 0xe8]),
        ("seamcall", &[0x66, 0x0f, 0x01, 0xcf]),
        ("encls", &[0x0f, 0x01, 0xcf]),
        ("enclu", &[0x0f, 0x01, 0xd7]),
        ("skinit", &[0x0f, 0x01, 0xde]),
        ("pconfig", &[0x0f, 0x01, 0xc5]),
        ("uiret", &[0xf3, 0x0f, 0x01, 0xec]),
        ("senduipi", &[0xf3, 0x0f, 0xc7, 0xf0]),
    ] {
        let mut code = code.to_vec();
        code.extend_from_slice(&[0x0f, 0x0b]);
        match run(host, &code) {
            Ended::Fault(fault) => println!(
                "{name}: vector {} error {:#x} rip +{:#x}",
                fault.vector,
                fault.error_code,
                fault.rip.wrapping_sub(CODE)
            ),
            ended => panic!("{name}: {ended:x?}"),
        }
    }
}
