//! Where things are in a district's address space. Virtual and physical addresses are the same (`docs/abi.md`, section 2).
//!
//! ```text
//! 0x0ffb_c000  4 pages that KVM keeps for itself on some processors
//! 0x1000_0000  device page: virtio-mmio registers                      ring 3, read-write, not executable
//! 0x2000_0000  window, up to 256 MiB                                   ring 3, read-write, not executable
//! 0x4000_0000  RAM: system pages (GDT, IDT, TSS, shim, ring-0 stack)    ring 0 only
//! 0x4000_5000       boot page                                          ring 3, read-only
//! 0x4001_0000       the program's segments, as the ELF file says       ring 3
//!                   an unmapped guard page, the stack, another guard page
//!                   heap                                               ring 3, read-write, not executable
//!                   page tables, at the very end of RAM                ring 0 only
//! ```
//!
//! Nothing else is mapped; page zero least of all.

/// Bytes in a page. Everything here is a multiple of it.
pub const PAGE_SIZE: u64 = 4096;

/// First of the four pages that Intel's virtualization needs below 4 GiB and outside of all memory: one for the
/// identity map, then three for the task state segment (Linux `Documentation/virt/kvm/api.rst`, `KVM_SET_TSS_ADDR`).
pub const KVM_PRIVATE_BASE: u64 = 0x0ffb_c000;

/// The page of virtio-mmio registers.
pub const DEVICE_BASE: u64 = 0x1000_0000;
/// Length of the device page in bytes.
pub const DEVICE_SIZE: u64 = PAGE_SIZE;

/// First byte of the window, the memory that the district shares with the broker.
pub const WINDOW_BASE: u64 = 0x2000_0000;
/// Smallest window in bytes.
pub const WINDOW_SIZE_MIN: u64 = 256 << 10;
/// Window size in bytes where nothing else is asked for.
pub const WINDOW_SIZE_DEFAULT: u64 = 2 << 20;
/// Largest window in bytes: it must end before RAM begins.
pub const WINDOW_SIZE_MAX: u64 = 256 << 20;

/// First byte of RAM.
pub const RAM_BASE: u64 = 0x4000_0000;
/// Smallest RAM in bytes.
pub const RAM_SIZE_MIN: u64 = 1 << 20;
/// Largest RAM in bytes. RAM must also end below what the processor can address.
pub const RAM_SIZE_MAX: u64 = 64 << 30;

/// Global descriptor table; ring 0 only, like all pages up to the boot page.
pub const GDT_BASE: u64 = RAM_BASE;
/// Interrupt descriptor table, 256 gates.
pub const IDT_BASE: u64 = RAM_BASE + 0x1000;
/// Task state segment.
pub const TSS_BASE: u64 = RAM_BASE + 0x2000;
/// The shim, all the code there is in ring 0.
pub const SHIM_BASE: u64 = RAM_BASE + 0x3000;
/// Lowest byte of the ring-0 stack, one page. It is empty whenever ring 3 runs.
pub const SHIM_STACK_BASE: u64 = RAM_BASE + 0x4000;
/// First byte beyond the ring-0 stack: its top.
pub const SHIM_STACK_TOP: u64 = SHIM_STACK_BASE + PAGE_SIZE;
/// The boot page ([`crate::boot`]), read-only in ring 3.
pub const BOOT_PAGE: u64 = RAM_BASE + 0x5000;
/// Lowest address at which a program's segment may begin; the linker script of the SDK starts here.
pub const PROGRAM_BASE: u64 = RAM_BASE + 0x1_0000;
/// Bytes of stack for the program, between two unmapped guard pages.
pub const STACK_SIZE: u64 = 256 << 10;

const _: () = {
    // docs/abi.md, section 2.
    assert!(DEVICE_BASE >= KVM_PRIVATE_BASE + 4 * PAGE_SIZE);
    assert!(WINDOW_BASE >= DEVICE_BASE + DEVICE_SIZE);
    assert!(WINDOW_BASE + WINDOW_SIZE_MAX <= RAM_BASE);
    assert!(BOOT_PAGE == SHIM_STACK_TOP);
    assert!(PROGRAM_BASE >= BOOT_PAGE + PAGE_SIZE);
    assert!(PROGRAM_BASE == 0x4001_0000);
    assert!(RAM_SIZE_MIN > (PROGRAM_BASE - RAM_BASE) + STACK_SIZE);
};
