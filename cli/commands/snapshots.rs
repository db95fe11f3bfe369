//! `district snapshots`: a table of what is kept.

use anyhow::Result;
use clap::Args;

use super::{Place, exit, session};
use crate::api::name::Name;
use crate::api::snapshot::SnapshotInfo;
use crate::terminal::clock;
use crate::terminal::output::Output;
use crate::terminal::table::Table;
use crate::terminal::units;

/// List snapshots
#[derive(Debug, Args)]
#[command(after_help = "\
DISK is what the file takes; clones that were made from a snapshot share it.

Example:
  district snapshots counter")]
pub struct Snapshots {
    /// Of this district; none: of all
    name: Option<Name>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

impl Snapshots {
    pub(super) fn run(self, place: &Place) -> Result<u8> {
        let snapshots = session::join(&place.state_dir()?)?.snapshots(self.name.as_ref())?;
        let output = Output::standard();
        if self.json {
            output.json(&snapshots)?;
        } else if snapshots.is_empty() {
            output.line("no snapshots")?;
        } else {
            output.table(&table(&snapshots))?;
        }
        Ok(exit::SUCCESS)
    }
}

fn table(snapshots: &[SnapshotInfo]) -> Table {
    let mut table = Table::new(&["DISTRICT", "TAG", "GENERATION", "TAKEN", "MEMORY", "DISK"]);
    for info in snapshots {
        table.row([
            info.district.to_string(),
            info.tag.to_string(),
            info.generation.to_string(),
            clock::date_and_time(info.time_ms),
            units::rough_size(info.memory),
            units::rough_size(info.disk),
        ]);
    }
    table
}
