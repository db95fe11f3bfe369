//! The registers of the channel: virtio-mmio, version 2 (virtio 1.2, section 4.2.2).
//!
//! Only decoding, and the state that the driver can see; what a write asks for is returned as an [`Action`] and done by
//! whoever runs the vCPU. Accesses of another width or offset than a register has read as zero and write nothing, like
//! those that come at the wrong time: there is nothing a guest can write here that has to be an error.

use district_protocol::channel::status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, NEEDS_RESET};
use district_protocol::channel::{DEVICE_ID, FEATURES, QUEUE_COUNT, QUEUE_SIZE_MAX, VENDOR_ID, config, register};
use virtio_bindings::virtio_config::*;
use virtio_bindings::virtio_mmio::*;

use crate::setup::{ChannelSetup, QueueSetup};

/// `MagicValue`: `virt` in ASCII, little-endian (virtio 1.2, section 4.2.2).
const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// `Version` of devices that are not legacy.
const VERSION: u32 = 2;

/// What `docs/abi.md`, section 5.1, says is what virtio says.
const _: () = {
    let pairs = [
        (register::MAGIC_VALUE, VIRTIO_MMIO_MAGIC_VALUE),
        (register::VERSION, VIRTIO_MMIO_VERSION),
        (register::DEVICE_ID, VIRTIO_MMIO_DEVICE_ID),
        (register::VENDOR_ID, VIRTIO_MMIO_VENDOR_ID),
        (register::DEVICE_FEATURES, VIRTIO_MMIO_DEVICE_FEATURES),
        (register::DEVICE_FEATURES_SELECT, VIRTIO_MMIO_DEVICE_FEATURES_SEL),
        (register::DRIVER_FEATURES, VIRTIO_MMIO_DRIVER_FEATURES),
        (register::DRIVER_FEATURES_SELECT, VIRTIO_MMIO_DRIVER_FEATURES_SEL),
        (register::QUEUE_SELECT, VIRTIO_MMIO_QUEUE_SEL),
        (register::QUEUE_SIZE_MAX, VIRTIO_MMIO_QUEUE_NUM_MAX),
        (register::QUEUE_SIZE, VIRTIO_MMIO_QUEUE_NUM),
        (register::QUEUE_READY, VIRTIO_MMIO_QUEUE_READY),
        (register::QUEUE_NOTIFY, VIRTIO_MMIO_QUEUE_NOTIFY),
        (register::INTERRUPT_STATUS, VIRTIO_MMIO_INTERRUPT_STATUS),
        (register::INTERRUPT_ACKNOWLEDGE, VIRTIO_MMIO_INTERRUPT_ACK),
        (register::STATUS, VIRTIO_MMIO_STATUS),
        (register::QUEUE_DESCRIPTORS_LOW, VIRTIO_MMIO_QUEUE_DESC_LOW),
        (register::QUEUE_DESCRIPTORS_HIGH, VIRTIO_MMIO_QUEUE_DESC_HIGH),
        (register::QUEUE_DRIVER_LOW, VIRTIO_MMIO_QUEUE_AVAIL_LOW),
        (register::QUEUE_DRIVER_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_HIGH),
        (register::QUEUE_DEVICE_LOW, VIRTIO_MMIO_QUEUE_USED_LOW),
        (register::QUEUE_DEVICE_HIGH, VIRTIO_MMIO_QUEUE_USED_HIGH),
        (register::CONFIG, VIRTIO_MMIO_CONFIG),
        (ACKNOWLEDGE, VIRTIO_CONFIG_S_ACKNOWLEDGE),
        (DRIVER, VIRTIO_CONFIG_S_DRIVER),
        (DRIVER_OK, VIRTIO_CONFIG_S_DRIVER_OK),
        (FEATURES_OK, VIRTIO_CONFIG_S_FEATURES_OK),
        (NEEDS_RESET, VIRTIO_CONFIG_S_NEEDS_RESET),
        (FAILED, VIRTIO_CONFIG_S_FAILED),
    ];
    let mut index = 0;
    while index < pairs.len() {
        assert!(pairs[index].0 == pairs[index].1);
        index += 1;
    }
};

/// What a write asks the vmm process to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// The driver has reset the device: end the session, if there is one.
    Reset,
    /// The driver is ready: hand these queues, which are checked, to the daemon.
    Activate(ChannelSetup),
    /// The driver has rung the doorbell of the queue with this index. Only seen where no ioeventfd catches it.
    Notify(u16),
}

#[derive(Debug, Clone, Copy, Default)]
struct QueueRegisters {
    setup: QueueSetup,
    ready: bool,
}

/// The register block. Everything in it comes from the guest, save the first two fields.
#[derive(Debug, Clone)]
pub struct Registers {
    epoch: u64,
    window_size: u64,
    status: u32,
    interrupt_status: u32,
    device_features_selector: u32,
    driver_features_selector: u32,
    /// The first 64 feature bits that the driver accepts.
    accepted: u64,
    /// Whether the driver accepted any bit beyond these, of which the device offers none.
    accepted_more: bool,
    queue_selector: u32,
    queues: [QueueRegisters; QUEUE_COUNT as usize],
}

impl Registers {
    /// The registers of a device in reset, for a district in this epoch with a window of this many bytes.
    pub fn new(epoch: u64, window_size: u64) -> Registers {
        Registers {
            epoch,
            window_size,
            status: 0,
            interrupt_status: 0,
            device_features_selector: 0,
            driver_features_selector: 0,
            accepted: 0,
            accepted_more: false,
            queue_selector: 0,
            queues: Default::default(),
        }
    }

    /// The guest reads `data.len()` bytes at `offset` in the device page.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let value = match u32::try_from(offset) {
            Ok(register @ 0..register::CONFIG) if data.len() == 4 => self.register(register),
            Ok(register::CONFIG..) if data.len() == 4 => self.config(offset - u64::from(register::CONFIG)),
            _ => return data.fill(0),
        };
        data.copy_from_slice(&value.to_le_bytes());
    }

    fn register(&self, register: u32) -> u32 {
        match register {
            register::MAGIC_VALUE => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE_ID => DEVICE_ID,
            register::VENDOR_ID => VENDOR_ID,
            register::DEVICE_FEATURES => match self.device_features_selector {
                0 => low(FEATURES),
                1 => high(FEATURES),
                _ => 0,
            },
            register::QUEUE_SIZE_MAX if self.selected().is_some() => u32::from(QUEUE_SIZE_MAX),
            register::QUEUE_READY => self.selected().is_some_and(|queue| queue.ready).into(),
            register::INTERRUPT_STATUS => self.interrupt_status,
            register::STATUS => self.status,
            // No such region: length and base read as -1.
            VIRTIO_MMIO_SHM_LEN_LOW
            | VIRTIO_MMIO_SHM_LEN_HIGH
            | VIRTIO_MMIO_SHM_BASE_LOW
            | VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            // The configuration never changes during the life of a vmm process.
            VIRTIO_MMIO_CONFIG_GENERATION => 0,
            _ => 0,
        }
    }

    fn config(&self, offset: u64) -> u32 {
        const EPOCH_HIGH: u64 = config::EPOCH + 4;
        const WINDOW_SIZE_HIGH: u64 = config::WINDOW_SIZE + 4;
        match offset {
            config::ABI_VERSION => district_protocol::ABI_VERSION,
            config::EPOCH => low(self.epoch),
            EPOCH_HIGH => high(self.epoch),
            config::WINDOW_SIZE => low(self.window_size),
            WINDOW_SIZE_HIGH => high(self.window_size),
            _ => 0,
        }
    }

    /// The guest writes `data` at `offset` in the device page.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        let (Ok(register), Ok(bytes)) = (u32::try_from(offset), <[u8; 4]>::try_from(data)) else {
            return Action::None;
        };
        let value = u32::from_le_bytes(bytes);
        match register {
            register::STATUS => return self.write_status(value),
            register::QUEUE_NOTIFY if self.status & DRIVER_OK != 0 => {
                return match u16::try_from(value) {
                    Ok(queue) if queue < QUEUE_COUNT => Action::Notify(queue),
                    _ => Action::None,
                };
            }
            register::INTERRUPT_ACKNOWLEDGE => self.interrupt_status &= !value,
            register::DEVICE_FEATURES_SELECT => self.device_features_selector = value,
            register::DRIVER_FEATURES_SELECT => self.driver_features_selector = value,
            register::DRIVER_FEATURES if self.is_negotiating() => self.accept(value),
            register::QUEUE_SELECT => self.queue_selector = value,
            _ if self.is_placing_queues() => self.write_queue(register, value),
            _ => {}
        }
        Action::None
    }

    /// The session is over: the driver has to reset the device before it can go on. Nothing to do for one in reset.
    pub fn set_needs_reset(&mut self) {
        if self.status == 0 {
            return;
        }
        self.status |= NEEDS_RESET;
        // virtio 1.2, section 2.1.2: a driver that may not be looking is told, too.
        if self.status & DRIVER_OK != 0 {
            self.interrupt_status |= VIRTIO_MMIO_INT_CONFIG;
        }
    }

    /// The daemon has used buffers and wants the driver to know.
    pub fn used_buffer_notification(&mut self) {
        if self.status & DRIVER_OK != 0 {
            self.interrupt_status |= VIRTIO_MMIO_INT_VRING;
        }
    }

    /// The initialization sequence of virtio 1.2, section 3.1.1. Bits are only ever added, each when what it stands for
    /// has been done; until then it does not stick, and the driver finds out by reading the status back.
    fn write_status(&mut self, value: u32) -> Action {
        if value == 0 {
            *self = Registers::new(self.epoch, self.window_size);
            return Action::Reset;
        }
        let added = value & !self.status;
        self.status |= added & FAILED;
        if self.status & (FAILED | NEEDS_RESET) != 0 {
            return Action::None;
        }
        self.status |= added & ACKNOWLEDGE;
        if self.status & ACKNOWLEDGE != 0 {
            self.status |= added & DRIVER;
        }
        if self.status & DRIVER != 0 && self.accepted == FEATURES && !self.accepted_more {
            self.status |= added & FEATURES_OK;
        }
        if added & DRIVER_OK != 0 { self.activate() } else { Action::None }
    }

    fn activate(&mut self) -> Action {
        let setup = ChannelSetup { queues: self.queues.map(|queue| queue.setup) };
        let ready = self.queues.iter().all(|queue| queue.ready);
        if self.status & FEATURES_OK == 0 || !ready || setup.check(self.window_size).is_err() {
            self.status |= NEEDS_RESET;
            return Action::None;
        }
        self.status |= DRIVER_OK;
        Action::Activate(setup)
    }

    fn accept(&mut self, value: u32) {
        match self.driver_features_selector {
            0 => set_low(&mut self.accepted, value),
            1 => set_high(&mut self.accepted, value),
            _ => self.accepted_more |= value != 0,
        }
    }

    fn write_queue(&mut self, register: u32, value: u32) {
        let Some(queue) = self.queues.get_mut(self.queue_selector as usize) else {
            return;
        };
        let setup = &mut queue.setup;
        match register {
            register::QUEUE_READY => queue.ready = value & 1 != 0,
            // A queue that is ready stays where it is (virtio 1.2, section 4.2.2.2).
            _ if queue.ready => {}
            // A size that does not fit is as bad as none.
            register::QUEUE_SIZE => setup.size = u16::try_from(value).unwrap_or(0),
            register::QUEUE_DESCRIPTORS_LOW => set_low(&mut setup.descriptors, value),
            register::QUEUE_DESCRIPTORS_HIGH => set_high(&mut setup.descriptors, value),
            register::QUEUE_DRIVER_LOW => set_low(&mut setup.driver_area, value),
            register::QUEUE_DRIVER_HIGH => set_high(&mut setup.driver_area, value),
            register::QUEUE_DEVICE_LOW => set_low(&mut setup.device_area, value),
            register::QUEUE_DEVICE_HIGH => set_high(&mut setup.device_area, value),
            _ => {}
        }
    }

    fn selected(&self) -> Option<&QueueRegisters> {
        self.queues.get(self.queue_selector as usize)
    }

    fn is_negotiating(&self) -> bool {
        self.status & (DRIVER | FEATURES_OK | FAILED | NEEDS_RESET) == DRIVER
    }

    fn is_placing_queues(&self) -> bool {
        self.status & (FEATURES_OK | DRIVER_OK | FAILED | NEEDS_RESET) == FEATURES_OK
    }
}

fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

fn set_low(whole: &mut u64, value: u32) {
    *whole = *whole & !0xffff_ffff | u64::from(value);
}

fn set_high(whole: &mut u64, value: u32) {
    *whole = *whole & 0xffff_ffff | u64::from(value) << 32;
}

#[cfg(test)]
mod tests;
