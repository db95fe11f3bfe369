//! What districts are held against when they talk: processes that pass messages over seqpacket sockets, blocking, with
//! nothing to check and nobody to protect.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use rustix::io::{read, retry_on_intr, write};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};

/// Longest message in bytes.
const MESSAGE_MAX: usize = 64 << 10;
/// First byte of a message that wants an answer.
const ANSWER: u8 = 1;
/// First byte of a message that wants none.
const NO_ANSWER: u8 = 0;

/// The argument by which this program is the broker between A and B.
const RELAY: &str = "role-relay";
/// The argument by which this program is B.
const ECHO: &str = "role-echo";

/// This process, A, and one or two others.
pub struct BareSockets {
    socket: OwnedFd,
    others: Vec<Child>,
}

impl BareSockets {
    /// A and B.
    pub fn direct() -> Result<BareSockets> {
        let (a, b) = pair()?;
        Ok(BareSockets { socket: a, others: vec![spawn(ECHO, Stdio::from(b), Stdio::null())?] })
    }

    /// A, a broker that passes everything on, and B.
    pub fn through_broker() -> Result<BareSockets> {
        let (a, towards_a) = pair()?;
        let (towards_b, b) = pair()?;
        let echo = spawn(ECHO, Stdio::from(b), Stdio::null())?;
        let relay = spawn(RELAY, Stdio::from(towards_a), Stdio::from(towards_b))?;
        Ok(BareSockets { socket: a, others: vec![relay, echo] })
    }

    /// Nanoseconds of each of so many messages and their answers, one after the other.
    pub fn round_trips(&self, count: usize, bytes: usize) -> Result<Vec<f64>> {
        let mut message = vec![ANSWER; bytes];
        let mut round_trip = || {
            let begin = Instant::now();
            send(self.socket.as_fd(), &message)?;
            ensure!(receive(self.socket.as_fd(), &mut message)? == bytes, "the bare sockets lost bytes");
            Ok(begin.elapsed().as_secs_f64() * 1e9)
        };
        (0..count).map(|_| round_trip()).collect()
    }

    /// Messages per second, when so many are sent as fast as they are taken.
    pub fn rate(&self, count: usize, bytes: usize) -> Result<f64> {
        let mut message = vec![NO_ANSWER; bytes];
        let begin = Instant::now();
        for _ in 0..count {
            send(self.socket.as_fd(), &message)?;
        }
        message[0] = ANSWER;
        send(self.socket.as_fd(), &message)?;
        receive(self.socket.as_fd(), &mut message)?;
        Ok(count as f64 / begin.elapsed().as_secs_f64())
    }
}

impl Drop for BareSockets {
    fn drop(&mut self) {
        // Each ends when it cannot read any more. Nothing is to be done about one that does not.
        let _ = shutdown(&self.socket, Shutdown::Both);
        for other in &mut self.others {
            let _ = other.wait();
        }
    }
}

fn pair() -> Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

fn spawn(role: &str, stdin: Stdio, stdout: Stdio) -> Result<Child> {
    let program = std::env::current_exe()?;
    Command::new(program).arg(role).stdin(stdin).stdout(stdout).spawn().context("a bare process")
}

/// The role that this process was started for, if it was started by another one of this program.
pub fn role() -> Option<String> {
    std::env::args().nth(1).filter(|argument| [RELAY, ECHO].contains(&argument.as_str()))
}

/// Plays the role: B answers what wants an answer; the broker stands between A, its standard input, and B, its standard
/// output.
pub fn play(role: &str) -> Result<()> {
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    match role {
        RELAY => relay(stdin.as_fd(), stdout.as_fd()),
        ECHO => echo(stdin.as_fd()),
        _ => bail!("no such role: {role}"),
    }
}

fn echo(a: BorrowedFd<'_>) -> Result<()> {
    let mut buffer = vec![0; MESSAGE_MAX];
    loop {
        match receive(a, &mut buffer)? {
            0 => return Ok(()),
            bytes if buffer[0] == ANSWER => send(a, &buffer[..bytes])?,
            _ => {}
        }
    }
}

fn relay(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> Result<()> {
    let mut buffer = vec![0; MESSAGE_MAX];
    loop {
        let bytes = receive(a, &mut buffer)?;
        if bytes == 0 {
            return Ok(());
        }
        send(b, &buffer[..bytes])?;
        if buffer[0] == ANSWER {
            let bytes = receive(b, &mut buffer)?;
            send(a, &buffer[..bytes])?;
        }
    }
}

fn send(to: BorrowedFd<'_>, message: &[u8]) -> Result<()> {
    let sent = retry_on_intr(|| write(to, message))?;
    ensure!(sent == message.len(), "a bare socket took {sent} bytes");
    Ok(())
}

fn receive(from: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize> {
    Ok(retry_on_intr(|| read(from, &mut *buffer))?)
}
