//! The ring-0 code of a district (`guest/shim/shim.s`), and what the host must know about it.

use std::slice;

use district_protocol::layout::{SHIM_BASE, SHIM_STACK_TOP};

std::arch::global_asm!(include_str!("../../guest/shim/shim.s"));

unsafe extern "C" {
    static district_shim_start: u8;
    static district_shim_end: u8;
}

/// Vector of `int3`, by which a program asks for a shim call.
pub(crate) const CALL_VECTOR: u8 = 3;
/// Bytes from one entry of the shim to the next.
const ENTRY_SIZE: u64 = 8;
/// Where the guest is while it waits for the host to serve a shim call: after the `hlt` of entry [`CALL_VECTOR`].
pub(crate) const CALL_RIP: u64 = entry(CALL_VECTOR) + 1;

/// What a fault leaves at the end of the ring-0 stack: {vector, error code, rip, cs, rflags, rsp, ss}.
pub(crate) const FAULT_FRAME: u64 = SHIM_STACK_TOP - 7 * 8;
/// What a shim call leaves at the end of the ring-0 stack: {rip, cs, rflags, rsp, ss}.
pub(crate) const CALL_FRAME: u64 = SHIM_STACK_TOP - 5 * 8;

/// Address of the shim's entry for `vector`.
pub(crate) const fn entry(vector: u8) -> u64 {
    SHIM_BASE + vector as u64 * ENTRY_SIZE
}

/// The shim's bytes, to be placed at [`SHIM_BASE`].
pub(crate) fn code() -> &'static [u8] {
    let start = &raw const district_shim_start;
    let end = &raw const district_shim_end;
    // SAFETY: `from_raw_parts` wants a live, initialised, immutable range: both symbols delimit one read-only section
    // that the assembler emitted in one piece, and `end` is not below `start`.
    unsafe { slice::from_raw_parts(start, end.addr() - start.addr()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use district_protocol::layout::PAGE_SIZE;

    #[test]
    fn fits_its_page_and_has_an_entry_per_vector() {
        let code = code();
        assert!(code.len() as u64 > 256 * ENTRY_SIZE && code.len() as u64 <= PAGE_SIZE);
        for vector in 0..=255u8 {
            let at = usize::try_from(entry(vector) - SHIM_BASE).unwrap();
            if vector == CALL_VECTOR {
                assert_eq!(code[at..at + 3], [0xf4, 0x48, 0xcf], "hlt; iretq");
            } else {
                assert_eq!(code[at..at + 2], [0x6a, vector], "push vector");
            }
        }
    }
}
