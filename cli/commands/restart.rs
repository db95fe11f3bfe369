//! `district restart`.

use anyhow::Result;
use clap::Args;

use super::beginning::BeginningArguments;
use super::start::say;
use super::{Place, exit, session};
use crate::api::name::Name;
use crate::terminal::output::Output;

/// End a district and start it in a new epoch
#[derive(Debug, Args)]
#[command(after_help = "\
Everybody else's keys to it break; they can look it up again. Where checkpoints are taken, one is taken before, and the
district goes on from there, unless --from or --cold says otherwise. Going back to a snapshot drops all checkpoints.

Examples:
  district restart counter
  district restart counter --from monday")]
pub struct Restart {
    /// Which one
    name: Name,
    #[command(flatten)]
    beginning: BeginningArguments,
}

impl Restart {
    pub(super) fn run(self, place: &Place) -> Result<u8> {
        let client = session::join(&place.state_dir()?)?;
        say(&Output::standard(), &client.restart_from(&self.name, self.beginning.beginning())?)?;
        Ok(exit::SUCCESS)
    }
}
