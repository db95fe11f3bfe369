//! The conversation between the daemon and one vmm process, over a sequenced-packet Unix socket: one JSON document per
//! message, file descriptors beside it.
//!
//! The vmm process listens; each daemon, the first one too, connects. [`FromVmm::Hello`] comes first on every
//! connection. Neither side trusts the other's lengths, numbers or descriptors: what is not a message of at most
//! [`MESSAGE_MAX`] bytes with exactly the descriptors that belong to it is a [`ControlError`], after which the connection
//! is worth nothing. Both ends are non-blocking.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use district_protocol::ABI_VERSION;
use district_protocol::boot::{ARGUMENTS_MAX, StartReason};
use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::cpuid::Cpuid;
use crate::report::Ended;

/// Longest message in bytes.
pub const MESSAGE_MAX: usize = 64 << 10;
/// Most segments of a log that a life can begin from.
pub const SEGMENTS_MAX: usize = 16;
/// Most descriptors with one message: the window, a new segment, an image, and the segments of a log.
const FDS_MAX: usize = 3 + SEGMENTS_MAX;
/// Longest name of a district in bytes.
pub const NAME_MAX: usize = 255;
/// Daemons that may wait to be heard.
const BACKLOG: i32 = 4;

/// Everything a vmm process must know to start its district.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// [`ABI_VERSION`] of the daemon; the vmm process refuses another than its own.
    pub abi_version: u32,
    /// The district's permanent identity.
    pub district_id: [u8; 16],
    /// What people call it; becomes the process's name.
    pub name: String,
    /// Number of this life.
    pub epoch: u64,
    /// A [`StartReason`].
    pub reason: u32,
    /// The checkpoint that this life begins from; 0: none.
    pub generation: u64,
    /// When that was taken, in nanoseconds since 1970; 0: none.
    pub checkpoint_time: u64,
    /// Bytes of RAM.
    pub memory: u64,
    /// Bytes of window.
    pub window: u64,
    /// The program's arguments, without NULs; at most [`ARGUMENTS_MAX`] bytes with a NUL after each.
    pub arguments: Vec<String>,
    /// What its memory begins with.
    pub from: Beginning,
    /// Which checkpoints are to be taken; none: no one ever is.
    pub checkpoints: Option<Checkpoints>,
}

/// What a district's memory begins with, and so which files come with [`ToVmm::Start`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Beginning {
    /// The program's file.
    Program,
    /// The checkpoint [`Start::generation`].
    Checkpoint {
        /// Whether there is an image; it comes first.
        image: bool,
        /// How many segments of the log there are, at most [`SEGMENTS_MAX`].
        segments: u32,
        /// Whether each page of the image is to be compared with its table first, which takes as long as reading it.
        verify: bool,
    },
}

/// When checkpoints are taken, beside those that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoints {
    /// Number of the first one.
    pub next_generation: u64,
    /// The one that it builds on; 0: none.
    pub parent: u64,
    /// Every so many milliseconds, if the guest has run meanwhile; 0: not by time.
    pub every_ms: u64,
    /// When so many pages have been written to; 0: not by pages.
    pub dirty_pages: u64,
}

impl Checkpoints {
    pub(crate) fn every(&self) -> Duration {
        Duration::from_millis(self.every_ms)
    }
}

/// A checkpoint that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpointed {
    /// Its number.
    pub generation: u64,
    /// The one that it builds on; 0: none.
    pub parent: u64,
    /// When the guest was as it says, in nanoseconds since 1970.
    pub time: u64,
    /// Pages written with their data.
    pub data_pages: u64,
    /// Pages that were zero.
    pub zero_pages: u64,
    /// Bytes that it takes in the log.
    pub bytes: u64,
    /// Bytes of the segment that it is in, up to its end.
    pub log_bytes: u64,
    /// How long the guest stood still, in nanoseconds.
    pub pause: u64,
    /// From its beginning until it was durable, in nanoseconds.
    pub total: u64,
}

/// Why a [`Start`] is refused before anything is built. Sizes are checked against the program, later.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartError {
    /// Daemon and vmm process are of different versions.
    #[error("abi version {0}: this is version {ABI_VERSION}")]
    AbiVersion(u32),
    /// Not a reason.
    #[error("start reason {0} does not exist")]
    Reason(u32),
    /// Too long.
    #[error("name of {0} bytes: at most {NAME_MAX}")]
    Name(usize),
    /// Too long.
    #[error("arguments of {0} bytes, closing NULs included: at most {ARGUMENTS_MAX}")]
    Arguments(usize),
    /// NULs separate arguments.
    #[error("argument {0} contains a NUL")]
    Nul(usize),
}

impl<'a> StartFiles<'a> {
    /// Those of a district that begins with its program and of which no checkpoints are taken.
    pub fn program(program: &'a BorrowedFd<'a>, window: BorrowedFd<'a>) -> Self {
        StartFiles { window, log: None, memory: std::slice::from_ref(program) }
    }
}

impl Start {
    /// How many files come with it; more than any message has if it asks for too many.
    fn descriptors(&self) -> usize {
        let memory = match self.from {
            Beginning::Program => 1,
            Beginning::Checkpoint { image, segments, .. } => {
                usize::from(image) + usize::try_from(segments).unwrap_or(FDS_MAX).min(FDS_MAX)
            }
        };
        1 + usize::from(self.checkpoints.is_some()) + memory
    }

    /// Checks what can be checked without the program.
    pub fn check(&self) -> Result<(), StartError> {
        if self.abi_version != ABI_VERSION {
            return Err(StartError::AbiVersion(self.abi_version));
        }
        if StartReason::from_raw(self.reason).is_none() {
            return Err(StartError::Reason(self.reason));
        }
        if self.name.len() > NAME_MAX {
            return Err(StartError::Name(self.name.len()));
        }
        let bytes = self.arguments.iter().map(|argument| argument.len() + 1).sum();
        if bytes > ARGUMENTS_MAX {
            return Err(StartError::Arguments(bytes));
        }
        match self.arguments.iter().position(|argument| argument.contains('\0')) {
            Some(index) => Err(StartError::Nul(index)),
            None => Ok(()),
        }
    }
}

/// What the daemon says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToVmm {
    /// Make all that is the same for every district that sees this processor; first. With `/dev/kvm`.
    Prepare(Cpuid),
    /// Make the district, and do not run it yet; once in a vmm process's life. With the window; a segment of the log, if
    /// checkpoints are to be taken; and what [`Start::from`] says.
    Start(Box<Start>),
    /// Run it: what must be on disk before its first instruction is.
    Run,
    /// A new session of the channel. With one end of a stream socket, on which the daemon speaks vhost-user.
    Channel,
    /// Take a checkpoint that holds all that the guest has done until now. Requests are numbered, upwards.
    Checkpoint(u64),
    /// Write checkpoints to this segment from now on. With its file, which has a header and nothing else.
    Log,
    /// Stop the guest.
    Stop,
    /// How the guest's life ended is known; the process may exit. [`DaemonEnd::receive`] says it by itself.
    Taken,
}

impl ToVmm {
    fn descriptors(&self) -> usize {
        match self {
            Self::Start(start) => start.descriptors(),
            Self::Prepare(_) | Self::Channel | Self::Log => 1,
            Self::Run | Self::Checkpoint(_) | Self::Stop | Self::Taken => 0,
        }
    }
}

/// What the vmm process says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromVmm {
    /// First on every connection.
    Hello {
        /// The vmm process. `SO_PEERCRED` says it, too, and cannot lie.
        pid: u32,
        /// What it is doing.
        state: State,
    },
    /// The guest is about to execute its first instruction.
    Running,
    /// A checkpoint is durable.
    Checkpointed {
        /// All requests up to this one are answered by it.
        covers: u64,
        /// What was done.
        checkpoint: Checkpointed,
    },
    /// Nothing has happened since a checkpoint.
    Unchanged {
        /// All requests up to this one are answered by it.
        covers: u64,
        /// That checkpoint.
        generation: u64,
    },
    /// There is no checkpoint, and the guest goes on.
    NoCheckpoint {
        /// All requests up to this one are refused.
        covers: u64,
        /// What went wrong, for people.
        error: String,
        /// Whether the log cannot be written to any more: the next one needs [`ToVmm::Log`].
        needs_log: bool,
    },
    /// The guest's life is over; the process exits once the daemon has read this.
    Ended(Ended),
}

impl FromVmm {
    const fn descriptors(&self) -> usize {
        match self {
            Self::Hello { state: State::Running { .. }, .. } => 1,
            Self::Hello { .. }
            | Self::Running
            | Self::Checkpointed { .. }
            | Self::Unchanged { .. }
            | Self::NoCheckpoint { .. }
            | Self::Ended(_) => 0,
        }
    }
}

/// What a vmm process is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// No guest has run; the process ends with the connection.
    Waiting,
    /// Running a district. With the window's memory.
    Running {
        /// Its identity.
        district_id: [u8; 16],
        /// The life it is in.
        epoch: u64,
        /// The checkpoint that this life began from; 0: none.
        generation: u64,
    },
    /// Its district ended while no daemon listened; the process exits once this one has read this.
    Ended {
        /// Its identity.
        district_id: [u8; 16],
        /// The life that ended.
        epoch: u64,
        /// How.
        report: Ended,
    },
}

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
