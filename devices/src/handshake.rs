//! What a vmm process has told the daemon so far, over vhost-user.
//!
//! The device needs very little of that protocol, and refuses the rest: one memory region, which is the window, and for
//! each of the two rings its size, addresses, a start at index 0, and its eventfds, each told once. Neither protocol
//! features nor `SET_VRING_ENABLE` are offered: rings are then enabled from the start, and a session has no other way
//! to end than closing the socket.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use district_protocol::channel::{FEATURES, QUEUE_COUNT};
use district_protocol::layout::WINDOW_BASE;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_setfd};
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};

use crate::channel::Channel;
use crate::error::ChannelError;
use crate::setup::{ChannelSetup, QueueSetup};
use crate::window::Window;

/// Where a ring is, in guest addresses.
#[derive(Debug, Clone, Copy)]
struct Areas {
    descriptors: u64,
    driver: u64,
    device: u64,
}

#[derive(Debug, Default)]
struct RingState {
    size: Option<u16>,
    areas: Option<Areas>,
    base: Option<u16>,
    kick: Option<OwnedFd>,
    call: Option<OwnedFd>,
}

/// The state of a handshake. It only ever gains; a second word on anything is refused.
#[derive(Debug)]
pub(crate) struct Handshake {
    window_size: u64,
    owner: Option<()>,
    features: Option<u64>,
    /// Where the vmm process says that it maps the window. Only good for translating ring addresses.
    user_base: Option<u64>,
    rings: [RingState; QUEUE_COUNT as usize],
}

impl Handshake {
    pub fn new(window_size: u64) -> Handshake {
        Handshake { window_size, owner: None, features: None, user_base: None, rings: Default::default() }
    }

    /// The channel, once everything has been told about it. Takes the eventfds out.
    pub fn channel(&mut self, window: &Arc<Window>) -> std::result::Result<Option<Channel>, ChannelError> {
        if self.owner.is_none() || self.features.is_none() {
            return Ok(None);
        }
        let [Some(first), Some(second)] = self.rings.each_ref().map(RingState::setup) else {
            return Ok(None);
        };
        let setup = ChannelSetup { queues: [first, second] };
        let [first, second] = &mut self.rings;
        // The device has one interrupt, so both rings have the same call eventfd; one copy of it is enough.
        let (Some(first_kick), Some(second_kick), Some(call), Some(_)) =
            (first.kick.take(), second.kick.take(), first.call.take(), second.call.take())
        else {
            return Ok(None);
        };
        Channel::new(Arc::clone(window), &setup, [first_kick, second_kick], call).map(Some)
    }

    fn ring(&mut self, index: u32) -> Result<&mut RingState> {
        self.rings.get_mut(index as usize).ok_or(Error::InvalidOperation("no such ring"))
    }

    /// The guest address behind an address in the vmm process. Wraps rather than fails: the result is checked like any
    /// other before it is used.
    fn guest_address(user_base: u64, address: u64) -> u64 {
        address.wrapping_sub(user_base).wrapping_add(WINDOW_BASE)
    }
}

impl RingState {
    /// Size and place, once all has been told about the ring.
    fn setup(&self) -> Option<QueueSetup> {
        let told = self.base.is_some() && self.kick.is_some() && self.call.is_some();
        let areas = self.areas.filter(|_| told)?;
        Some(QueueSetup {
            size: self.size?,
            descriptors: areas.descriptors,
            driver_area: areas.driver,
            device_area: areas.device,
        })
    }
}

fn refused<T>(what: &'static str) -> Result<T> {
    Err(Error::InvalidOperation(what))
}

/// Fills `slot`, unless it has been filled before.
fn once<T>(slot: &mut Option<T>, value: T, again: &'static str) -> Result<()> {
    if slot.is_some() {
        return refused(again);
    }
    *slot = Some(value);
    Ok(())
}

/// Accepts an eventfd and nothing else. Of a file of another kind, reading, writing or even watching it could block, or
/// run code of whoever made it.
fn eventfd(file: Option<File>) -> Result<OwnedFd> {
    let Some(file) = file else {
        return refused("ring without an eventfd");
    };
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(Error::ReqHandlerError)?;
    if link.as_os_str() != "anon_inode:[eventfd]" {
        return refused("not an eventfd");
    }
    // `vhost` receives it without close-on-exec, and the daemon starts other districts' vmm processes.
    fcntl_setfd(&file, FdFlags::CLOEXEC).map_err(|errno| Error::ReqHandlerError(errno.into()))?;
    Ok(file.into())
}

/// As [`eventfd`], for one that is written to.
fn writable_eventfd(file: Option<File>) -> Result<OwnedFd> {
    let fd = eventfd(file)?;
    fcntl_getfl(&fd)
        .and_then(|flags| fcntl_setfl(&fd, flags | OFlags::NONBLOCK))
        .map_err(|errno| Error::ReqHandlerError(errno.into()))?;
    Ok(fd)
}

impl VhostUserBackendReqHandlerMut for Handshake {
    fn set_owner(&mut self) -> Result<()> {
        once(&mut self.owner, (), "second owner")
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(FEATURES)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features != FEATURES {
            return Err(Error::FeatureMismatch);
        }
        once(&mut self.features, features, "features set twice")
    }

    /// Accepts the window and nothing else. The file that comes with it is closed unused: the daemon has its own.
    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        _files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        let &[region] = regions else {
            return refused("more than one memory region");
        };
        let (address, size, offset) = (region.guest_phys_addr, region.memory_size, region.mmap_offset);
        if (address, size, offset) != (WINDOW_BASE, self.window_size, 0) {
            return refused("a memory region that is not the window");
        }
        once(&mut self.user_base, region.user_addr, "second memory table").map(|()| None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let size = u16::try_from(num).map_err(|_| Error::InvalidParam)?;
        once(&mut self.ring(index)?.size, size, "ring sized twice")
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        if !flags.is_empty() {
            return refused("logging");
        }
        let Some(user_base) = self.user_base else {
            return refused("ring addresses before the memory table");
        };
        let areas = Areas {
            descriptors: Handshake::guest_address(user_base, descriptor),
            driver: Handshake::guest_address(user_base, available),
            device: Handshake::guest_address(user_base, used),
        };
        once(&mut self.ring(index)?.areas, areas, "ring placed twice")
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        if base != 0 {
            return refused("ring that is not fresh");
        }
        once(&mut self.ring(index)?.base, 0, "ring started twice")
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        once(&mut self.ring(index.into())?.kick, eventfd(fd)?, "second kick eventfd")
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        once(&mut self.ring(index.into())?.call, writable_eventfd(fd)?, "second call eventfd")
    }

    // From here on, what this device has no use for.

    fn reset_owner(&mut self) -> Result<()> {
        refused("reset of the owner")
    }

    fn reset_device(&mut self) -> Result<()> {
        refused("device reset")
    }

    fn get_vring_base(&mut self, _index: u32) -> Result<VhostUserVringState> {
        refused("stopping a ring")
    }

    fn set_vring_err(&mut self, _index: u8, _fd: Option<File>) -> Result<()> {
        refused("error eventfd")
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        refused("protocol features")
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        refused("protocol features")
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        refused("number of queues")
    }

    fn set_vring_enable(&mut self, _index: u32, _enable: bool) -> Result<()> {
        refused("enabling a ring")
    }

    fn get_config(&mut self, _offset: u32, _size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        refused("configuration space")
    }

    fn set_config(&mut self, _offset: u32, _bytes: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        refused("configuration space")
    }

    fn set_gpu_socket(&mut self, _gpu: GpuBackend) -> Result<()> {
        refused("gpu socket")
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        refused("shared object")
    }

    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        refused("in-flight buffer")
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        refused("in-flight buffer")
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        refused("memory slots")
    }

    fn add_mem_region(
        &mut self,
        _region: &VhostUserSingleMemoryRegion,
        _fd: File,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<u64>> {
        refused("second memory region")
    }

    fn remove_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion) -> Result<()> {
        refused("removal of a memory region")
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> Result<Option<File>> {
        refused("device state")
    }

    fn check_device_state(&mut self) -> Result<()> {
        refused("device state")
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        refused("shared memory regions")
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        refused("logging")
    }
}
