//! What a checkpoint holds beside memory: the processor's state, the features that the program may be using, and where
//! its memory was laid out (`docs/checkpoint-format.md`, section "State").
//!
//! Not in it is what ring 3 cannot change and every machine has alike: control registers but CR2, descriptor-table
//! registers, the hidden parts of segment registers, model-specific registers but the two segment bases. A restore sets
//! these as a start does ([`crate::registers`]), so nothing from disk decides over them. The device is not in it either: its
//! connections are not persistent.
//!
//! A state from disk is [`MachineState::decode`]d, which checks all that can be checked without KVM, before anything is
//! done with it.

mod layout;
mod processor;
pub(crate) mod sections;

use kvm_ioctls::VcpuFd;
use thiserror::Error;

use crate::cpuid::Cpuid;
use crate::registers::RegisterError;
pub(crate) use layout::Layout;
pub(crate) use processor::Processor;
use sections::{Reader, Writer};

/// Why a state is not used.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateError {
    /// Written by a version of this program that this one does not know.
    #[error(
        "piece {kind} of the state has version {found}, this program knows version {known}; use the version that wrote it"
    )]
    Version {
        /// Which piece.
        kind: u32,
        /// Its version.
        found: u32,
        /// The one that can be read.
        known: u32,
    },
    /// Cut off, too long, or with pieces that do not belong.
    #[error("the state is damaged: {0}")]
    Damaged(&'static str),
    /// A register has a value that no program can bring about.
    #[error("the state is not that of a district: {what} is {value:#x}")]
    Impossible {
        /// The register.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// The checkpoint was taken where the program saw features that this processor does not have.
    #[error("this host's processor lacks {}, which the district's program saw when the checkpoint was taken; restore it on a host that has them", .0.join(", "))]
    Features(Vec<&'static str>),
}

/// State of a district at one instant.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MachineState {
    pub(crate) processor: Processor,
    pub(crate) cpuid: Cpuid,
    pub(crate) layout: Layout,
}

impl MachineState {
    /// Reads it from a vCPU that is not running and has no operation under way.
    pub(crate) fn save(vcpu: &VcpuFd, cpuid: &Cpuid, layout: &Layout) -> Result<Self, RegisterError> {
        Ok(Self { processor: Processor::save(vcpu)?, cpuid: cpuid.clone(), layout: layout.clone() })
    }

    /// As a checkpoint holds it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        self.processor.encode(&mut writer);
        self.cpuid.encode(&mut writer);
        self.layout.encode(&mut writer);
        writer.finish()
    }

    /// Checks what a checkpoint holds; `memory` is the size of its RAM in bytes.
    pub(crate) fn decode(bytes: &[u8], memory: u64) -> Result<Self, StateError> {
        let mut reader = Reader::new(bytes);
        let state = Self {
            processor: Processor::decode(&mut reader)?,
            cpuid: Cpuid::decode(&mut reader)?,
            layout: Layout::decode(&mut reader, memory)?,
        };
        reader.finish()?;
        Ok(state)
    }
}
