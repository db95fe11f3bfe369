//! The vmm process of a district, as the daemon sees it: how one is started, found again by a later daemon, and ended.
//!
//! Daemon and vmm process meet at a Unix socket, `run/ID.sock` in the state directory. The daemon makes it and the vmm
//! process inherits it, listening, as its standard input; so the first daemon connects to it in the same way as those
//! that come after. What a vmm process prints stays in a pipe until it has ended: it prints only when it fails in a way
//! that it cannot report, and one that prints more than the pipe holds makes nobody wait but itself.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use crate::commands::vmm;
use district_broker::DistrictId;
use district_vmm::control::{self, DaemonEnd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, pidfd_open, pidfd_send_signal, prlimit};

/// Bytes of private memory that a vmm process may have beside RAM: its heap and its stacks, with much to spare.
const DATA_MAX: u64 = 32 << 20;
/// Bytes of a file that it writes to, beside four times its RAM.
const FILE_MAX: u64 = 1 << 30;
/// Files that it may have open; it has about 15.
const FILES_MAX: u64 = 64;
/// How long a process may take to die that was killed.
const GONE_WITHIN: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// A vmm process.
pub struct Process {
    pid: Pid,
    /// None for one that an earlier daemon has started.
    identity: Option<Identity>,
    /// Becomes readable when the process ends, and never names another one.
    pidfd: OwnedFd,
    /// The process, if this daemon is its parent.
    child: Option<Child>,
}

/// Which process of all that ever had its number: numbers are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its number.
    pub pid: u32,
    /// When it was started, in clock ticks since the host was (proc_pid_stat(5), field 22).
    pub start_time: u64,
    /// Which start of the host that is.
    pub boot: u128,
}

impl Identity {
    /// The identity of a process that has not been waited for.
    fn of(pid: Pid) -> io::Result<Identity> {
        let pid = pid.as_raw_nonzero().get().unsigned_abs();
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{what} cannot be understood"));
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field is a name in parentheses that may contain anything.
        let after_name = stat.rsplit_once(')').map(|(_, rest)| rest);
        let start_time = after_name.and_then(|rest| rest.split_whitespace().nth(19)?.parse().ok());
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let boot = u128::from_str_radix(&boot.trim().replace('-', ""), 16).map_err(|_| wrong("boot_id"))?;
        let start_time = start_time.ok_or_else(|| wrong("/proc/PID/stat"))?;
        Ok(Identity { pid, start_time, boot })
    }

    /// Kills the process, if it still is, and waits until it is gone, but not for ever. For one that cannot be reached
    /// at its socket.
    pub fn kill(self) -> io::Result<()> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // After the descriptor was opened: what has this identity now is what the descriptor names.
        match Identity::of(pid) {
            Ok(found) if found == self => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => return Ok(()),
        }
        match pidfd_send_signal(&pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&GONE_WITHIN))? {
            0 => Err(io::Error::new(io::ErrorKind::TimedOut, format!("process {} does not die", self.pid))),
            _ => Ok(()),
        }
    }
}

impl Process {
    /// Starts a vmm process from `program`, which listens at `socket`, and connects to it. With `tied`, it ends when the
    /// calling thread does.
    pub fn start(program: &Path, socket: &Path, tied: bool) -> io::Result<(Process, DaemonEnd)> {
        // Whoever listened here is gone: the caller has made sure of that.
        forget(socket);
        let listener = control::listen(socket)?;
        let connection = DaemonEnd::connect(socket)?;
        let mut command = Command::new(program);
        command.args(vmm::arguments(tied)).env_clear().current_dir("/");
        command.stdin(listener).stdout(Stdio::null()).stderr(Stdio::piped());
        // A group of its own, so that a terminal's Ctrl-C ends the command and not the districts under it.
        let mut child = command.process_group(0).spawn()?;
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).inspect_err(|_| {
            // Nobody would ever hear of its end. Neither fails for a child that has not been waited for.
            let _ = child.kill();
            let _ = child.wait();
        })?;
        let mut process = Process { pid, identity: None, pidfd, child: Some(child) };
        match Identity::of(pid) {
            Ok(identity) => process.identity = Some(identity),
            Err(error) => {
                process.kill();
                process.wait();
                return Err(error);
            }
        }
        Ok((process, connection))
    }

    /// Limits what it can take of the host beside `memory` bytes of RAM and its window. Another process of this user's,
    /// like its vmm process, cannot raise the limits again.
    pub fn limit(&self, memory: u64) -> io::Result<()> {
        let set = |resource, most| {
            let limit = Rlimit { current: Some(most), maximum: Some(most) };
            prlimit(Some(self.pid), resource, limit).map(drop)
        };
        set(Resource::Data, memory.saturating_add(DATA_MAX))?;
        set(Resource::Nofile, FILES_MAX)?;
        set(Resource::Core, 0)?;
        // The segment of the log that it writes to gets a successor long before that.
        set(Resource::Fsize, memory.saturating_mul(4).saturating_add(FILE_MAX))?;
        Ok(())
    }

    /// Which process it is, to be found by later daemons; none if it was started by an earlier one.
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&Timespec::default())) != Ok(0)
    }

    /// Connects to the vmm process that an earlier daemon has left, if there is one.
    pub fn find(socket: &Path) -> io::Result<Option<(Process, DaemonEnd)>> {
        let connection = match DaemonEnd::connect(socket) {
            Ok(connection) => connection,
            // Nobody listens any more, or nobody ever did.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        // The process that listens, not the one that made the socket: each vmm process begins to listen again itself.
        let pid = sockopt::socket_peercred(&connection)?.pid;
        if pid == rustix::process::getpid() {
            // One that has not begun to listen: its daemon, in this very process, ended in that moment.
            return Ok(None);
        }
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Some((Process { pid, identity: None, pidfd, child: None }, connection))),
            Err(Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Ends it at once. It may have ended already.
    pub fn kill(&self) {
        // The only other error is that there is no such process any more.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Waits until it has ended, if this daemon is its parent.
    pub fn wait(&mut self) {
        if let Some(child) = &mut self.child {
            // The only error is that it has been waited for.
            let _ = child.wait();
        }
    }

    /// How it ended, in words, once its descriptor is readable. Only a parent can know more than that it did.
    pub fn reap(&mut self) -> String {
        let Some(child) = &mut self.child else { return "its vmm process ended".to_owned() };
        let status = match child.try_wait() {
            Ok(Some(status)) => format!("its vmm process ended: {status}"),
            Ok(None) | Err(_) => "its vmm process ended".to_owned(),
        };
        match child.stderr.as_mut().and_then(last_words) {
            Some(words) => format!("{status}; it said: {words}"),
            None => status,
        }
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Makes the directory in which daemon and vmm processes meet. Nobody else may enter it.
pub fn make_directory(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory.join("run"))
}

/// Removes the socket of a vmm process that has ended.
pub fn forget(socket: &Path) {
    // It may not be there; that is what is wanted.
    let _ = std::fs::remove_file(socket);
}

/// The last line in the pipe of a process that has ended.
fn last_words(pipe: &mut ChildStderr) -> Option<String> {
    // The process is gone, but another may have inherited its end: then reading would wait for that one.
    rustix::io::ioctl_fionbio(&*pipe, true).ok()?;
    let mut bytes = vec![0; 4096];
    let mut last = Vec::new();
    while let Ok(count @ 1..) = pipe.read(&mut bytes) {
        last = bytes[..count].to_vec();
    }
    let text = String::from_utf8_lossy(&last);
    text.lines().rfind(|line| !line.trim().is_empty()).map(super::logs::escape)
}

/// Where the vmm process of a district listens.
pub fn socket_path(directory: &Path, id: DistrictId) -> PathBuf {
    directory.join("run").join(format!("{id}.sock"))
}

/// The sockets of vmm processes in a state directory.
pub fn sockets(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory.join("run"))?;
    Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.extension() == Some("sock".as_ref())).collect())
}
