//! A district's only device, seen from the host: the channel.
//!
//! The device is split over two processes, so that neither has to trust the other with more than it needs:
//!
//! * The **vmm process** decodes the virtio-mmio registers ([`Registers`]) that the guest writes, and hands the two
//!   queues on over vhost-user ([`frontend::activate`]). It never looks at a frame.
//! * The **daemon** takes them over ([`Backend`]) and works on the queues ([`Channel`]) in the window, the only guest
//!   memory it maps ([`Window`]). It never sees a register.
//!
//! Both the guest and the vmm process are hostile to the daemon. Whatever they break ends their own session with a
//! [`ChannelError`] and nothing else: no input makes this crate panic, block, loop without bound or touch memory outside
//! the window. It knows bytes and frames' headers, no keys, and no KVM.
//!
//! With the feature `driver` there is also the guest's end of the queues (`driver::Driver`), for tests and fuzzing.

#![forbid(unsafe_code)]

pub mod frontend;

mod backend;
mod channel;
mod delivery_queue;
#[cfg(any(test, feature = "driver"))]
pub mod driver;
mod error;
mod handshake;
mod registers;
mod request_queue;
mod ring;
mod setup;
mod window;

pub use backend::{Backend, Progress};
pub use channel::Channel;
pub use error::{ChannelError, RingFault};
pub use registers::{Action, Registers};
pub use request_queue::RawRequest;
pub use setup::{ChannelSetup, QueueSetup, SetupError};
pub use window::{Window, WindowError};
