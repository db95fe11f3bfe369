//! `district remove`.

use anyhow::Result;
use clap::Args;

use super::{Place, exit, session};
use crate::api::name::Name;
use crate::api::rules::Wrong;
use crate::api::snapshot::Tag;
use crate::terminal::output::Output;

/// Forget stopped districts, with all their state, or a snapshot
#[derive(Debug, Args)]
#[command(after_help = "\
What the district has stored is gone after this, its checkpoints and snapshots with it. It must not be running. With
--snapshot only that snapshot goes, whatever the district is doing. Clones stay.

Examples:
  district remove counter reader
  district remove counter --snapshot monday")]
pub struct Remove {
    /// Which ones
    #[arg(value_name = "NAME", required = true)]
    names: Vec<Name>,
    /// Only this snapshot of the district
    #[arg(long, value_name = "TAG")]
    snapshot: Option<Tag>,
}

impl Remove {
    pub(super) fn run(self, place: &Place) -> Result<u8> {
        if self.snapshot.is_some() && self.names.len() > 1 {
            let remedy = "each district has snapshots of its own; remove one at a time";
            return Err(Wrong::new("a snapshot of several districts was named", remedy).into());
        }
        let client = session::join(&place.state_dir()?)?;
        let output = Output::standard();
        for name in &self.names {
            match &self.snapshot {
                Some(tag) => {
                    client.remove_snapshot(name, tag)?;
                    output.line(&format!("{name}  snapshot {tag} removed"))?;
                }
                None => {
                    client.remove(name)?;
                    output.line(&format!("{name}  removed"))?;
                }
            }
        }
        Ok(exit::SUCCESS)
    }
}
