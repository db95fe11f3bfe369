//! The threads beside the control thread, and what the vCPU thread leaves behind.

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use seccompiler::{BpfProgram, apply_filter};

use super::{ProcessError, host};
use crate::machine::{Blank, Machine};
use crate::report::Ended;
use crate::warm_up::PendingSignal;

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

/// The vCPU thread, as the control thread sees it. It exists before there is a machine, so that starting it, jailing it
/// and warming up its vCPU cost a district nothing.
pub(super) struct VcpuThread {
    thread: Arc<JoinHandle<()>>,
    blanks: SyncSender<Blank>,
    warm: Receiver<(Blank, bool)>,
    machines: SyncSender<Machine>,
    begin: SyncSender<()>,
}

impl VcpuThread {
    pub(super) fn start(filter: BpfProgram, outcome: Arc<Outcome>) -> Result<Self, ProcessError> {
        let (blanks, blank) = sync_channel(1);
        let (warmed, warm) = sync_channel(1);
        let (machines, machine) = sync_channel(1);
        let (begin, begins) = sync_channel(1);
        let end = VcpuEnd { blank, warmed, machine, begins };
        let thread = Arc::new(spawn("vcpu", move || end.run(&filter, &outcome))?);
        Ok(Self { thread, blanks, warm, machines, begin })
    }

    /// For signals to it.
    pub(super) fn handle(&self) -> Arc<JoinHandle<()>> {
        Arc::clone(&self.thread)
    }

    /// Has it run a blank machine up to its guest, first of all. None: it is dead; so below.
    pub(super) fn warm_up(&self, blank: Blank) -> Option<(Blank, bool)> {
        self.blanks.send(blank).ok()?;
        self.warm.recv().ok()
    }

    /// Gives it the machine, which it is not to run yet.
    pub(super) fn take(&self, machine: Machine) -> Option<()> {
        self.machines.send(machine).ok()
    }

    /// Has it run the machine.
    pub(super) fn begin(&self) -> Option<()> {
        self.begin.send(()).ok()
    }
}

/// The other ends of [`VcpuThread`]'s, each of which has something once, in this order.
struct VcpuEnd {
    blank: Receiver<Blank>,
    warmed: SyncSender<(Blank, bool)>,
    machine: Receiver<Machine>,
    begins: Receiver<()>,
}

impl VcpuEnd {
    fn run(self, filter: &BpfProgram, outcome: &Outcome) {
        let signal = PendingSignal::new();
        let jailed = apply_filter(filter);
        let (Ok(blank), Ok(signal)) = (self.blank.recv(), signal) else { return };
        let Ok(()) = self.warmed.send(blank.run_up_to_guest(signal)) else { return };
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
