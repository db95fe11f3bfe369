//! `district daemon`: the broker and supervisor of this host, in the foreground.

use anyhow::{Result, bail};
use clap::Args;
use std::io::Write;

use super::{Place, exit, interrupt, session};
use crate::api::client::ClientError;
use crate::api::command::{Command, Leave, Reply};
use crate::daemon::{self, Options};

/// Run the daemon of this host in the foreground
#[derive(Debug, Args)]
#[command(after_help = "\
A signal ends it: SIGINT, SIGTERM or SIGHUP. The daemon that is started next takes over districts that still run.

Example:
  district daemon --leave-running")]
pub struct Daemon {
    /// Let districts run on when the daemon ends, instead of stopping them
    #[arg(long)]
    leave_running: bool,
}

impl Daemon {
    pub(super) fn run(self, place: &Place) -> Result<u8> {
        let directory = place.state_dir()?;
        directory.prepare()?;
        match session::find(&directory) {
            Ok(None) => {}
            Ok(Some(_)) => bail!("a daemon is running at {} already", directory.path().display()),
            // One that was killed this moment, whose socket a process has that it was starting. If it does live, it has
            // the lock.
            Err(ClientError::Lost(_)) => {}
            Err(error) => return Err(error.into()),
        }
        // What concerns the operator of the host; what districts say is in their logs.
        env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
        let daemon = daemon::start(Options { directory: directory.clone(), hosted: false })?;
        let mailbox = daemon.mailbox().clone();
        let leave = if self.leave_running { Leave::Running } else { Leave::Stopped };
        interrupt::handle(move || {
            // Refused only when the daemon is ending already, or too busy; a second signal then helps.
            let _ = mailbox.post(Command::Shutdown(leave, Reply::new().0));
        })?;
        // For people and for scripts that wait until it is up; neither need be there.
        let _ = writeln!(std::io::stderr(), "the daemon listens at {}", directory.socket().display());
        daemon.join()?;
        Ok(exit::SUCCESS)
    }
}
