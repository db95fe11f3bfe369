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
use rustix::net::sockopt;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A vmm process.
pub struct Process {
    pid: Pid,
    /// Becomes readable when the process ends, and never names another one.
    pidfd: OwnedFd,
    /// The process, if this daemon is its parent.
    child: Option<Child>,
}

impl Process {
    /// Starts a vmm process from `program`, and connects to it. With `tied`, it ends when the calling thread does.
    pub fn start(program: &Path, directory: &Path, id: DistrictId, tied: bool) -> io::Result<(Process, DaemonEnd)> {
        let path = socket_path(directory, id);
        // Whoever listened here is gone: the caller has made sure that no process of the district is left.
        forget_socket(directory, id);
        let listener = control::listen(&path)?;
        let connection = DaemonEnd::connect(&path)?;
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
        Ok((Process { pid, pidfd, child: Some(child) }, connection))
    }

    /// Connects to the vmm process that an earlier daemon has left, if there is one.
    pub fn find(directory: &Path, id: DistrictId) -> io::Result<Option<(Process, DaemonEnd)>> {
        let connection = match DaemonEnd::connect(&socket_path(directory, id)) {
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
            Ok(pidfd) => Ok(Some((Process { pid, pidfd, child: None }, connection))),
            Err(rustix::io::Errno::SRCH) => Ok(None),
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

/// Removes the socket of a district whose vmm process has ended.
pub fn forget_socket(directory: &Path, id: DistrictId) {
    // It may not be there; that is what is wanted.
    let _ = std::fs::remove_file(socket_path(directory, id));
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

fn socket_path(directory: &Path, id: DistrictId) -> PathBuf {
    directory.join("run").join(format!("{id}.sock"))
}
