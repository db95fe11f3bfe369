//! The conversation between the daemon and one vmm process, over a sequenced-packet Unix socket: one JSON document per
//! message, file descriptors beside it.
//!
//! The vmm process listens; each daemon, the first one too, connects. [`FromVmm::Hello`] comes first on every
//! connection. Neither side trusts the other's lengths, numbers or descriptors: what is not a message of at most
//! [`MESSAGE_MAX`] bytes with exactly the descriptors that belong to it is a [`ControlError`], after which the connection
//! is worth nothing. Both ends are non-blocking.

mod messages;

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::cpuid::Cpuid;
use messages::FDS_MAX;
pub use messages::{
    Beginning, Checkpointed, Checkpoints, FromVmm, NAME_MAX, SEGMENTS_MAX, Start, StartError, State, ToVmm,
};

/// Longest message in bytes.
pub const MESSAGE_MAX: usize = 64 << 10;
/// Daemons that may wait to be heard.
const BACKLOG: i32 = 4;

/// Why a connection is over.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The other side has closed it, or is gone.
    #[error("connection closed")]
    Closed,
    /// The other side does not read.
    #[error("the other side does not read its messages")]
    Stuck,
    /// The other side breaks the protocol.
    #[error("not a message: {0}")]
    Malformed(String),
    /// The system refuses.
    #[error("control socket: {0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for ControlError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Self::Closed,
            Errno::AGAIN => Self::Stuck,
            errno => Self::Io(errno.into()),
        }
    }
}

/// Makes the socket on which a vmm process will be reached, at a path that does not exist yet. The process that listens
/// on it last is the one that peers see as its owner.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket()?;
    net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Whether the host is short of something just now.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    let short = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| short.contains(&errno))
}

pub(crate) fn listen_again(listener: BorrowedFd<'_>) -> io::Result<()> {
    Ok(net::listen(listener, BACKLOG)?)
}

fn socket() -> rustix::io::Result<OwnedFd> {
    net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// The files that go with a [`Start`].
#[derive(Debug)]
pub struct StartFiles<'a> {
    /// The window's memory.
    pub window: BorrowedFd<'a>,
    /// A segment of the log with nothing in it, if checkpoints are to be taken.
    pub log: Option<BorrowedFd<'a>>,
    /// What [`Start::from`] says: the program; or an image, if there is one, and segments in order.
    pub memory: &'a [BorrowedFd<'a>],
}

impl<'a> StartFiles<'a> {
    /// Those of a district that begins with its program and of which no checkpoints are taken.
    pub fn program(program: &'a BorrowedFd<'a>, window: BorrowedFd<'a>) -> Self {
        StartFiles { window, log: None, memory: std::slice::from_ref(program) }
    }
}

/// The daemon's end.
#[derive(Debug)]
pub struct DaemonEnd {
    socket: OwnedFd,
}

impl DaemonEnd {
    /// Connects to the vmm process behind a socket made by [`listen`].
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = socket()?;
        net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self { socket })
    }

    /// Has everything made that does not depend on the district.
    pub fn prepare(&self, cpuid: Cpuid, kvm: BorrowedFd<'_>) -> Result<(), ControlError> {
        send(&self.socket, &ToVmm::Prepare(cpuid), &[kvm])
    }

    /// Has the district made, after [`DaemonEnd::prepare`].
    pub fn start(&self, start: Start, files: &StartFiles<'_>) -> Result<(), ControlError> {
        let fds: Vec<_> = [files.window].iter().chain(&files.log).chain(files.memory).copied().collect();
        send(&self.socket, &ToVmm::Start(Box::new(start)), &fds)
    }

    /// Asks for a checkpoint; the answer is the first message that covers `request`.
    pub fn checkpoint(&self, request: u64) -> Result<(), ControlError> {
        send(&self.socket, &ToVmm::Checkpoint(request), &[])
    }

    /// Hands over a new segment of the log.
    pub fn log(&self, segment: BorrowedFd<'_>) -> Result<(), ControlError> {
        send(&self.socket, &ToVmm::Log, &[segment])
    }

    /// Lets it run, after [`DaemonEnd::start`].
    pub fn run(&self) -> Result<(), ControlError> {
        send(&self.socket, &ToVmm::Run, &[])
    }

    /// Offers a new session, for which the daemon keeps the other end of `socket`.
    pub fn channel(&self, socket: BorrowedFd<'_>) -> Result<(), ControlError> {
        send(&self.socket, &ToVmm::Channel, &[socket])
    }

    /// Stops the guest.
    pub fn stop(&self) -> Result<(), ControlError> {
        send(&self.socket, &ToVmm::Stop, &[])
    }

    /// The next message; none if there is none yet. With the window's memory if it is the hello of a running district,
    /// which a daemon that did not start it does not have.
    pub fn receive(&self) -> Result<Option<(FromVmm, Option<OwnedFd>)>, ControlError> {
        let Some((message, mut fds)) = receive::<FromVmm>(&self.socket)? else { return Ok(None) };
        if fds.len() != message.descriptors() {
            return Err(ControlError::Malformed(format!("{} descriptors with it", fds.len())));
        }
        if matches!(message, FromVmm::Ended(_) | FromVmm::Hello { state: State::Ended { .. }, .. }) {
            // A vmm process that is gone already needs no answer.
            let _ = send(&self.socket, &ToVmm::Taken, &[]);
        }
        Ok(Some((message, fds.pop())))
    }
}

impl AsFd for DaemonEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The vmm process's end.
#[derive(Debug)]
pub struct VmmEnd {
    socket: OwnedFd,
}

impl VmmEnd {
    /// Takes the next daemon that connects; none if there is none, or if it belongs to another user than this process.
    /// After an error that [`is_shortage`], it still waits.
    pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        let socket = match net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let peer = net::sockopt::socket_peercred(&socket)?;
        Ok((peer.uid == rustix::process::geteuid()).then_some(Self { socket }))
    }

    pub(crate) fn send(&self, message: &FromVmm, window: Option<BorrowedFd<'_>>) -> Result<(), ControlError> {
        send(&self.socket, message, window.as_slice())
    }

    /// The next message with its descriptors, as many as belong to it; none if there is none yet.
    pub(crate) fn receive(&self) -> Result<Option<(ToVmm, Vec<OwnedFd>)>, ControlError> {
        let Some((message, fds)) = receive::<ToVmm>(&self.socket)? else { return Ok(None) };
        if fds.len() != message.descriptors() {
            return Err(ControlError::Malformed(format!("{} descriptors with it", fds.len())));
        }
        Ok(Some((message, fds)))
    }
}

impl AsFd for VmmEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn send(socket: &OwnedFd, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Result<(), ControlError> {
    let text = serde_json::to_vec(message).map_err(io::Error::from)?;
    if text.len() > MESSAGE_MAX {
        return Err(ControlError::Malformed(format!("{} bytes: at most {MESSAGE_MAX}", text.len())));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(ControlError::Malformed(format!("{} descriptors: at most {FDS_MAX}", fds.len())));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    net::sendmsg(socket, &[IoSlice::new(&text)], &mut ancillary, flags)?;
    Ok(())
}

fn receive<T: DeserializeOwned>(socket: &OwnedFd) -> Result<Option<(T, Vec<OwnedFd>)>, ControlError> {
    // The length first: a buffer of the largest size would stay in the process's memory for good.
    let look = RecvFlags::PEEK | RecvFlags::TRUNC | RecvFlags::DONTWAIT;
    let length = match net::recv(socket, &mut [0u8; 0], look) {
        Ok((_, 0)) => return Err(ControlError::Closed),
        Ok((_, length)) if length > MESSAGE_MAX => {
            return Err(ControlError::Malformed(format!("{length} bytes: at most {MESSAGE_MAX}")));
        }
        Ok((_, length)) => length,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let mut text = vec![0; length];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = net::recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut ancillary, flags)?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(ControlError::Malformed("longer than announced, or too many descriptors".into()));
    }
    match serde_json::from_slice(&text[..received.bytes]) {
        Ok(message) => Ok(Some((message, fds))),
        Err(error) => Err(ControlError::Malformed(error.to_string())),
    }
}

#[cfg(test)]
mod tests;
