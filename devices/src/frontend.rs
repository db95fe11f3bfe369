//! The vmm process's end of the vhost-user socket: passes the queues that a driver has set up on to the daemon.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;

use district_protocol::channel::{FEATURES, QUEUE_COUNT};
use district_protocol::layout::WINDOW_BASE;
use rustix::fs::{OFlags, fcntl_getfl};
use vhost::vhost_user::Frontend;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

use crate::setup::ChannelSetup;
use crate::window::Window;

/// Why the channel could not be activated. The session is over before it began: the device needs a reset.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The daemon has gone.
    #[error("hand the queues to the daemon")]
    Refused(#[from] vhost::Error),
    /// The socket is a non-blocking one, on which `vhost` would try again and again should there be no room.
    #[error("the channel's socket is non-blocking")]
    NonBlocking,
    /// The host failed.
    #[error("prepare the channel's socket")]
    Socket(#[source] io::Error),
}

/// An active channel, as the vmm process sees it: a socket over which nothing more is said. When it becomes readable or
/// hangs up the session is over; dropping it ends the session.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Hands the queues in `setup`, which [`crate::Registers`] has checked, to the daemon behind `socket`, a blocking one.
/// `kicks` are the doorbells of the two queues, `call` is what the daemon wakes the guest with.
///
/// Waits for nothing: what is sent has no answer, and fits into the buffer of a socket that nothing was sent on before. So a
/// daemon that is stuck cannot hold up the guest, as it could if it were asked anything: `vhost` waits for an answer for
/// ever, whatever timeout the socket has. A daemon that refuses the queues, or is of a version with other features,
/// says so by closing the socket: see [`Connection`].
pub fn activate(
    socket: UnixStream,
    setup: &ChannelSetup,
    window: &Window,
    kicks: [&EventFd; QUEUE_COUNT as usize],
    call: &EventFd,
) -> Result<Connection, ActivateError> {
    // Only asked, not changed: a vmm process may be denied to change such flags, see `crate::channel`.
    let flags = fcntl_getfl(&socket).map_err(|errno| ActivateError::Socket(errno.into()))?;
    if flags.contains(OFlags::NONBLOCK) {
        return Err(ActivateError::NonBlocking);
    }
    let connection = Connection { socket: socket.try_clone().map_err(ActivateError::Socket)? };
    let frontend = Frontend::from_stream(socket, QUEUE_COUNT.into());
    frontend.set_owner()?;
    frontend.set_features(FEATURES)?;
    // The user address is only there to translate ring addresses. With this one they are guest addresses, and where
    // this process maps the window stays its secret.
    frontend.set_mem_table(&[VhostUserMemoryRegionInfo {
        guest_phys_addr: WINDOW_BASE,
        memory_size: window.size(),
        userspace_addr: WINDOW_BASE,
        mmap_offset: 0,
        mmap_handle: window.memfd().as_raw_fd(),
    }])?;
    for ((index, queue), kick) in setup.queues.iter().enumerate().zip(kicks) {
        frontend.set_vring_num(index, queue.size)?;
        frontend.set_vring_base(index, 0)?;
        frontend.set_vring_addr(
            index,
            &VringConfigData {
                queue_max_size: queue.size,
                queue_size: queue.size,
                flags: 0,
                desc_table_addr: queue.descriptors,
                used_ring_addr: queue.device_area,
                avail_ring_addr: queue.driver_area,
                log_addr: None,
            },
        )?;
        frontend.set_vring_call(index, call)?;
        // Starts the ring, so it comes last.
        frontend.set_vring_kick(index, kick)?;
    }
    Ok(connection)
}
