//! Districts as they really are: microVMs, vmm processes, a daemon and the command. What needs no KVM is tested in the
//! crates. Names that begin with a number are those of `docs/conformance.md`.

// Helpers of tests fail by panicking, as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod boot;
mod channel;
mod crash;
mod hostile;
mod keys;
mod restart;
mod support;
mod torture;
