//! The memory functions that compiled code calls without saying so. In assembly, because a compiler may turn a loop
//! that copies into a call of the very function that it is in. `rep movsb` is fast on everything that runs this.

use core::arch::global_asm;

global_asm!(
    ".section .text.memory,\"ax\",@progbits",
    ".globl district_memcpy, district_memmove, district_memset, district_memcmp",
    "district_memcpy:",
    "    mov rax, rdi",
    "    mov rcx, rdx",
    "    rep movsb",
    "    ret",
    // Backwards when the destination begins inside the source.
    "district_memmove:",
    "    mov rax, rdi",
    "    mov rcx, rdx",
    "    mov r8, rdi",
    "    sub r8, rsi",
    "    cmp r8, rdx",
    "    jb 2f",
    "    rep movsb",
    "    ret",
    "2:  lea rdi, [rdi + rdx - 1]",
    "    lea rsi, [rsi + rdx - 1]",
    "    std",
    "    rep movsb",
    "    cld",
    "    ret",
    "district_memset:",
    "    mov r8, rdi",
    "    mov eax, esi",
    "    mov rcx, rdx",
    "    rep stosb",
    "    mov rax, r8",
    "    ret",
    // Eight bytes at a time until they differ, then byte by byte from there.
    "district_memcmp:",
    "    xor ecx, ecx",
    "3:  lea r8, [rcx + 8]",
    "    cmp r8, rdx",
    "    ja 4f",
    "    mov rax, [rdi + rcx]",
    "    cmp rax, [rsi + rcx]",
    "    jne 4f",
    "    mov rcx, r8",
    "    jmp 3b",
    "4:  cmp rcx, rdx",
    "    jae 5f",
    "    movzx eax, byte ptr [rdi + rcx]",
    "    movzx r8d, byte ptr [rsi + rcx]",
    "    inc rcx",
    "    sub eax, r8d",
    "    jz 4b",
    "    ret",
    "5:  xor eax, eax",
    "    ret",
    ".previous",
);

#[cfg(not(test))]
global_asm!(
    ".globl memcpy, memmove, memset, memcmp, bcmp",
    ".set memcpy, district_memcpy",
    ".set memmove, district_memmove",
    ".set memset, district_memset",
    ".set memcmp, district_memcmp",
    ".set bcmp, district_memcmp",
    // The library that the toolchain ships was compiled to unwind and refers to these; nothing ever calls them.
    ".globl _Unwind_Resume, rust_eh_personality",
    "_Unwind_Resume:",
    "rust_eh_personality:",
    "    ud2",
);

#[cfg(test)]
mod tests {
    use std::ffi::c_int;
    use std::vec::Vec;

    unsafe extern "C" {
        fn district_memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8;
        fn district_memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8;
        fn district_memset(to: *mut u8, value: c_int, count: usize) -> *mut u8;
        fn district_memcmp(left: *const u8, right: *const u8, count: usize) -> c_int;
    }

    fn bytes() -> Vec<u8> {
        (0..100).collect()
    }

    #[test]
    fn copies() {
        for count in 0..=40 {
            let (from, mut to) = (bytes(), Vec::from([0xee; 100]));
            // SAFETY: both places have more than `count` bytes, and they are not the same.
            let end = unsafe { district_memcpy(to.as_mut_ptr(), from.as_ptr().wrapping_add(3), count) };
            assert_eq!(end, to.as_mut_ptr());
            assert_eq!(to[..count], from[3..3 + count]);
            assert!(to[count..].iter().all(|&byte| byte == 0xee));
        }
    }

    #[test]
    fn moves_within_one_place() {
        for (from, to) in [(0, 0), (0, 1), (1, 0), (10, 50), (50, 10), (20, 27), (27, 20)] {
            for count in 0..=40 {
                let mut place = bytes();
                let mut expected = bytes();
                expected.copy_within(from..from + count, to);
                let start = place.as_mut_ptr();
                // SAFETY: 100 bytes hold both ranges, which may overlap.
                unsafe { district_memmove(start.wrapping_add(to), start.wrapping_add(from), count) };
                assert_eq!(place, expected, "{count} bytes from {from} to {to}");
            }
        }
    }

    #[test]
    fn fills() {
        let mut place = bytes();
        // SAFETY: the place has 100 bytes.
        let end = unsafe { district_memset(place.as_mut_ptr(), 0x1ff, 33) };
        assert_eq!(end, place.as_mut_ptr());
        assert!(place[..33].iter().all(|&byte| byte == 0xff));
        assert_eq!(place[33..], bytes()[33..]);
    }

    #[test]
    fn compares() {
        for count in 0..=40 {
            for differing in 0..=count {
                for (left, right) in [(0x7f, 0x80), (0xff, 0), (1, 2)] {
                    let (mut a, mut b) = (bytes(), bytes());
                    a[differing] = left;
                    b[differing] = right;
                    // SAFETY: both places have 100 bytes.
                    let order = unsafe { district_memcmp(a.as_ptr(), b.as_ptr(), count) };
                    let expected = a[..count].cmp(&b[..count]);
                    assert_eq!(order.cmp(&0), expected, "{count} bytes, {differing} differs");
                }
            }
        }
    }
}
