//! The daemon's end of the vhost-user socket, with a vmm process at the other that is not trusted.
//!
//! `vhost` decodes the messages, but it is made for peers that mean well: on a non-blocking socket it waits for the rest
//! of a message, for room for its reply, or after too many file descriptors, by trying again for ever. So it is handed a
//! message only when all of that has been looked at: it is one that this device has a use for, complete in the socket, no
//! larger than it can be, with one file descriptor at most, and there is room for a reply. Everything else is an error,
//! which ends the session. A session also ends after a number of messages that no honest one reaches, so that its
//! handshake takes bounded time.
//!
//! The honest end sends each message in one piece, which a local socket delivers in one piece.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use vhost::vhost_user::message::{FrontendReq, VhostUserMemory, VhostUserMemoryRegion, VhostUserVringAddr};
use vhost::vhost_user::{BackendReqHandler, Error as VhostError};

use crate::channel::Channel;
use crate::error::ChannelError;
use crate::handshake::Handshake;
use crate::window::Window;

/// Bytes of a message before its body: request, flags, size of the body, each a u32 in the host's byte order
/// (vhost-user, "Header").
const HEADER: usize = 12;
/// The requests that make up a handshake.
const REQUESTS: [FrontendReq; 9] = [
    FrontendReq::SET_OWNER,
    FrontendReq::GET_FEATURES,
    FrontendReq::SET_FEATURES,
    FrontendReq::SET_MEM_TABLE,
    FrontendReq::SET_VRING_NUM,
    FrontendReq::SET_VRING_BASE,
    FrontendReq::SET_VRING_ADDR,
    FrontendReq::SET_VRING_CALL,
    FrontendReq::SET_VRING_KICK,
];
/// Bytes of the largest body: ring addresses, or a memory table of one region.
const BODY_MAX: usize = {
    let addresses = size_of::<VhostUserVringAddr>();
    let table = size_of::<VhostUserMemory>() + size_of::<VhostUserMemoryRegion>();
    if addresses > table { addresses } else { table }
};
/// Most messages of a handshake. An honest one has 13, or 14 if it asks for the features; ours does not.
const MESSAGES_MAX: u32 = 32;

/// How far a session has come.
#[derive(Debug)]
pub enum Progress {
    /// Nothing more to do until the socket is readable again.
    Waiting,
    /// The handshake is complete; this is its channel. Comes once.
    Ready(Box<Channel>),
}

enum Stage {
    Handshake {
        requests: BackendReqHandler<Mutex<Handshake>>,
        handshake: Arc<Mutex<Handshake>>,
        messages: u32,
    },
    /// Handed over. The socket stays open as the sign that the session lives.
    Active,
}

/// One session with a vmm process, from its first message until its socket is closed. Dropping it closes the socket,
/// which is how the daemon ends a session, and how it answers a vmm process that has ended one by closing its own end or
/// half of it: that the [`Channel`] will not be used any more.
pub struct Backend {
    socket: UnixStream,
    window: Arc<Window>,
    stage: Stage,
}

impl Backend {
    /// A session over this socket, which is made non-blocking, about this window, which is the one the vmm process has.
    pub fn new(socket: UnixStream, window: Arc<Window>) -> io::Result<Backend> {
        socket.set_nonblocking(true)?;
        let handshake = Arc::new(Mutex::new(Handshake::new(window.size())));
        let requests = BackendReqHandler::from_stream(socket.try_clone()?, Arc::clone(&handshake));
        Ok(Backend { socket, window, stage: Stage::Handshake { requests, handshake, messages: 0 } })
    }

    /// Handles all that has arrived. To be called whenever the socket is readable or hung up. After an error the session
    /// is over and this is to be dropped.
    pub fn process(&mut self) -> Result<Progress, ChannelError> {
        let mut progress = Progress::Waiting;
        while self.message_waits()? {
            let Stage::Handshake { requests, handshake, messages } = &mut self.stage else {
                return Err(refused("message after the handshake"));
            };
            *messages += 1;
            if *messages > MESSAGES_MAX {
                return Err(refused("too many messages"));
            }
            requests.handle_request().map_err(|error| match error {
                // A reply that finds nobody.
                VhostError::SocketBroken(_) => ChannelError::Closed,
                error => ChannelError::Handshake(error),
            })?;
            let channel = handshake.lock().unwrap_or_else(PoisonError::into_inner).channel(&self.window)?;
            if let Some(channel) = channel {
                progress = Progress::Ready(Box::new(channel));
                self.stage = Stage::Active;
            }
        }
        Ok(progress)
    }

    /// Whether there is a message, without taking it. An error if `vhost` could not handle it without waiting.
    fn message_waits(&self) -> Result<bool, ChannelError> {
        let mut bytes = [0; HEADER + BODY_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        // Room for one file descriptor, or for a few more by alignment. What comes are copies of those in the message,
        // which are closed here.
        let mut copies = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let peeked = match recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut copies, flags) {
            Ok(peeked) => peeked,
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::CONNRESET) => return Err(ChannelError::Closed),
            Err(errno) => return Err(host("look at the channel's socket", errno)),
        };
        if peeked.bytes == 0 {
            return Err(ChannelError::Closed);
        }
        let count: usize = copies
            .drain()
            .map(|ancillary| match ancillary {
                RecvAncillaryMessage::ScmRights(fds) => fds.count(),
                _ => 0,
            })
            .sum();
        if count > 1 || peeked.flags.contains(ReturnFlags::CTRUNC) {
            return Err(refused("too many file descriptors"));
        }
        let message = &bytes[..peeked.bytes];
        let (Some(request), Some(body)) = (word_at(message, 0), word_at(message, 8)) else {
            return Err(ChannelError::Handshake(VhostError::PartialMessage));
        };
        if !REQUESTS.iter().any(|&known| known as u32 == request) {
            return Err(refused("request that this device has no use for"));
        }
        if body as usize > BODY_MAX {
            return Err(ChannelError::Handshake(VhostError::OversizedMsg));
        }
        if message.len() < HEADER + body as usize {
            return Err(ChannelError::Handshake(VhostError::PartialMessage));
        }
        if !self.has_room()? {
            return Err(refused("replies that nobody reads"));
        }
        Ok(true)
    }

    /// Whether a reply, which is small, can be sent at once.
    fn has_room(&self) -> Result<bool, ChannelError> {
        let mut fds = [PollFd::new(&self.socket, PollFlags::OUT)];
        let ready = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        ready.map_err(|errno| host("look at the channel's socket", errno))?;
        Ok(fds[0].revents().contains(PollFlags::OUT))
    }
}

impl AsRawFd for Backend {
    /// The socket, to be watched for input and hang-up.
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn word_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn refused(why: &'static str) -> ChannelError {
    ChannelError::Handshake(VhostError::InvalidOperation(why))
}

fn host(doing: &'static str, errno: Errno) -> ChannelError {
    ChannelError::Host { doing, source: errno.into() }
}

#[cfg(test)]
mod tests;
