//! The few things that only the machine can do: ring-0 calls, the time-stamp counter, device registers.

use core::arch::asm;

use district_protocol::boot::BootPage;
use district_protocol::{layout, shim};

/// The boot page. Readable always; the host may change it between any two instructions.
pub(crate) fn boot_page() -> *const BootPage {
    layout::BOOT_PAGE as *const BootPage
}

/// The memory at a guest-physical address, which is the same as its virtual address.
pub(crate) fn memory(address: u64) -> *mut u8 {
    address as *mut u8
}

/// Marks a boundary between two instructions that matter to the host. Tests can let a restore happen there.
#[inline(always)]
pub(crate) fn step() {}

/// Stops until the host has news or the clock reaches `until`. Returns early as often as it likes.
pub(crate) fn park(until: u64) {
    // SAFETY: `int3` with this number keeps all registers and touches no memory of the program (docs/abi.md, section
    // 4); that the host may have written into the window meanwhile is what the implied memory clobber says.
    unsafe { asm!("int3", in("eax") shim::PARK, in("rdi") until, options(nostack)) }
}

/// Ends the district without looking after anything.
pub(crate) fn exit(code: u8, message: &str) -> ! {
    // SAFETY: `int3` with this number does not return, and reads only the message, which lives long enough for that.
    unsafe {
        asm!(
            "int3",
            "ud2",
            in("eax") shim::EXIT,
            in("rdi") u64::from(code),
            in("rsi") message.as_ptr(),
            in("rdx") message.len(),
            options(noreturn, nostack),
        )
    }
}

/// The time-stamp counter.
pub(crate) fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and ring 3 may use it (docs/abi.md, section 3).
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Writes the device register at `offset`; each access leaves the guest and takes microseconds.
pub(crate) fn write_register(offset: u32, value: u32) {
    let register = (layout::DEVICE_BASE + u64::from(offset)) as *mut u32;
    // SAFETY: the device page is mapped for ring 3 for the district's whole life, and all registers that the SDK names
    // are aligned and inside of it. A register write can make the host write to the window, which is only ever
    // accessed through raw pointers.
    unsafe { register.write_volatile(value) }
}
