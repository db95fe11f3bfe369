//! The key broker: who may say what to whom (`docs/design.md`; the meaning of every rule is in `semantics.md`).
//!
//! [`Core`] is a deterministic state machine without I/O. The shell around it, the daemon, gives it what happened (a
//! session began or ended, a request came, time has passed) together with the time, and carries out the [`Effect`]s
//! that it asks for. The same inputs give the same effects, on any machine and at any time: nothing here reads a clock,
//! a random number or the order of a hash table.
//!
//! Authority is only in keys. A key is a record here (`key`); a guest has only its number, a handle, and a number is
//! nothing but a claim until the district's own table (`table`) says which key it names. No request carries the name
//! of its sender, and no delivery does.
//!
//! Where things are: `core` has what is common to all keys: sessions, requests, derivation, revocation, watches,
//! outcomes. `objects` has one file per kind of key with one `match` on the operation. [`supervisor`] is the restart
//! policy of one district, a state machine too.
//!
//! Memory: everything that a guest can make the broker store is under one of its [`Limits`]; records that outlive the
//! request which made them always hold on to a handle, an export, a watch, a call or queued bytes of somebody.

mod call;
mod core;
mod district;
mod effect;
mod key;
mod limits;
mod list;
mod message;
mod object;
mod objects;
mod service;
mod slab;
pub mod supervisor;
mod table;

pub use crate::core::Core;
pub use crate::core::checkpoint::{CheckpointTicket, NoCheckpoint};
pub use crate::core::deliver::Delivered;
pub use crate::core::inspect::{BindingView, CoreView, DistrictView, KeyState, KeyView, TargetView, Usage};
pub use crate::core::request::RawRequest;
pub use crate::district::{Attach, AttachError, Bootstrap, Counters, Grant, GrantTarget};
pub use crate::effect::{BindingRecord, Data, DistrictId, Effect};
pub use crate::limits::Limits;
