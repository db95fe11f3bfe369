//! The processor's descriptor tables (Intel SDM volume 3, chapters 3, 6 and 8): as few descriptors as long mode lets one
//! have.

use district_protocol::layout::{GDT_BASE, IDT_BASE, SHIM_BASE, SHIM_STACK_TOP, TSS_BASE};

use crate::memory::{MemoryError, Ram};
use crate::shim;

/// Selector of ring 0's code segment.
pub(crate) const RING0_CODE: u16 = 0x08;
/// Selector of ring 0's stack segment; an interrupt from ring 3 loads none, `iretq` within ring 0 would want one.
const RING0_DATA: u16 = 0x10;
/// Selector of the program's data segment.
pub(crate) const RING3_DATA: u16 = 0x18 | 3;
/// Selector of the program's code segment, 64-bit; there is no other.
pub(crate) const RING3_CODE: u16 = 0x20 | 3;
/// Selector of the task state segment; its descriptor is two entries long.
pub(crate) const TSS: u16 = 0x28;

/// Limit of the global descriptor table.
pub(crate) const GDT_LIMIT: u16 = TSS + 15;
/// Limit of the interrupt descriptor table: 256 gates.
pub(crate) const IDT_LIMIT: u16 = 256 * 16 - 1;
/// Limit of the task state segment. Its I/O permission bitmap would begin beyond: no port is open to ring 3.
pub(crate) const TSS_LIMIT: u16 = 0x67;

/// Access byte and flags of a flat segment that is present and has been accessed, with bits added.
const fn segment(bits: u64) -> u64 {
    0x00cf_9300_0000_ffff | bits
}
const EXECUTABLE: u64 = 1 << 43;
const DPL3: u64 = 3 << 45;
const LONG: u64 = 1 << 53;
const DEFAULT32: u64 = 1 << 54;

/// Type of a gate that is entered with interrupts off.
const INTERRUPT_GATE: u64 = 0x8e;
/// The same, for software interrupts from ring 3 too.
const INTERRUPT_GATE_DPL3: u64 = 0xee;

fn gdt() -> [u64; 7] {
    let code = segment(EXECUTABLE | LONG) & !DEFAULT32;
    // Type 0xb: 64-bit task state segment, busy, as it is once loaded.
    let tss =
        0x0000_8b00_0000_0000 | u64::from(TSS_LIMIT) | (TSS_BASE & 0x00ff_ffff) << 16 | (TSS_BASE & 0xff00_0000) << 32;
    let mut gdt = [0; 7];
    for (selector, descriptor) in [
        (RING0_CODE, code),
        (RING0_DATA, segment(0)),
        (RING3_DATA, segment(DPL3)),
        (RING3_CODE, code | DPL3),
        (TSS, tss),
        (TSS + 8, TSS_BASE >> 32),
    ] {
        gdt[usize::from(selector / 8)] = descriptor;
    }
    gdt
}

fn gate(vector: u8) -> [u64; 2] {
    let handler = shim::entry(vector);
    let kind = if vector == shim::CALL_VECTOR { INTERRUPT_GATE_DPL3 } else { INTERRUPT_GATE };
    let low = handler & 0xffff | u64::from(RING0_CODE) << 16 | kind << 40 | (handler >> 16 & 0xffff) << 48;
    [low, handler >> 32]
}

fn tss() -> [u8; TSS_LIMIT as usize + 1] {
    let mut tss = [0; TSS_LIMIT as usize + 1];
    tss[4..12].copy_from_slice(&SHIM_STACK_TOP.to_le_bytes());
    tss[0x66..0x68].copy_from_slice(&(TSS_LIMIT + 1).to_le_bytes());
    tss
}

/// Writes the descriptor tables and the shim to their pages.
pub(crate) fn write(ram: &Ram) -> Result<(), MemoryError> {
    let bytes = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    ram.write(GDT_BASE, &bytes(&gdt()))?;
    let gates: Vec<u64> = (0..=255).flat_map(gate).collect();
    ram.write(IDT_BASE, &bytes(&gates))?;
    ram.write(TSS_BASE, &tss())?;
    ram.write(SHIM_BASE, shim::code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_what_the_manual_says() {
        assert_eq!(
            gdt(),
            [
                0,
                0x00af_9b00_0000_ffff,
                0x00cf_9300_0000_ffff,
                0x00cf_f300_0000_ffff,
                0x00af_fb00_0000_ffff,
                0x4000_8b00_2000_0067,
                0
            ]
        );
    }

    #[test]
    fn only_the_call_gate_is_open_to_ring_3() {
        for vector in 0..=255 {
            let dpl = gate(vector)[0] >> 45 & 3;
            assert_eq!(dpl, if vector == shim::CALL_VECTOR { 3 } else { 0 });
        }
    }
}
