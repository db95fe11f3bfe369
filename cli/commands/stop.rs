//! `district stop`.

use anyhow::Result;
use clap::Args;

use super::start::say;
use super::{Place, exit, session};
use crate::api::name::Name;
use crate::terminal::output::Output;

/// Stop districts
#[derive(Debug, Args)]
#[command(after_help = "\
A stopped district keeps its state: `district start NAME` starts it again.

Example:
  district stop counter reader")]
pub struct Stop {
    /// Which ones
    #[arg(value_name = "NAME", required = true)]
    names: Vec<Name>,
}

impl Stop {
    pub(super) fn run(self, place: &Place) -> Result<u8> {
        let client = session::join(&place.state_dir()?)?;
        let output = Output::standard();
        for name in &self.names {
            say(&output, &client.stop(name)?)?;
        }
        Ok(exit::SUCCESS)
    }
}
