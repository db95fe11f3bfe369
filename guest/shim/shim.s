# The shim: all the code that runs in ring 0 of a district. The host copies it to the page at SHIM_BASE and points the
# gates of the interrupt descriptor table at its stubs, vector n at SHIM_BASE + 8 n.
#
# On some hosts every instruction here is emulated, so there are only a few and only plain integer ones. No register of
# the program is touched: the host reads what it wants to know from the stack, which is empty whenever ring 3 runs.
#
# After a fault the page of the stack ends with vector, error code, rip, cs, rflags, rsp and ss, eight bytes each. Of the
# vector only the low byte counts.

        .pushsection .rodata.district_shim, "a"
        .balign 8
        .globl  district_shim_start
        .globl  district_shim_end
district_shim_start:

        .set    vector, 0
        .rept   256
        .balign 8
        .if     vector == 3
        # A shim call, the only way from ring 3 into here that comes back. The host tells it from a fault by rip.
        hlt
        iretq
        .else
        .byte   0x6a, vector & 0xff     # push imm8
        # The exceptions with which the processor pushes an error code (AMD64 manual, volume 2, 8.2).
        .if     vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30
        jmp     district_shim_fault
        .else
        jmp     district_shim_no_error_code
        .endif
        .endif
        .set    vector, vector + 1
        .endr

district_shim_no_error_code:
        push    qword ptr [rsp]
        mov     qword ptr [rsp + 8], 0
district_shim_fault:
        hlt
        jmp     district_shim_fault

district_shim_end:
        .popsection
