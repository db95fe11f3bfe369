//! The threads beside the control thread, and what the vCPU thread leaves behind.

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, PoisonError};
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

/// Waits for the machine, then for the word, and runs it. It exists before there is one, so that starting the thread and
/// jailing it costs a district nothing.
pub(super) fn vcpu_thread(filter: &BpfProgram, machine: &Receiver<Machine>, begin: &Receiver<()>, outcome: &Outcome) {
    let jailed = apply_filter(filter);
    let Ok(mut machine) = machine.recv() else { return };
    let Ok(()) = begin.recv() else { return };
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
