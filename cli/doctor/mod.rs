//! Whether this host can run districts, what is missing if not, and what to do about it.

mod host;
mod kernel;
mod kvm;
mod storage;

use serde::Serialize;
use std::time::{Duration, Instant};

use crate::api::rules::Wrong;
use crate::state_dir::StateDir;

/// What a finding means for districts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Districts run; something may be slow or scarce.
    Doubtful,
    /// Districts cannot run.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The thing.
    pub subject: &'static str,
    /// What it means.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do, unless all is well.
    pub remedy: Option<String>,
}

impl Finding {
    fn good(subject: &'static str, found: impl Into<String>) -> Finding {
        Finding { subject, verdict: Verdict::Good, found: found.into(), remedy: None }
    }

    fn doubtful(subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { subject, verdict: Verdict::Doubtful, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn bad(subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { subject, verdict: Verdict::Bad, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// Looks at everything. Takes some tens of milliseconds, and makes the state directory if there is none.
pub fn examine(directory: &Result<StateDir, Wrong>) -> Vec<Finding> {
    let mut findings = kvm::examine();
    findings.extend(kernel::examine());
    findings.extend(host::examine());
    findings.extend(storage::examine(directory));
    findings
}

/// The median time of some runs of `work`, which gives `None` where it fails.
fn median_time(runs: usize, mut work: impl FnMut() -> Option<()>) -> Option<Duration> {
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed());
    }
    times.sort();
    times.get(runs / 2).copied()
}
