//! How the life of a guest ended.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The end of a guest's life, as its vmm process reports it. All numbers and the message come from the guest and mean
/// nothing to the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// The program asked for it ([`district_protocol::shim::EXIT`]).
    Exit {
        /// Its exit code.
        code: u8,
        /// Its last words; what was not UTF-8 is replaced.
        message: String,
    },
    /// The processor stopped the program.
    Fault(Fault),
    /// The daemon asked for it.
    Stopped,
    /// The vmm process could not start the guest or go on with it.
    Failed {
        /// What went wrong, for people.
        error: String,
    },
}

/// A processor exception in ring 3 that ended a program (Intel SDM volume 3, chapter 6; AMD64 manual volume 2, 8.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Exception vector; 3 is a shim call with an unknown number.
    pub vector: u8,
    /// Error code, 0 for vectors without one.
    pub error_code: u64,
    /// Address of the instruction, or the one after it (traps).
    pub rip: u64,
    /// Stack pointer at that moment.
    pub rsp: u64,
    /// Address of the access for vector 14 (page fault); otherwise whatever was left there.
    pub cr2: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { vector, error_code, rip, rsp, cr2 } = self;
        let name = NAMES.get(usize::from(*vector)).copied().unwrap_or("exception");
        write!(f, "{name} (vector {vector}, error code {error_code:#x}) at rip {rip:#x}, rsp {rsp:#x}")?;
        if *vector == PAGE_FAULT { write!(f, ", address {cr2:#x}") } else { Ok(()) }
    }
}

/// Vector of the page fault.
const PAGE_FAULT: u8 = 14;
/// Names of the vectors (Intel SDM volume 3, table 6-1); 3 is what the shim uses itself.
const NAMES: [&str; 22] = [
    "division error",
    "debug exception",
    "non-maskable interrupt",
    "unknown shim call",
    "overflow",
    "bound range exceeded",
    "invalid instruction",
    "no device",
    "double fault",
    "coprocessor segment overrun",
    "invalid task state segment",
    "segment not present",
    "stack fault",
    "general protection fault",
    "page fault",
    "reserved exception",
    "floating-point error",
    "alignment check",
    "machine check",
    "simd floating-point error",
    "virtualization exception",
    "control protection exception",
];
