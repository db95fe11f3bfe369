//! One district on KVM, and the process around it.
//!
//! [`process::run`] is the whole of a vmm process: it waits for a daemon on a socket that it inherited, builds the
//! machine that the daemon's [`control::Start`] describes, jails itself, and runs the guest until the guest ends. The
//! daemon's half of that conversation is [`control::DaemonEnd`]; [`features`] says, once per host, whether the host can
//! run districts at all and which processor they see.
//!
//! A guest is a program in ring 3, under a page of ring-0 code (`shim`), in an address space that is fixed before its
//! first instruction ([`address_space`], `paging`). Everything that comes from it (registers, memory, device
//! accesses, its ELF file) is hostile. Whatever it does ends in a [`report::Ended`], never in a panic of this process.
//!
//! Nothing here knows a key or sees a frame: the queues' backend is the broker, over vhost-user.

pub mod address_space;
mod boot_page;
mod channel;
mod checkpoint;
pub mod clock;
pub mod control;
pub mod cpuid;
mod dirty;
pub mod features;
mod jail;
mod kick;
pub mod loader;
pub mod machine;
mod memory;
pub mod origin;
mod paging;
mod pause;
pub mod process;
mod registers;
pub mod report;
mod shim;
mod state;
mod tables;
mod vcpu;
mod warm_up;

#[cfg(test)]
mod tests;
