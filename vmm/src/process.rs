//! The vmm process: one district's machine, and the daemon that watches it.
//!
//! Two threads. The control thread waits for daemons, builds the machine and tells its guest about sessions; the vCPU
//! thread runs the guest. The daemon may die and another come, the guest goes on. The process ends when a daemon knows how
//! the guest's life ended.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use kvm_ioctls::Kvm;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use seccompiler::{BpfProgram, apply_filter};
use thiserror::Error;
use vmm_sys_util::errno;

use crate::control::{self, FromVmm, Start, State, ToVmm, VmmEnd};
use crate::jail;
use crate::kick;
use crate::machine::{Handle, Machine, Parts};
use crate::report::Ended;

/// The descriptor that a vmm process inherits, the socket made by [`control::listen`]: its standard input, because that
/// is one which a parent can set without running code of its own between fork and exec.
pub const LISTENER: RawFd = 0;
/// Enough for the run loop and the vhost-user handshake.
const VCPU_STACK: usize = 128 << 10;

/// Why a vmm process ends before any guest has run in it, or without a daemon knowing.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// The system refuses.
    #[error("cannot {what}: {source}")]
    Host {
        /// What was to be done.
        what: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// The system calls that are left cannot be restricted.
    #[error("cannot restrict system calls: {0}")]
    Jail(#[from] seccompiler::Error),
}

fn host<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> ProcessError {
    move |source| ProcessError::Host { what, source: source.into() }
}

/// All of `district vmm`: takes over the process, with [`LISTENER`] and nothing else that it inherited beyond standard
/// input, output and error.
pub fn run() -> Result<(), ProcessError> {
    serve(take_over()?)
}

/// Lets go of what came by accident, and keeps others from looking in.
fn take_over() -> Result<OwnedFd, ProcessError> {
    let first = libc::STDERR_FILENO.unsigned_abs() + 1;
    // SAFETY: `close_range` closes descriptors that something might own. The process has just begun: nothing has opened
    // any beyond those that it inherited.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if closed != 0 {
        return Err(host("close inherited files")(io::Error::last_os_error()));
    }
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(host("hide from debuggers"))?;
    rustix::thread::set_no_new_privs(true).map_err(host("give up privileges"))?;
    // SAFETY: `from_raw_fd` wants a descriptor that nobody else owns: the parent left it to us. Should it be missing,
    // the first use says so.
    Ok(unsafe { OwnedFd::from_raw_fd(LISTENER) })
}

/// Serves daemons on `listener`, and runs the district that the first of them starts, until its end has been reported.
/// The calling thread is jailed from the district's start on.
pub fn serve(listener: OwnedFd) -> Result<(), ProcessError> {
    control::listen_again(listener.as_fd()).map_err(host("listen"))?;
    kick::install_handler().map_err(host::<errno::Error>("install a signal handler"))?;
    let daemon = first_daemon(&listener)?;
    // While the daemon reads the greeting and answers.
    let mut process = Process::new(listener, daemon)?;
    loop {
        process.turn()?;
        if process.is_done() {
            return Ok(());
        }
    }
}

/// Waits for a daemon, and greets it.
fn first_daemon(listener: &OwnedFd) -> Result<VmmEnd, ProcessError> {
    loop {
        match poll(&mut [PollFd::new(listener, PollFlags::IN)], None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(host("wait")(errno)),
        }
        if let Some(daemon) = VmmEnd::accept(listener.as_fd()).map_err(host("accept a daemon"))?
            && daemon.send(&FromVmm::Hello { pid: std::process::id(), state: State::Waiting }, None).is_ok()
        {
            return Ok(daemon);
        }
    }
}

/// How the vCPU thread tells how the guest's life ended.
struct Outcome {
    report: Mutex<Option<Ended>>,
    event: OwnedFd,
}

impl Outcome {
    fn set(&self, report: Ended) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
        // Fails only when it is full, and it is written once.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    fn take(&self) -> Option<Ended> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Waits for the machine and runs it. It exists before there is one, so that starting the thread and jailing it costs a
/// district nothing.
fn vcpu_thread(filter: &BpfProgram, machines: &Receiver<Machine>, outcome: &Outcome) {
    let jailed = apply_filter(filter);
    let Ok(mut machine) = machines.recv() else { return };
    outcome.set(match jailed {
        Ok(()) => machine.run(),
        Err(error) => Ended::Failed { error: ProcessError::from(error).to_string() },
    });
}

/// A running district, seen from the control thread.
struct Running {
    handle: Handle,
    /// For daemons that come later.
    window: OwnedFd,
    /// The socket of the newest session, until the daemon hangs up on it.
    session: Option<Arc<UnixStream>>,
}

enum Life {
    Waiting,
    Running(Running),
    Over(Ended),
    /// A daemon knows.
    Reported,
}

struct Process {
    listener: OwnedFd,
    daemon: Option<VmmEnd>,
    filter: BpfProgram,
    machines: SyncSender<Machine>,
    vcpu: JoinHandle<()>,
    outcome: Arc<Outcome>,
    district_id: [u8; 16],
    epoch: u64,
    life: Life,
}

/// What there is to do.
#[derive(Default)]
struct Ready {
    listener: bool,
    daemon: bool,
    outcome: bool,
    session: bool,
}

impl Process {
    fn new(listener: OwnedFd, daemon: VmmEnd) -> Result<Self, ProcessError> {
        let jail = jail::vcpu().map_err(seccompiler::Error::from)?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(host("make an eventfd"))?;
        let outcome = Arc::new(Outcome { report: Mutex::new(None), event });
        let (machines, waiting) = sync_channel(1);
        let result = Arc::clone(&outcome);
        let vcpu = thread::Builder::new()
            .name("vcpu".into())
            .stack_size(VCPU_STACK)
            .spawn(move || vcpu_thread(&jail, &waiting, &result))
            .map_err(host("start a thread"))?;
        Ok(Self {
            listener,
            daemon: Some(daemon),
            filter: jail::control().map_err(seccompiler::Error::from)?,
            machines,
            vcpu,
            outcome,
            district_id: [0; 16],
            epoch: 0,
            life: Life::Waiting,
        })
    }

    fn is_done(&self) -> bool {
        matches!(self.life, Life::Reported)
    }

    /// Waits until something happens and deals with it.
    fn turn(&mut self) -> Result<(), ProcessError> {
        let ready = self.wait()?;
        if ready.outcome
            && let Some(report) = self.outcome.take()
        {
            self.end(report);
        }
        if ready.session {
            self.session_over();
        }
        if ready.daemon {
            self.listen_to_daemon()?;
        }
        if ready.listener {
            self.accept()?;
        }
        Ok(())
    }

    fn wait(&self) -> Result<Ready, ProcessError> {
        let session = match &self.life {
            Life::Running(running) => running.session.as_deref(),
            _ => None,
        };
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN), PollFd::new(&self.outcome.event, PollFlags::IN)];
        let daemon = self.daemon.as_ref().map(|daemon| PollFd::new(daemon, PollFlags::IN));
        // Not readability: the handshake, on either thread, reads what the daemon says.
        let session = session.map(|socket| PollFd::new(socket, PollFlags::RDHUP));
        let (daemon, session) = (push(&mut fds, daemon), push(&mut fds, session));
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Ready::default()),
            Err(errno) => return Err(host("wait")(errno)),
        }
        let happened = |index: usize| !fds[index].revents().is_empty();
        Ok(Ready {
            listener: happened(0),
            outcome: happened(1),
            daemon: daemon.is_some_and(happened),
            session: session.is_some_and(happened),
        })
    }

    fn accept(&mut self) -> Result<(), ProcessError> {
        let Some(daemon) = VmmEnd::accept(self.listener.as_fd()).map_err(host("accept a daemon"))? else {
            return Ok(());
        };
        let (district_id, epoch) = (self.district_id, self.epoch);
        let state = match &self.life {
            Life::Waiting => State::Waiting,
            Life::Running(_) => State::Running { district_id, epoch },
            Life::Over(report) => State::Ended { district_id, epoch, report: report.clone() },
            Life::Reported => return Ok(()),
        };
        let window = match &self.life {
            Life::Running(running) => Some(running.window.as_fd()),
            _ => None,
        };
        if daemon.send(&FromVmm::Hello { pid: std::process::id(), state }, window).is_ok() {
            self.daemon = Some(daemon);
        }
        Ok(())
    }

    fn listen_to_daemon(&mut self) -> Result<(), ProcessError> {
        while let Some(daemon) = &self.daemon {
            match daemon.receive() {
                Ok(Some((message, fds))) => self.obey(message, fds)?,
                Ok(None) => break,
                // Whatever a daemon did wrong, the next one may do better; the guest does not care.
                Err(_) => self.daemon = None,
            }
        }
        Ok(())
    }

    fn obey(&mut self, message: ToVmm, fds: Vec<OwnedFd>) -> Result<(), ProcessError> {
        match (message, &mut self.life) {
            (ToVmm::Start(start), Life::Waiting) => match <[OwnedFd; 3]>::try_from(fds) {
                Ok(fds) => self.start(&start, fds)?,
                Err(_) => self.daemon = None,
            },
            (ToVmm::Channel, Life::Running(running)) => {
                for socket in fds {
                    let socket = Arc::new(UnixStream::from(socket));
                    // As when a session is over, there would be nobody to tell.
                    let _ = running.handle.offer(Arc::clone(&socket));
                    running.session = Some(socket);
                }
            }
            (ToVmm::Stop, Life::Running(running)) => {
                // An error means that the thread is gone; then its report is on the way.
                let _ = running.handle.stop(&self.vcpu);
            }
            (ToVmm::Stop, Life::Waiting) => self.end(Ended::Stopped),
            (ToVmm::Taken, Life::Over(_)) => self.life = Life::Reported,
            // Crossed with the end of the guest.
            (ToVmm::Channel | ToVmm::Stop, Life::Over(_) | Life::Reported) => {}
            (ToVmm::Start(_) | ToVmm::Channel | ToVmm::Taken, _) => self.daemon = None,
        }
        Ok(())
    }

    fn start(&mut self, start: &Start, [kvm, program, window]: [OwnedFd; 3]) -> Result<(), ProcessError> {
        (self.district_id, self.epoch) = (start.district_id, start.epoch);
        // SAFETY: `from_raw_fd` wants a descriptor that nobody else owns; `into_raw_fd` just gave it up. That it is
        // `/dev/kvm` is the daemon's word; another file refuses the requests.
        let kvm = unsafe { Kvm::from_raw_fd(kvm.into_raw_fd()) };
        let for_later = window.try_clone().map_err(host("keep the window"))?;
        let parts = Parts { kvm, program: File::from(program), window };
        let (machine, handle) = match Machine::build(start, parts) {
            Ok(built) => built,
            Err(error) => {
                self.end(Ended::Failed { error: error.to_string() });
                return Ok(());
            }
        };
        if let Ok(name) = std::ffi::CString::new(start.name.as_str()) {
            // Cosmetic.
            let _ = rustix::thread::set_name(&name);
        }
        apply_filter(&self.filter)?;
        self.life = Life::Running(Running { handle, window: for_later, session: None });
        if self.machines.send(machine).is_err() {
            self.end(Ended::Failed { error: "the vCPU thread has died".into() });
            return Ok(());
        }
        // While the other thread wakes up. Whatever it reports goes through this one, and so comes later.
        self.tell(&FromVmm::Running);
        Ok(())
    }

    /// Tells the daemon, if there is one that listens.
    fn tell(&mut self, message: &FromVmm) {
        if self.daemon.as_ref().is_some_and(|daemon| daemon.send(message, None).is_err()) {
            self.daemon = None;
        }
    }

    /// The life is over. A daemon may die between the message and its reading: only its answer ends the process.
    fn end(&mut self, report: Ended) {
        self.tell(&FromVmm::Ended(report.clone()));
        self.life = Life::Over(report);
    }

    fn session_over(&mut self) {
        if let Life::Running(running) = &mut self.life
            && let Some(socket) = running.session.take()
        {
            // The boot page is in RAM, so this cannot fail; and if it did, there would be nobody to tell.
            let _ = running.handle.hung_up(&socket);
        }
    }
}

/// Adds what there is to add, and says where.
fn push<T>(to: &mut Vec<T>, item: Option<T>) -> Option<usize> {
    item.map(|item| {
        to.push(item);
        to.len() - 1
    })
}
