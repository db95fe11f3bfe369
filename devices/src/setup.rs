//! Where the driver has put the two queues. The register block checks it before it activates the device, so that a
//! driver's mistake shows in the device status; the daemon checks it again, because the vmm process may not be honest.

use district_protocol::channel::{QUEUE_COUNT, QUEUE_SIZE_MAX};
use district_protocol::layout::WINDOW_BASE;

/// One split queue (virtio 1.2, section 2.7), as its driver describes it. Not trusted before [`ChannelSetup::check`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueSetup {
    /// Descriptors in the queue.
    pub size: u16,
    /// Guest address of the descriptor table.
    pub descriptors: u64,
    /// Guest address of the available ring.
    pub driver_area: u64,
    /// Guest address of the used ring.
    pub device_area: u64,
}

/// Both queues of the channel, by queue index. Not trusted before [`ChannelSetup::check`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChannelSetup {
    /// The request queue, then the delivery queue.
    pub queues: [QueueSetup; QUEUE_COUNT as usize],
}

/// What is wrong with a queue's place or size: a mistake of the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// Not a power of two, or more than the device can do.
    #[error("queue {queue}: size {size} is not a power of two up to {QUEUE_SIZE_MAX}")]
    Size {
        /// Index of the queue.
        queue: u16,
        /// What the driver asked for.
        size: u16,
    },
    /// Outside of the window, or not aligned as virtio 1.2, section 2.7, wants it.
    #[error("queue {queue}: {area} at {address:#x} is misaligned or outside the window")]
    Area {
        /// Index of the queue.
        queue: u16,
        /// Which of its three areas.
        area: &'static str,
        /// Where the driver wants it to be.
        address: u64,
    },
}

impl ChannelSetup {
    /// Checks that a device with a window of `window_size` bytes can use these queues. Areas that overlap are the
    /// driver's own trouble and pass: everything read from them is checked when it is used.
    pub fn check(&self, window_size: u64) -> Result<(), SetupError> {
        self.queues.iter().zip(0..QUEUE_COUNT).try_for_each(|(setup, queue)| setup.check(queue, window_size))
    }
}

impl QueueSetup {
    fn check(&self, queue: u16, window_size: u64) -> Result<(), SetupError> {
        let size = self.size;
        if !size.is_power_of_two() || size > QUEUE_SIZE_MAX {
            return Err(SetupError::Size { queue, size });
        }
        // Length and alignment of each area: virtio 1.2, section 2.7; the rings end with the two bytes of EVENT_IDX.
        let entries = u64::from(size);
        for (area, address, bytes, alignment) in [
            ("descriptor table", self.descriptors, 16 * entries, 16),
            ("available ring", self.driver_area, 6 + 2 * entries, 2),
            ("used ring", self.device_area, 6 + 8 * entries, 4),
        ] {
            let end = address.checked_sub(WINDOW_BASE).and_then(|offset| offset.checked_add(bytes));
            if address % alignment != 0 || end.is_none_or(|end| end > window_size) {
                return Err(SetupError::Area { queue, area, address });
            }
        }
        Ok(())
    }
}
