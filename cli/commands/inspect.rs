//! `district inspect`: who can reach what.

use anyhow::Result;
use clap::Args;
use district_protocol::rights::Rights;

use super::{Place, exit, session};
use crate::api::info::KeyInfo;
use crate::api::name::Name;
use crate::terminal::output::Output;
use crate::terminal::table::Table;

/// List the keys that districts hold: who can reach what
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  district inspect counter")]
pub struct Inspect {
    /// Of this district; none: of all
    name: Option<Name>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) fn run(self, place: &Place) -> Result<u8> {
        let keys = session::join(&place.state_dir()?)?.keys(self.name.as_ref())?;
        let output = Output::standard();
        if self.json {
            output.json(&keys)?;
        } else if keys.is_empty() {
            output.line("no keys")?;
        } else {
            output.table(&table(&keys))?;
        }
        Ok(exit::SUCCESS)
    }
}

fn table(keys: &[KeyInfo]) -> Table {
    let mut table = Table::new(&["HOLDER", "HANDLE", "KIND", "TARGET", "RIGHTS", "BADGE", "FROM", "STATE"]);
    for key in keys {
        let kind = if key.weak { format!("{} (weak)", key.kind) } else { key.kind.clone() };
        let rights = if key.rights.len() == Rights::NAMES.len() { "all".to_owned() } else { key.rights.join(",") };
        table.row([
            key.holder.to_string(),
            format!("{:#x}", key.handle),
            kind,
            key.target.clone(),
            rights,
            key.badge.map(|badge| badge.to_string()).unwrap_or_default(),
            key.from.as_ref().map(Name::to_string).unwrap_or_default(),
            key.broken.as_ref().map_or_else(|| "live".to_owned(), |why| format!("broken: {why}")),
        ]);
    }
    table
}
