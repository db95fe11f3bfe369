//! `district vmm`: the process around one district. The daemon starts it; people do not.

use anyhow::{Context, Result};
use clap::Args;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// The process around one district; started by the daemon
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct Vmm {
    /// End with the process of this number, which started this one
    #[arg(long, value_name = "PID")]
    tied: Option<u32>,
}

impl Vmm {
    pub(super) fn run(self) -> Result<u8> {
        if let Some(parent) = self.tied {
            set_parent_process_death_signal(Some(Signal::KILL)).context("cannot be tied to its parent")?;
            // One that died before that sends no signal any more.
            let now = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
            anyhow::ensure!(now == Some(parent), "the process that started it has ended");
        }
        district_vmm::process::run()?;
        Ok(super::exit::SUCCESS)
    }
}
