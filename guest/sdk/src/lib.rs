//! Programs for districts.
//!
//! A program is `no_std`, names its main function with [`entry!`], and links as `guest/programs/build.rs` shows:
//!
//! ```text
//! #![no_std]
//! #![no_main]
//!
//! district_sdk::entry!(main);
//!
//! fn main() -> Result<(), district_sdk::Error> {
//!     let counter = Directory::bootstrap().lookup("counter")?;
//!     let reply = counter.call(1, b"").timeout(Duration::from_secs(1)).wait()?;
//!     district_sdk::log!("the counter says {}", reply.result);
//!     Ok(())
//! }
//! ```
//!
//! A district begins with one key, [`Directory::bootstrap`], and is single-threaded: everything here blocks by parking
//! the district, and nothing happens behind the program's back. Whatever ends a connection to the broker (the district
//! was restored from a checkpoint, or the broker was replaced) breaks all other keys; they then answer
//! [`Error::Broken`], calls under way end as [`Error::Unknown`], and [`next_event`] reports [`Event::Lost`] once. The
//! next use of the bootstrap key connects again.
//!
//! Programs that are restored:
//!
//! * [`Link`] is a key that finds its way back by its name, and repeats calls where that is safe;
//! * [`restart::on_restart`] runs a function once after each restore, [`restart::count`] counts them;
//! * [`checkpoint::commit`] returns when the memory is durable, or in the life that begins from it;
//! * [`Rng`] draws numbers that no two lives have in common.
//!
//! A restore may fall between any two instructions of the program. That is why everything that the host can change
//! under it, the boot page and the window, is read in the order that `boot` and `channel` describe.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod boot;
mod channel;
pub mod checkpoint;
#[cfg(not(test))]
mod entry;
mod error;
#[cfg(not(test))]
mod heap;
mod invocation;
mod key;
mod link;
mod log;
#[cfg(not(test))]
mod machine;
#[cfg(test)]
#[path = "mock_machine.rs"]
mod machine;
mod memory;
mod objects;
mod one_thread;
mod outcome;
pub mod restart;
mod rng;
mod serve;
pub mod time;

pub use district_protocol as protocol;
pub use district_protocol::handle::Handle;
pub use district_protocol::operation::KeyKind;
pub use district_protocol::rights::Rights;
pub use district_protocol::status::{Argument, Quota, Reason};

#[cfg(not(test))]
pub use entry::{exit, panic, start};
pub use error::Error;
#[cfg(not(test))]
pub use heap::Heap;
pub use invocation::{Invocation, Reply, Ticket, TicketId};
pub use key::{Derive, Key};
pub use link::{Link, LinkCall};
pub use log::write as write_log;
pub use objects::{Clock, Directory, DirectoryEntry, Number, Random};
pub use outcome::Outcome;
pub use rng::Rng;
pub use serve::{Event, Message, export, next_event, notifier, publish};
