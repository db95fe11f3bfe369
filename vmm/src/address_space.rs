//! Where everything is in one district's memory: what [`district_protocol::layout`] leaves to the program's size.

use std::ops::Range;

use district_protocol::layout::{
    BOOT_PAGE, DEVICE_BASE, DEVICE_SIZE, GDT_BASE, PAGE_SIZE, RAM_BASE, RAM_SIZE_MAX, RAM_SIZE_MIN, SHIM_BASE,
    SHIM_STACK_BASE, SHIM_STACK_TOP, STACK_SIZE, WINDOW_BASE, WINDOW_SIZE_MAX, WINDOW_SIZE_MIN,
};
use thiserror::Error;

use crate::loader::{Access, Image};
use crate::paging::{self, Region, Ring};

/// Why a program and the memory asked for do not go together.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SizeError {
    /// Not a size of memory that a district can have.
    #[error(
        "memory of {0} bytes: a multiple of {PAGE_SIZE} from {min} to {max} is needed",
        min = RAM_SIZE_MIN, max = RAM_SIZE_MAX
    )]
    Memory(u64),
    /// Not a size of window that a district can have.
    #[error(
        "window of {0} bytes: a multiple of {PAGE_SIZE} from {min} to {max} is needed",
        min = WINDOW_SIZE_MIN, max = WINDOW_SIZE_MAX
    )]
    Window(u64),
    /// The program does not fit.
    #[error("the program needs {needed} bytes of memory, stack included; {given} were asked for")]
    TooSmall {
        /// Bytes asked for.
        given: u64,
        /// Fewest bytes that would do.
        needed: u64,
    },
}

/// The address space of one district. Virtual and physical addresses are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressSpace {
    /// RAM, page tables included.
    pub ram: Range<u64>,
    /// The window.
    pub window: Range<u64>,
    /// The program's stack.
    pub stack: Range<u64>,
    /// The program's heap.
    pub heap: Range<u64>,
    /// The page tables, of which the first is the root.
    pub tables: Range<u64>,
    program: Vec<Region>,
}

impl AddressSpace {
    /// Lays out `memory` bytes of RAM and `window` bytes of window for a program.
    pub fn new(image: &Image, memory: u64, window: u64) -> Result<Self, SizeError> {
        if !memory.is_multiple_of(PAGE_SIZE) || !(RAM_SIZE_MIN..=RAM_SIZE_MAX).contains(&memory) {
            return Err(SizeError::Memory(memory));
        }
        if !window.is_multiple_of(PAGE_SIZE) || !(WINDOW_SIZE_MIN..=WINDOW_SIZE_MAX).contains(&window) {
            return Err(SizeError::Window(window));
        }
        let stack_base = image.end() + PAGE_SIZE;
        let stack = stack_base..stack_base + STACK_SIZE;
        let heap_base = stack.end + PAGE_SIZE;
        let mut space = Self {
            ram: RAM_BASE..RAM_BASE + memory,
            window: WINDOW_BASE..WINDOW_BASE + window,
            stack,
            heap: heap_base..heap_base + PAGE_SIZE,
            tables: 0..0,
            program: program(image),
        };
        let fewest = space.tables_needed() * PAGE_SIZE;
        let needed = (space.heap.end - RAM_BASE + fewest).max(RAM_SIZE_MIN);
        if needed > memory {
            return Err(SizeError::TooSmall { given: memory, needed });
        }
        // A longer heap may need more tables, which make it shorter; there is always one page of heap, as just seen.
        space.heap.end = space.ram.end - fewest;
        space.heap.end = (space.ram.end - space.tables_needed() * PAGE_SIZE).max(heap_base + PAGE_SIZE);
        space.tables = space.heap.end..space.ram.end;
        Ok(space)
    }

    fn tables_needed(&self) -> u64 {
        paging::tables_needed(&self.regions())
    }

    /// Everything that is mapped, in ascending order. The page tables are not: the processor finds them without.
    pub(crate) fn regions(&self) -> Vec<Region> {
        let region = |addresses, access, ring| Region { addresses, access, ring };
        let mut regions = vec![
            region(DEVICE_BASE..DEVICE_BASE + DEVICE_SIZE, Access::ReadWrite, Ring::Three),
            region(self.window.clone(), Access::ReadWrite, Ring::Three),
            // The processor only reads descriptor tables and the task state segment, and so does everybody else.
            region(GDT_BASE..SHIM_BASE, Access::Read, Ring::Zero),
            region(SHIM_BASE..SHIM_STACK_BASE, Access::ReadExecute, Ring::Zero),
            region(SHIM_STACK_BASE..SHIM_STACK_TOP, Access::ReadWrite, Ring::Zero),
            region(BOOT_PAGE..BOOT_PAGE + PAGE_SIZE, Access::Read, Ring::Three),
        ];
        regions.extend_from_slice(&self.program);
        regions.push(region(self.stack.clone(), Access::ReadWrite, Ring::Three));
        regions.push(region(self.heap.clone(), Access::ReadWrite, Ring::Three));
        regions
    }
}

/// The pages of the program's segments; segments that share a page have the same access and become one region.
fn program(image: &Image) -> Vec<Region> {
    let mut regions: Vec<Region> = Vec::new();
    for segment in &image.segments {
        let pages = segment.pages();
        match regions.last_mut() {
            Some(last) if last.addresses.end > pages.start => last.addresses.end = pages.end,
            _ => regions.push(Region { addresses: pages, access: segment.access, ring: Ring::Three }),
        }
    }
    regions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Ram;
    use crate::tests::elf::{EXECUTE, Elf, READ, WRITE};
    use district_protocol::layout::PROGRAM_BASE;

    fn image(size: u64) -> Image {
        let elf = Elf::new(PROGRAM_BASE).segment(PROGRAM_BASE, READ | EXECUTE, &[0x90]).larger_segment(
            PROGRAM_BASE + 0x1000,
            READ | WRITE,
            &[1],
            size,
        );
        Image::read(&elf.file()).unwrap()
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn sizes_are_checked() {
        let image = image(0x1000);
        for memory in [0, MIB - 0x1000, MIB + 1, RAM_SIZE_MAX + 0x1000, u64::MAX] {
            assert_eq!(AddressSpace::new(&image, memory, MIB), Err(SizeError::Memory(memory)));
        }
        for window in [0, (256 << 10) - 0x1000, MIB + 1, WINDOW_SIZE_MAX + 0x1000, u64::MAX] {
            assert_eq!(AddressSpace::new(&image, MIB, window), Err(SizeError::Window(window)));
        }
    }

    #[test]
    fn a_program_that_is_too_large_says_how_much_it_needs() {
        for size in [MIB, 3 * MIB, 64 * MIB, 1 << 30, RAM_SIZE_MAX / 2] {
            let image = image(size);
            let Err(SizeError::TooSmall { given, needed }) = AddressSpace::new(&image, MIB, MIB) else {
                panic!("{size:#x} fits")
            };
            assert_eq!(given, MIB);
            assert!(AddressSpace::new(&image, needed - PAGE_SIZE, MIB).is_err(), "less does not do");
            let space = AddressSpace::new(&image, needed, MIB).unwrap();
            assert!(space.heap.end - space.heap.start >= PAGE_SIZE);
        }
    }

    /// Every byte is in its place, once, and the tables fit exactly what is set aside for them.
    #[test]
    fn regions_are_in_order_and_the_tables_suffice() {
        for (memory, window, size) in [
            (MIB, 256 << 10, 0x1000),
            (MIB, MIB, 0x5_0000),
            (2 * MIB, 2 * MIB, 0x1000),
            (3 * MIB - 0x1000, 3 * MIB + 0x1000, 0x1000),
            (64 * MIB, 256 * MIB, 0x20_0000),
            (1 << 30, 2 * MIB, 0x1000),
            (3 << 30, 2 * MIB, 0x4000_0000),
            (RAM_SIZE_MAX, 2 * MIB, 0x1000),
        ] {
            let space = AddressSpace::new(&image(size), memory, window).unwrap();
            let regions = space.regions();
            for pair in regions.windows(2) {
                assert!(pair[0].addresses.end <= pair[1].addresses.start, "{pair:x?}");
            }
            assert_eq!(space.tables.end, RAM_BASE + memory);
            assert_eq!(space.heap.end, space.tables.start);
            let ram = Ram::new(memory).unwrap();
            paging::write(&ram, &space.tables, &regions).unwrap();
            // One page less would not do, but for the one that a shorter heap may have saved.
            let less = space.tables.start..space.tables.end - 2 * PAGE_SIZE;
            let ram = Ram::new(memory).unwrap();
            assert!(paging::write(&ram, &less, &regions).is_err(), "{memory:#x}");
        }
    }
}
