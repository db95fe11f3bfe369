//! `district snapshot`.

use anyhow::Result;
use clap::Args;

use super::{Place, exit, progress, session};
use crate::api::name::Name;
use crate::api::snapshot::{SnapshotInfo, Tag};
use crate::terminal::output::{Output, OutputError};
use crate::terminal::units;

/// Keep a district's memory, as it is now, under a name
#[derive(Debug, Args)]
#[command(after_help = "\
A district that runs goes on; of one that does not, this is the memory of its last checkpoint. A snapshot stays as it is
until `district remove NAME --snapshot TAG`. `district restart NAME --from TAG` goes back to it, and
`district clone NAME NEW --from TAG` makes another district of it.

Example:
  district snapshot counter --tag before-upgrade")]
pub struct Snapshot {
    /// Of which one
    name: Name,
    /// What to call it [default: g and the generation]
    #[arg(long)]
    tag: Option<Tag>,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

impl Snapshot {
    pub(super) fn run(self, place: &Place) -> Result<u8> {
        let client = session::join(&place.state_dir()?)?;
        let info = progress::watched(&client, &self.name, |client| client.snapshot(&self.name, self.tag))?;
        let output = Output::standard();
        if self.json {
            output.json(&info)?;
        } else {
            say(&output, &info)?;
        }
        Ok(exit::SUCCESS)
    }
}

/// One line about a snapshot.
pub(super) fn say(output: &Output, info: &SnapshotInfo) -> Result<(), OutputError> {
    output.line(&format!(
        "{}  snapshot {} of generation {}: {} of memory, {} on the disk",
        info.district,
        info.tag,
        info.generation,
        units::rough_size(info.memory),
        units::rough_size(info.disk),
    ))
}
