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

/// Offsets in the device page of the registers, 32 bits each, little-endian (virtio 1.2, section 4.2.2).
pub mod register {
    /// `MagicValue`, read.
    pub const MAGIC_VALUE: u32 = 0x000;
    /// `Version`, read.
    pub const VERSION: u32 = 0x004;
    /// `DeviceID`, read.
    pub const DEVICE_ID: u32 = 0x008;
    /// `VendorID`, read.
    pub const VENDOR_ID: u32 = 0x00c;
    /// `DeviceFeatures`, read.
    pub const DEVICE_FEATURES: u32 = 0x010;
    /// `DeviceFeaturesSel`, written.
    pub const DEVICE_FEATURES_SELECT: u32 = 0x014;
    /// `DriverFeatures`, written.
    pub const DRIVER_FEATURES: u32 = 0x020;
    /// `DriverFeaturesSel`, written.
    pub const DRIVER_FEATURES_SELECT: u32 = 0x024;
    /// `QueueSel`, written: which queue the others are about.
    pub const QUEUE_SELECT: u32 = 0x030;
    /// `QueueNumMax`, read: in descriptors.
    pub const QUEUE_SIZE_MAX: u32 = 0x034;
    /// `QueueNum`, written: in descriptors.
    pub const QUEUE_SIZE: u32 = 0x038;
    /// `QueueReady`, read and written.
    pub const QUEUE_READY: u32 = 0x044;
    /// `QueueNotify`, written: the doorbell.
    pub const QUEUE_NOTIFY: u32 = 0x050;
    /// `InterruptStatus`, read.
    pub const INTERRUPT_STATUS: u32 = 0x060;
    /// `InterruptACK`, written.
    pub const INTERRUPT_ACKNOWLEDGE: u32 = 0x064;
    /// `Status`, read and written: bits of [`super::status`]; 0 resets the device.
    pub const STATUS: u32 = 0x070;
    /// `QueueDescLow`, written: guest address of the descriptor table.
    pub const QUEUE_DESCRIPTORS_LOW: u32 = 0x080;
    /// `QueueDescHigh`.
    pub const QUEUE_DESCRIPTORS_HIGH: u32 = 0x084;
    /// `QueueDriverLow`, written: guest address of the available ring.
    pub const QUEUE_DRIVER_LOW: u32 = 0x090;
    /// `QueueDriverHigh`.
    pub const QUEUE_DRIVER_HIGH: u32 = 0x094;
    /// `QueueDeviceLow`, written: guest address of the used ring.
    pub const QUEUE_DEVICE_LOW: u32 = 0x0a0;
    /// `QueueDeviceHigh`.
    pub const QUEUE_DEVICE_HIGH: u32 = 0x0a4;
    /// The configuration space, see [`super::config`].
    pub const CONFIG: u32 = 0x100;
}

/// Bits of [`register::STATUS`] (virtio 1.2, section 2.1).
pub mod status {
    /// The program has seen the device.
    pub const ACKNOWLEDGE: u32 = 1;
    /// and knows what to do with it.
    pub const DRIVER: u32 = 2;
    /// The queues are in use.
    pub const DRIVER_OK: u32 = 4;
    /// The features are agreed on.
    pub const FEATURES_OK: u32 = 8;
    /// `DEVICE_NEEDS_RESET`, set by the device: the session is over.
    pub const NEEDS_RESET: u32 = 64;
    /// The program gives up on the device.
    pub const FAILED: u32 = 128;
}

/// The device's configuration space, from [`register::CONFIG`] on, little-endian, read-only.
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
