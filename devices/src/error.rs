//! Why a session ends.

use std::io;

use crate::setup::SetupError;

/// Why the daemon cannot go on with a district's channel. Whichever it is, that session is over and the [`crate::Channel`]
/// and [`crate::Backend`] are to be dropped; the variants differ in whose doing it was.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// Nobody's fault: the guest has reset its device, or the vmm process has ended.
    #[error("the vmm process closed the channel")]
    Closed,
    /// The vmm process broke the rules of vhost-user, or of what this device allows of it.
    #[error("handshake: {0}")]
    Handshake(#[source] vhost::vhost_user::Error),
    /// The guest's queues cannot be used, which an honest vmm process would not have passed on.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The guest broke the rules of its queues: the district's device error.
    #[error("queue {queue}: {fault}")]
    Ring {
        /// Index of the queue.
        queue: u16,
        /// What it did.
        fault: RingFault,
    },
    /// The caller completed a chain that is not outstanding. Nothing has changed.
    #[error("chain {0} is not outstanding")]
    NotOutstanding(u16),
    /// The caller wants to deliver more data than a frame can have. Nothing has changed.
    #[error("{0} bytes of data in one delivery")]
    TooLong(usize),
    /// The host failed; the operating system's answer is the source.
    #[error("{doing}")]
    Host {
        /// What was tried.
        doing: &'static str,
        /// The answer.
        #[source]
        source: io::Error,
    },
}

/// How a guest broke the rules of a split queue (virtio 1.2, section 2.7) or of the frames in it.
#[derive(Debug, thiserror::Error)]
pub enum RingFault {
    /// The available index is more than the queue's size ahead, or went backwards.
    #[error("available index jumped")]
    AvailableIndex,
    /// A chain begins or goes on with a descriptor that does not exist.
    #[error("descriptor {0} is out of range")]
    DescriptorRange(u16),
    /// A chain uses a descriptor that it already has, or that another chain has which the device still holds.
    #[error("descriptor {0} is already in use")]
    DescriptorInUse(u16),
    /// A descriptor asks for what was not negotiated, such as an indirect table.
    #[error("descriptor {index} has flags {flags:#x}")]
    DescriptorFlags {
        /// Its index.
        index: u16,
        /// Its flags.
        flags: u16,
    },
    /// A descriptor's buffer is not inside the window.
    #[error("descriptor {index}: {len} bytes at {address:#x} are outside the window")]
    Address {
        /// Its index.
        index: u16,
        /// Guest address of the buffer.
        address: u64,
        /// Length of the buffer in bytes.
        len: u32,
    },
    /// The buffers of a chain are more than 4 GiB in total (virtio 1.2, section 2.7.5.2).
    #[error("chain {0} is longer than 4 GiB")]
    ChainLength(u16),
    /// A readable buffer comes after a writable one.
    #[error("descriptor {0} is readable and follows a writable one")]
    Order(u16),
    /// A request is longer than any frame.
    #[error("request of {0} bytes")]
    RequestLength(u32),
    /// A request leaves too little room for its completion.
    #[error("room of {0} bytes for a completion")]
    CompletionRoom(u32),
    /// A buffer for deliveries is too small, or has a readable part.
    #[error("delivery buffer of {writable} writable and {readable} readable bytes")]
    DeliveryBuffer {
        /// Bytes that the device may write.
        writable: u32,
        /// Bytes that it may not.
        readable: u32,
    },
    /// Memory that was checked to be in the window could not be used after all.
    #[error("{0}")]
    Memory(String),
}
