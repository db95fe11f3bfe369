//! `district restart`.

use anyhow::Result;
use clap::Args;

use super::start::say;
use super::{Place, exit, session};
use crate::api::name::Name;
use crate::terminal::output::Output;

/// End a district and start it in a new epoch
#[derive(Debug, Args)]
#[command(after_help = "\
Everybody else's keys to it break; they can look it up again.

Example:
  district restart counter")]
pub struct Restart {
    /// Which one
    name: Name,
}

impl Restart {
    pub(super) fn run(self, place: &Place) -> Result<u8> {
        let client = session::join(&place.state_dir()?)?;
        say(&Output::standard(), &client.restart(&self.name)?)?;
        Ok(exit::SUCCESS)
    }
}
