//! Where a program's memory was laid out; what a start computes from the program's file, and a restore has no file for.

use std::ops::Range;

use district_protocol::layout::{PAGE_SIZE, PROGRAM_BASE, RAM_BASE, WINDOW_BASE, WINDOW_SIZE_MAX, WINDOW_SIZE_MIN};

use super::StateError;
use super::sections::{Reader, Section, Writer};
use crate::address_space::AddressSpace;

const SECTION: Section = Section { kind: 3, version: 1 };

/// The parts of an [`AddressSpace`] that the host needs while the program runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Bytes of window.
    pub(crate) window: u64,
    pub(crate) stack: Range<u64>,
    pub(crate) heap: Range<u64>,
    /// The page tables, the root first, to the end of RAM.
    pub(crate) tables: Range<u64>,
}

impl Layout {
    pub(crate) fn of(space: &AddressSpace) -> Self {
        let AddressSpace { window, stack, heap, tables, .. } = space;
        Self { window: window.end - window.start, stack: stack.clone(), heap: heap.clone(), tables: tables.clone() }
    }

    /// Addresses of the window.
    pub(crate) fn window(&self) -> Range<u64> {
        WINDOW_BASE..WINDOW_BASE + self.window
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        let Self { window, stack, heap, tables } = self;
        let words = [*window, stack.start, stack.end, heap.start, heap.end, tables.start, tables.end];
        writer.section(SECTION, &words.map(u64::to_le_bytes).concat());
    }

    pub(super) fn decode(reader: &mut Reader<'_>, memory: u64) -> Result<Self, StateError> {
        let mut content = reader.section(SECTION)?;
        let mut range = || Ok(content.u64()?..content.u64()?);
        let Range { start: window, end: stack_start } = range()?;
        let Range { start: stack_end, end: heap_start } = range()?;
        let Range { start: heap_end, end: tables_start } = range()?;
        let tables = tables_start..content.u64()?;
        content.finish()?;
        let layout = Self { window, stack: stack_start..stack_end, heap: heap_start..heap_end, tables };
        layout.check(memory)?;
        Ok(layout)
    }

    /// In whole pages, in this order, inside of RAM and up to its end.
    fn check(&self, memory: u64) -> Result<(), StateError> {
        let Self { window, stack, heap, tables } = self;
        let order = [PROGRAM_BASE, stack.start, stack.end, heap.start, heap.end, tables.start, tables.end];
        let in_order = order.windows(2).all(|pair| pair[0] <= pair[1]) && tables.start < tables.end;
        let in_pages = order.iter().chain([window]).all(|address| address.is_multiple_of(PAGE_SIZE));
        let end = RAM_BASE.checked_add(memory);
        if !in_order || !in_pages || Some(tables.end) != end {
            return Err(StateError::Damaged("its memory is laid out like no district's"));
        }
        if !(WINDOW_SIZE_MIN..=WINDOW_SIZE_MAX).contains(window) {
            return Err(StateError::Impossible { what: "the size of the window", value: *window });
        }
        Ok(())
    }
}
