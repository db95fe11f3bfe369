//! The threads beside the control thread, and what the vCPU thread leaves behind.

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use seccompiler::{BpfProgram, apply_filter};

use super::{ProcessError, host};
use crate::machine::Machine;
use crate::report::Ended;

/// Enough for the run loop and the vhost-user handshake, and for copying.
const STACK: usize = 128 << 10;

/// How the vCPU thread tells how the guest's life ended.
pub(super) struct Outcome {
    report: Mutex<Option<Ended>>,
    pub(super) event: OwnedFd,
}

impl Outcome {
    pub(super) fn new(event: OwnedFd) -> Self {
        Self { report: Mutex::new(None), event }
    }

    pub(super) fn set(&self, report: Ended) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
        // Fails only when it is full, and it is written once.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    pub(super) fn take(&self) -> Option<Ended> {
        // Emptied, or waiting for anything else would end at once from now on.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
        self.report.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Something that the vCPU thread does before there is a guest.
type Errand = Box<dyn FnOnce() + Send>;

/// The vCPU thread, as the control thread sees it. It exists before there is a machine, so that starting it, jailing it
/// and warming up its vCPU cost a district nothing.
pub(super) struct VcpuThread {
    thread: Arc<JoinHandle<()>>,
    /// None when there are to be no more.
    errands: Option<SyncSender<Errand>>,
    machines: SyncSender<Machine>,
    begin: SyncSender<()>,
}

/// The filters of the vCPU thread: while it runs errands, and when it runs a guest.
pub(super) struct Filters {
    pub(super) set_up: BpfProgram,
    pub(super) guest: BpfProgram,
}

impl VcpuThread {
    pub(super) fn start(filters: Filters, outcome: Arc<Outcome>) -> Result<Self, ProcessError> {
        let (errands, to_do) = sync_channel(1);
        let (machines, machine) = sync_channel(1);
        let (begin, begins) = sync_channel(1);
        let end = VcpuEnd { errands: to_do, machine, begins };
        let thread = Arc::new(spawn("vcpu", move || end.run(&filters, &outcome))?);
        Ok(Self { thread, errands: Some(errands), machines, begin })
    }

    /// For signals to it.
    pub(super) fn handle(&self) -> Arc<JoinHandle<()>> {
        Arc::clone(&self.thread)
    }

    /// Has it do something. What comes of it arrives at the receiver, which is closed if the thread is dead.
    pub(super) fn errand<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
        let (sender, result) = sync_channel(1);
        let errand = Box::new(move || {
            let _ = sender.send(work());
        });
        if let Some(errands) = &self.errands {
            let _ = errands.send(errand);
        }
        result
    }

    /// The same, and nothing after that but running a machine.
    pub(super) fn last_errand<T: Send + 'static>(&mut self, work: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
        let result = self.errand(work);
        self.no_more_errands();
        result
    }

    /// From now on it gets ready for a machine.
    pub(super) fn no_more_errands(&mut self) {
        self.errands = None;
    }

    /// Gives it the machine, which it is not to run yet. None: it is dead.
    pub(super) fn take(&self, machine: Machine) -> Option<()> {
        self.machines.send(machine).ok()
    }

    /// Has it run the machine. None: it is dead.
    pub(super) fn begin(&self) -> Option<()> {
        self.begin.send(()).ok()
    }
}

/// The other ends of [`VcpuThread`]'s.
struct VcpuEnd {
    errands: Receiver<Errand>,
    machine: Receiver<Machine>,
    begins: Receiver<()>,
}

impl VcpuEnd {
    fn run(self, filters: &Filters, outcome: &Outcome) {
        let jailed = apply_filter(&filters.set_up);
        self.errands.iter().for_each(|errand| errand());
        let jailed = jailed.and_then(|()| apply_filter(&filters.guest));
        let Ok(machine) = self.machine.recv() else { return };
        let Ok(()) = self.begins.recv() else { return };
        run(machine, jailed, outcome);
    }
}

fn run(mut machine: Machine, jailed: Result<(), seccompiler::Error>, outcome: &Outcome) {
    // A panic here is our mistake; without a report the daemon would believe that the guest runs.
    let run = AssertUnwindSafe(|| machine.run());
    let report = match jailed {
        Ok(()) => catch_unwind(run).unwrap_or_else(|_| Ended::Failed { error: "the vCPU thread panicked".into() }),
        Err(error) => Ended::Failed { error: ProcessError::from(error).to_string() },
    };
    machine.close();
    outcome.set(report);
}

/// Starts a thread with a small stack.
pub(super) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, ProcessError> {
    let builder = thread::Builder::new().name(name.into()).stack_size(STACK);
    builder.spawn(run).map_err(host("start a thread"))
}
