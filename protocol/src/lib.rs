//! The contract between a district and its host.
//!
//! Every number that a guest and the host must agree on lives here, once: where things are in guest memory
//! ([`layout`]), what the boot page says ([`boot`]), how ring 3 asks for what only ring 0 can do ([`shim`]), how the
//! virtio channel is laid out ([`channel`]), and what travels through it ([`frame`], [`operation`], [`status`],
//! [`rights`], [`handle`]). `docs/abi.md` says the same for people who write guests in other languages; assertions
//! beside each definition pin the numbers that it prints.
//!
//! The crate has no dependency and does not allocate. Everything that is decoded here comes from the other side and is
//! not trusted: decoding checks all fields or returns [`frame::FrameError`].

#![no_std]

pub mod boot;
pub mod channel;
pub mod frame;
pub mod handle;
pub mod layout;
pub mod operation;
pub mod rights;
pub mod shim;
pub mod status;

/// Version of everything in this crate. Host and guest must have the same one; it is in the ELF-independent places that
/// a guest can read before it uses anything else: the boot page and the device's configuration space.
pub const ABI_VERSION: u32 = 1;
