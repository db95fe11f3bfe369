//! Everything put together. Mostly districts as they really are: microVMs, vmm processes, a daemon and the command.
//! Beside them the API and the command line, as far as they go without KVM; what else needs none is tested in the crates.
//! Names that begin with a number are those of `docs/conformance.md`.

// Helpers of tests fail by panicking, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api;
mod boot;
mod channel;
mod cli;
mod crash;
mod damage;
mod dice;
mod durability;
mod hostile;
mod keys;
mod memory;
mod processes;
mod recovery;
mod restart;
mod restore;
mod signals;
mod snapshots;
mod support;
mod torture;
mod transfer;
