//! `district remove`.

use anyhow::Result;
use clap::Args;

use super::{Place, exit, session};
use crate::api::name::Name;
use crate::terminal::output::Output;

/// Forget stopped districts, with all their state
#[derive(Debug, Args)]
#[command(after_help = "\
What the district has stored is gone after this. It must not be running.

Example:
  district remove counter")]
pub struct Remove {
    /// Which ones
    #[arg(value_name = "NAME", required = true)]
    names: Vec<Name>,
}

impl Remove {
    pub(super) fn run(self, place: &Place) -> Result<u8> {
        let client = session::join(&place.state_dir()?)?;
        let output = Output::standard();
        for name in &self.names {
            client.remove(name)?;
            output.line(&format!("{name}  removed"))?;
        }
        Ok(exit::SUCCESS)
    }
}
