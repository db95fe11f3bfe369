//! The daemon's interface: what travels between a command, the API server and the event loop (`docs/api.md`).
//!
//! A request comes in over the Unix socket at [`server`], becomes a [`command::Command`] in the event loop's
//! [`mailbox`], and is answered through the reply channel in it. [`client`] is the other end of the socket. Everything
//! that the server hands to the loop has been checked by the types here: a [`spec::Spec`] that came over the socket
//! obeys the same [`rules`] as one from a manifest.

pub mod client;
pub mod command;
pub mod event;
pub mod feed;
pub mod info;
pub mod mailbox;
pub mod milliseconds;
pub mod name;
pub mod refusal;
pub mod right_names;
pub mod routes;
pub mod rules;
pub mod server;
pub mod snapshot;
pub mod spec;
pub mod stream;

/// Most bytes in the body of one request.
pub const BODY_MAX: usize = 1 << 20;
