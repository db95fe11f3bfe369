//! What a life begins from: a program's file, or a checkpoint of an earlier life.

use std::fs::File;
use std::io;

use district_checkpoint::{Content, Restore};
use district_protocol::layout::{GDT_BASE, PAGE_SIZE, RAM_BASE, SHIM_STACK_TOP};
use thiserror::Error;

use crate::address_space::AddressSpace;
use crate::control::Start;
use crate::cpuid::Cpuid;
use crate::dirty::DirtyPages;
use crate::loader::Image;
use crate::machine::BuildError;
use crate::memory::Ram;
use crate::state::{Layout, MachineState, StateError};
use crate::{paging, tables};

/// Why a checkpoint is not restored.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// Its files.
    #[error(transparent)]
    Store(#[from] district_checkpoint::Error),
    /// The host.
    #[error("its image cannot be mapped: {0}")]
    File(io::Error),
    /// Its state.
    #[error(transparent)]
    State(#[from] StateError),
    /// It is larger or smaller than the district is now.
    #[error("it has {checkpoint} bytes of {what}, and {asked} are asked for; restore it with as many as it has")]
    Size {
        /// Memory or window.
        what: &'static str,
        /// What it has.
        checkpoint: u64,
        /// What the district is to have.
        asked: u64,
    },
}

fn same_size(what: &'static str, checkpoint: u64, asked: u64) -> Result<(), RestoreError> {
    if checkpoint == asked { Ok(()) } else { Err(RestoreError::Size { what, checkpoint, asked }) }
}

fn check_end(end: u64, cpuid: &Cpuid) -> Result<(), BuildError> {
    if end > cpuid.physical_end() { Err(BuildError::TooFar(end, cpuid.physical_end())) } else { Ok(()) }
}

/// The files that a life begins from.
#[derive(Debug)]
pub enum Origin {
    /// A program, with fresh memory.
    Program(File),
    /// A checkpoint: [`Start::generation`].
    Checkpoint {
        /// The lineage's image, if it has one.
        image: Option<File>,
        /// Whether all of the image is to be checked.
        verify: bool,
        /// The segments of its log, in order.
        segments: Vec<File>,
    },
}

/// Memory, before the boot page is written and the guest's own.
pub(crate) struct Memory {
    pub(crate) ram: Ram,
    pub(crate) layout: Layout,
    /// What the guest has not written itself and no checkpoint holds.
    pub(crate) written: DirtyPages,
    pub(crate) begins: Begins,
}

/// Where the processor begins.
pub(crate) enum Begins {
    /// At a program's first instruction.
    At(u64),
    /// In the middle.
    In(Box<MachineState>),
}

/// What memory is going to be filled with.
pub(crate) enum Source {
    Program { file: File, image: Image, space: AddressSpace },
    Checkpoint { restore: Restore<File>, state: Box<MachineState>, verify: bool },
}

impl Source {
    /// Finds out what memory there is to be, and maps it.
    pub(crate) fn map(start: &Start, cpuid: &Cpuid, origin: Origin) -> Result<(Self, Ram), BuildError> {
        match origin {
            Origin::Program(file) => {
                let image = Image::read(&file)?;
                let space = AddressSpace::new(&image, start.memory, start.window)?;
                check_end(space.ram.end, cpuid)?;
                Ok((Source::Program { file, image, space }, Ram::new(start.memory)?))
            }
            Origin::Checkpoint { image, verify, segments } => {
                let for_mapping = image.as_ref().map(File::try_clone).transpose().map_err(RestoreError::File)?;
                let restore = Restore::plan(image, segments, start.generation).map_err(RestoreError::from)?;
                same_size("memory", restore.memory_size(), start.memory)?;
                let state = MachineState::decode(restore.state(), start.memory).map_err(RestoreError::from)?;
                let missing = state.cpuid.beyond(cpuid);
                if !missing.is_empty() {
                    return Err(RestoreError::from(StateError::Features(missing)).into());
                }
                same_size("window", state.layout.window, start.window)?;
                check_end(state.layout.tables.end, cpuid)?;
                let ram = match (for_mapping, restore.pages_offset()) {
                    (Some(image), Some(offset)) => Ram::map(start.memory, image, offset)?,
                    _ => Ram::new(start.memory)?,
                };
                Ok((Source::Checkpoint { restore, state: Box::new(state), verify }, ram))
            }
        }
    }

    /// Fills memory.
    pub(crate) fn fill(self, start: &Start, ram: Ram) -> Result<Memory, BuildError> {
        match self {
            Source::Program { file, image, space } => load(start, ram, &file, &image, &space),
            Source::Checkpoint { restore, state, verify } => {
                if verify {
                    restore.verify_image(&mut |_, _| ()).map_err(RestoreError::from)?;
                }
                apply(start, ram, &restore, state)
            }
        }
    }
}

fn load(start: &Start, ram: Ram, file: &File, image: &Image, space: &AddressSpace) -> Result<Memory, BuildError> {
    image.load(file, &ram)?;
    tables::write(&ram)?;
    paging::write(&ram, &space.tables, &space.regions())?;
    let mut written = DirtyPages::none(start.memory);
    for segment in &image.segments {
        written.add(&segment.pages());
    }
    written.add(&(GDT_BASE..SHIM_STACK_TOP));
    written.add(&space.tables);
    Ok(Memory { ram, layout: Layout::of(space), written, begins: Begins::At(image.entry) })
}

fn apply(start: &Start, ram: Ram, restore: &Restore<File>, state: Box<MachineState>) -> Result<Memory, BuildError> {
    let put = |page: u64, content: Content<'_>| {
        let address = RAM_BASE.saturating_add(page.saturating_mul(PAGE_SIZE));
        match content {
            Content::Data(bytes) => ram.write(address, bytes),
            Content::Zero(count) => ram.clear(address, count.saturating_mul(PAGE_SIZE)),
        }
        .map_err(io::Error::other)
    };
    restore.apply(&mut |page, content| put(page, content)).map_err(RestoreError::from)?;
    let layout = state.layout.clone();
    Ok(Memory { ram, layout, written: DirtyPages::none(start.memory), begins: Begins::In(state) })
}
