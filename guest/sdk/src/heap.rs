//! The heap: all memory between the stack and the page tables.

use core::alloc::{GlobalAlloc, Layout};

use talc::TalcCell;
use talc::source::Manual;

use crate::{boot, machine};

/// The district's heap, as a global allocator. [`crate::entry!`] makes it one.
#[derive(Debug)]
pub struct Heap;

struct OneThread(TalcCell<Manual>);

// SAFETY: a district has one thread of control and no interrupts, so nothing else can be inside of the cell while a
// call is.
unsafe impl Sync for OneThread {}

static MEMORY: OneThread = OneThread(TalcCell::new(Manual));

// SAFETY: all methods hand the request on to an allocator that keeps the contract of the trait.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of this very method.
        unsafe { MEMORY.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of this very method, and all memory comes from this allocator.
        unsafe { MEMORY.0.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as for `dealloc`.
        unsafe { MEMORY.0.realloc(memory, layout, size) }
    }
}

/// Gives the heap its memory; only its first and last page are touched.
pub(crate) fn start() {
    let (base, size) = boot::heap();
    let Ok(size) = usize::try_from(size) else { return };
    // SAFETY: the boot page names memory that is mapped for ring 3, writable and used for nothing else, and this is
    // the first and only time that it is handed out.
    let claimed = unsafe { MEMORY.0.claim(machine::memory(base), size) };
    if claimed.is_none() {
        machine::exit(crate::channel::HOST_FAULT, "the heap is too small to be one");
    }
}
