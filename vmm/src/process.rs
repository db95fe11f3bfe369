//! The vmm process: one district's machine, and the daemon that watches it.
//!
//! Three threads. The control thread waits for daemons, builds the machine and tells its guest about sessions; the vCPU
//! thread runs the guest; the checkpoint thread writes to the log. The daemon may die and another come, the guest goes on.
//! The process ends when a daemon knows how the guest's life ended, or when its daemon goes before there is a guest: nobody
//! would look for it.

mod files;
mod threads;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use kvm_ioctls::Kvm;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use seccompiler::{BpfProgram, apply_filter};
use thiserror::Error;
use vmm_sys_util::errno;

use crate::checkpoint::thread::{self as checkpoint, Guest, News, Orders, Work};
use crate::clock;
use crate::control::{self, ControlError, FromVmm, Start, State, ToVmm, VmmEnd};
use crate::cpuid::Cpuid;
use crate::jail;
use crate::kick;
use crate::machine::{self, Blank, BuildError, Handle, Machine, Parts};
use crate::report::Ended;
use files::Files;
use threads::{Filters, Outcome, VcpuThread, spawn};

/// The descriptor that a vmm process inherits, the socket made by [`control::listen`]: its standard input, because that
/// is one which a parent can set without running code of its own between fork and exec.
pub const LISTENER: RawFd = 0;
/// Results of checkpoints that are kept for a daemon that does not read, at most.
const UNTOLD_MAX: usize = 256;

/// For memory of so many bytes KVM takes as long to make a slot as it takes to fill it, so that it is worth while to wake
/// another thread for that.
const LARGE: u64 = 128 << 20;

/// When to let in a daemon for which there was no descriptor or memory.
const TRY_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// Half of what would make it the first to go (proc(5), `oom_score_adj`).
const OOM_SCORE: &str = "500";

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
    // A log that has grown too long is an error of the write, and not the end of the guest.
    // SAFETY: `signal` with `SIG_IGN` installs no code.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    // If the host runs out of memory a district goes, and not its daemon. Where that cannot be said, nothing is lost.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    // SAFETY: `from_raw_fd` wants a descriptor that nobody else owns: the parent left it to us. Should it be missing,
    // the first use says so.
    Ok(unsafe { OwnedFd::from_raw_fd(LISTENER) })
}

/// Serves daemons on `listener`, and runs the district that the first of them starts, until its end has been reported.
/// The calling thread is jailed from the moment on when a daemon is there.
pub fn serve(listener: OwnedFd) -> Result<(), ProcessError> {
    control::listen_again(listener.as_fd()).map_err(host("listen"))?;
    kick::install_handler().map_err(host::<errno::Error>("install a signal handler"))?;
    let Some(daemon) = first_daemon(&listener)? else { return Ok(()) };
    // While the daemon reads the greeting and answers.
    let mut process = Process::new(listener, daemon)?;
    clock::prepare();
    apply_filter(&jail::set_up().map_err(seccompiler::Error::from)?)?;
    loop {
        process.turn()?;
        if process.is_done() {
            return Ok(());
        }
    }
}

/// Waits for a daemon, and greets it. None: it is gone already.
fn first_daemon(listener: &OwnedFd) -> Result<Option<VmmEnd>, ProcessError> {
    loop {
        match poll(&mut [PollFd::new(listener, PollFlags::IN)], None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(host("wait")(errno)),
        }
        if let Some(daemon) = VmmEnd::accept(listener.as_fd()).map_err(host("accept a daemon"))? {
            let hello = FromVmm::Hello { pid: std::process::id(), state: State::Waiting };
            return Ok(daemon.send(&hello, None).is_ok().then_some(daemon));
        }
    }
}

/// A district that is running or about to, seen from the control thread.
struct Running {
    handle: Handle,
    /// For daemons that come later.
    window: OwnedFd,
    /// The socket of the newest session, until the daemon hangs up on it.
    session: Option<Arc<UnixStream>>,
    /// For the checkpoint thread, until the guest runs.
    checkpoints: Option<Box<Guest>>,
    /// The checkpoint that it began from; 0: none.
    generation: u64,
}

enum Life {
    /// No district yet; a blank machine, or why there is none, once one was asked for.
    Waiting(Option<Result<Blank, BuildError>>),
    /// Built and with the vCPU thread, and not to run yet.
    Built(Running),
    Running(Running),
    Over(Ended),
    /// A daemon knows, or there is nothing to know.
    Done,
}

struct Process {
    listener: OwnedFd,
    daemon: Option<VmmEnd>,
    filter: BpfProgram,
    vcpu: VcpuThread,
    outcome: Arc<Outcome>,
    checkpoints: Orders,
    news: Arc<News>,
    /// Results of the checkpoint thread that the daemon has not taken yet.
    untold: VecDeque<FromVmm>,
    district_id: [u8; 16],
    epoch: u64,
    life: Life,
    /// Whether the last daemon that wanted in could not be let in; then waiting for the listener would end at once.
    short: bool,
}

/// What there is to do.
#[derive(Default)]
struct Ready {
    listener: bool,
    daemon: bool,
    outcome: bool,
    news: bool,
    session: bool,
}

impl Process {
    fn new(listener: OwnedFd, daemon: VmmEnd) -> Result<Self, ProcessError> {
        let jail = || jail::set_up().map_err(seccompiler::Error::from);
        let filters = Filters { set_up: jail()?, guest: jail::vcpu().map_err(seccompiler::Error::from)? };
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(host("make an eventfd"));
        let outcome = Arc::new(Outcome::new(event()?));
        let vcpu = VcpuThread::start(filters, Arc::clone(&outcome))?;
        let jail = jail::checkpoint().map_err(seccompiler::Error::from)?;
        let news = Arc::new(News::new(event()?));
        let (checkpoints, work) = sync_channel(checkpoint::WORK_MAX);
        let results = Arc::clone(&news);
        // Nobody waits for it: it ends with the process.
        drop(spawn("checkpoint", move || checkpoint::run(&jail, &work, &results))?);
        Ok(Self {
            listener,
            daemon: Some(daemon),
            filter: jail::control().map_err(seccompiler::Error::from)?,
            vcpu,
            outcome,
            checkpoints,
            news,
            untold: VecDeque::new(),
            district_id: [0; 16],
            epoch: 0,
            life: Life::Waiting(None),
            short: false,
        })
    }

    fn is_done(&self) -> bool {
        matches!(self.life, Life::Done)
    }

    /// Waits until something happens and deals with it.
    fn turn(&mut self) -> Result<(), ProcessError> {
        let ready = self.wait()?;
        if ready.news || !self.untold.is_empty() {
            self.tell_news();
        }
        if ready.outcome
            && let Some(report) = self.outcome.take()
        {
            self.life = self.end(report);
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
        if self.daemon.is_none() && matches!(self.life, Life::Waiting(_) | Life::Built(_)) {
            self.life = Life::Done;
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<Ready, ProcessError> {
        let short = std::mem::take(&mut self.short);
        let session = match &self.life {
            Life::Running(running) => running.session.as_deref(),
            _ => None,
        };
        let newcomers = if short { PollFlags::empty() } else { PollFlags::IN };
        let mut fds = vec![
            PollFd::new(&self.listener, newcomers),
            PollFd::new(&self.outcome.event, PollFlags::IN),
            PollFd::new(&self.news.event, PollFlags::IN),
        ];
        let talking = if self.untold.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let daemon = self.daemon.as_ref().map(|daemon| PollFd::new(daemon, talking));
        // Not readability: the handshake, on either thread, reads what the daemon says.
        let session = session.map(|socket| PollFd::new(socket, PollFlags::RDHUP));
        let (daemon, session) = (push(&mut fds, daemon), push(&mut fds, session));
        match poll(&mut fds, short.then_some(&TRY_AGAIN)) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Ready::default()),
            Err(errno) => return Err(host("wait")(errno)),
        }
        let happened = |index: usize| !fds[index].revents().is_empty();
        Ok(Ready {
            listener: happened(0),
            outcome: happened(1),
            news: happened(2),
            daemon: daemon.is_some_and(happened),
            session: session.is_some_and(happened),
        })
    }

    fn accept(&mut self) -> Result<(), ProcessError> {
        let daemon = match VmmEnd::accept(self.listener.as_fd()) {
            Ok(Some(daemon)) => daemon,
            Ok(None) => return Ok(()),
            Err(error) if control::is_shortage(&error) => {
                self.short = true;
                return Ok(());
            }
            Err(error) => return Err(host("accept a daemon")(error)),
        };
        let (district_id, epoch) = (self.district_id, self.epoch);
        let state = match &self.life {
            Life::Waiting(_) | Life::Built(_) => State::Waiting,
            Life::Running(running) => State::Running { district_id, epoch, generation: running.generation },
            Life::Over(report) => State::Ended { district_id, epoch, report: report.clone() },
            Life::Done => return Ok(()),
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
        let life = std::mem::replace(&mut self.life, Life::Done);
        self.life = match (message, life) {
            (ToVmm::Prepare(cpuid), Life::Waiting(None)) => Life::Waiting(self.blank(cpuid, fds)),
            (ToVmm::Start(start), Life::Waiting(Some(blank))) => self.build(&start, blank, fds)?,
            (ToVmm::Run, Life::Built(running)) => self.run(running),
            (ToVmm::Channel, Life::Running(mut running)) => {
                running.offer(fds);
                Life::Running(running)
            }
            (ToVmm::Checkpoint(request), running @ Life::Running(_)) => {
                self.order(Work::Take(request), request);
                running
            }
            (ToVmm::Log, running @ Life::Running(_)) => {
                for segment in fds {
                    self.order(Work::Log(segment), 0);
                }
                running
            }
            (ToVmm::Stop, Life::Running(running)) => {
                // An error means that the thread is gone; then its report is on the way.
                let _ = running.handle.stop(&self.vcpu.handle());
                Life::Running(running)
            }
            (ToVmm::Stop, Life::Waiting(_) | Life::Built(_)) => self.end(Ended::Stopped),
            (ToVmm::Taken, Life::Over(_)) => Life::Done,
            // Crossed with the end of the guest.
            (
                ToVmm::Run | ToVmm::Channel | ToVmm::Checkpoint(_) | ToVmm::Log | ToVmm::Stop,
                over @ (Life::Over(_) | Life::Done),
            ) => over,
            (_, life) => {
                self.daemon = None;
                life
            }
        };
        Ok(())
    }

    /// A blank machine, on the KVM that came with the request. None: nothing came.
    fn blank(&self, cpuid: Cpuid, fds: Vec<OwnedFd>) -> Option<Result<Blank, BuildError>> {
        let kvm = fds.into_iter().next()?;
        // SAFETY: `from_raw_fd` wants a descriptor that nobody else owns; `into_raw_fd` just gave it up. That it is
        // `/dev/kvm` is the daemon's word; another file refuses the requests.
        let kvm = unsafe { Kvm::from_raw_fd(kvm.into_raw_fd()) };
        let gone = |_| BuildError::Thread;
        let warm = |blank: Blank| self.vcpu.errand(|| blank.warm_up()).recv().map_err(gone)?;
        Some(Blank::new(&kvm, cpuid).and_then(warm))
    }

    /// Builds the machine. What is wrong with the district ends it; an error is one of this process.
    fn build(
        &mut self,
        start: &Start,
        blank: Result<Blank, BuildError>,
        fds: Vec<OwnedFd>,
    ) -> Result<Life, ProcessError> {
        (self.district_id, self.epoch) = (start.district_id, start.epoch);
        let Some(Files { window, log, origin }) = Files::of(start, fds) else { return Ok(Life::Waiting(None)) };
        let for_later = window.try_clone().map_err(host("keep the window"))?;
        let parts = Parts { origin, window };
        let vcpu = &mut self.vcpu;
        let is_large = start.memory >= LARGE;
        if !is_large {
            // So that it is ready early.
            vcpu.no_more_errands();
        }
        let connect = |connect| if is_large { vcpu.last_errand(connect) } else { machine::at_once(connect) };
        let (machine, handle) = match blank.and_then(|blank| Machine::build_beside(start, blank, parts, connect)) {
            Ok(built) => built,
            Err(error) => return Ok(self.end(Ended::Failed { error: error.to_string() })),
        };
        let checkpoints = start.checkpoints.zip(log).map(|(plan, log)| {
            let parts = handle.checkpoint_parts(self.vcpu.handle());
            Box::new(Guest { parts, log, epoch: start.epoch, plan })
        });
        // It wakes up meanwhile, and waits for the word.
        if self.vcpu.take(machine).is_none() {
            return Ok(self.no_vcpu());
        }
        if let Ok(name) = std::ffi::CString::new(start.name.as_str()) {
            // Cosmetic.
            let _ = rustix::thread::set_name(&name);
        }
        apply_filter(&self.filter)?;
        let generation = start.generation;
        Ok(Life::Built(Running { handle, window: for_later, session: None, checkpoints, generation }))
    }

    fn no_vcpu(&mut self) -> Life {
        self.end(Ended::Failed { error: BuildError::Thread.to_string() })
    }

    fn run(&mut self, mut running: Running) -> Life {
        if self.vcpu.begin().is_none() {
            return self.no_vcpu();
        }
        // While the guest runs. Whatever it reports goes through this one, and so comes later.
        self.tell(&FromVmm::Running);
        if let Some(guest) = running.checkpoints.take() {
            self.order(Work::Guest(guest), 0);
        }
        Life::Running(running)
    }

    /// Gives the checkpoint thread something to do; if it has too much of that already, `request` is refused.
    fn order(&mut self, work: Work, request: u64) {
        if self.checkpoints.try_send(work).is_err() {
            let error = "too many requests for checkpoints wait already".to_owned();
            self.untold.push_back(FromVmm::NoCheckpoint { covers: request, error, needs_log: false });
        }
    }

    /// Tells the daemon what the checkpoint thread has to say, as far as the daemon reads it.
    fn tell_news(&mut self) {
        self.untold.extend(self.news.take());
        let surplus = self.untold.len().saturating_sub(UNTOLD_MAX);
        self.untold.drain(..surplus);
        while let (Some(daemon), Some(message)) = (&self.daemon, self.untold.front()) {
            match daemon.send(message, None) {
                Ok(()) => drop(self.untold.pop_front()),
                Err(ControlError::Stuck) => return,
                Err(_) => self.daemon = None,
            }
        }
    }

    /// Tells the daemon, if there is one that listens.
    fn tell(&mut self, message: &FromVmm) {
        if self.daemon.as_ref().is_some_and(|daemon| daemon.send(message, None).is_err()) {
            self.daemon = None;
        }
    }

    /// The life is over. A daemon may die between the message and its reading: only its answer ends the process.
    fn end(&mut self, report: Ended) -> Life {
        self.tell(&FromVmm::Ended(report.clone()));
        Life::Over(report)
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

impl Running {
    fn offer(&mut self, sockets: Vec<OwnedFd>) {
        for socket in sockets {
            let socket = Arc::new(UnixStream::from(socket));
            // As when a session is over, there would be nobody to tell.
            let _ = self.handle.offer(Arc::clone(&socket));
            self.session = Some(socket);
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
