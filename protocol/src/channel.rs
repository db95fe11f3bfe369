//! The channel: one virtio-mmio device with two split queues (`docs/abi.md`, section 5; virtio 1.2, 4.2.2 and 2.7).

/// virtio `DeviceID` of the channel. The registry has none for it.
pub const DEVICE_ID: u32 = 0x4449;
/// virtio `VendorID`: `DIST` in ASCII, little-endian.
pub const VENDOR_ID: u32 = u32::from_le_bytes(*b"DIST");

/// Index of the queue that carries requests from the guest. Each chain: readable bytes, a request
/// ([`crate::frame::RequestHeader`], then data), followed by writable bytes, room for its completion.
pub const REQUEST_QUEUE: u16 = 0;
/// Index of the queue that carries deliveries to the guest. Each chain is writable only, at least
/// [`DELIVERY_BUFFER_MIN`] bytes.
pub const DELIVERY_QUEUE: u16 = 1;
/// Number of queues.
pub const QUEUE_COUNT: u16 = 2;
/// `QueueNumMax` of both queues, in descriptors.
pub const QUEUE_SIZE_MAX: u16 = 1024;

/// `VIRTIO_F_EVENT_IDX` (virtio 1.2, section 6), as a mask.
pub const FEATURE_EVENT_IDX: u64 = 1 << 29;
/// `VIRTIO_F_VERSION_1`, as a mask.
pub const FEATURE_VERSION_1: u64 = 1 << 32;
/// What the device offers. The driver must accept all of it.
pub const FEATURES: u64 = FEATURE_EVENT_IDX | FEATURE_VERSION_1;

/// Fewest bytes of one chain in the delivery queue.
pub const DELIVERY_BUFFER_MIN: usize = 256;

/// Offset in the window of the count of deliveries that the program has consumed in this session: a little-endian u64
/// that the guest writes, before it acts on a delivery. A delivery counts once, however many buffers it took. When the
/// district ends, what was delivered and not counted here ends `NotDelivered` at its sender.
pub const CONSUMED_OFFSET: u64 = 0;
/// Bytes at the start of the window that are not for queues or buffers.
pub const WINDOW_HEADER_SIZE: u64 = 64;

/// The device's configuration space (register offset 0x100), little-endian, read-only.
pub mod config {
    /// u32: [`crate::ABI_VERSION`].
    pub const ABI_VERSION: u64 = 0;
    /// u64: the district's epoch.
    pub const EPOCH: u64 = 8;
    /// u64: bytes of window.
    pub const WINDOW_SIZE: u64 = 16;
    /// Bytes of configuration space.
    pub const SIZE: u64 = 24;
}
