//! `district ps`: a table of districts.

use anyhow::Result;
use clap::Args;

use super::{Place, exit, session};
use crate::api::info::DistrictInfo;
use crate::terminal::output::Output;
use crate::terminal::table::Table;
use crate::terminal::units;

/// List districts
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  district ps --json | jq '.[] | select(.state != \"running\") | .name'")]
pub struct Ps {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

impl Ps {
    pub(super) fn run(self, place: &Place) -> Result<u8> {
        let districts = session::join(&place.state_dir()?)?.list()?;
        let output = Output::standard();
        if self.json {
            output.json(&districts)?;
        } else if districts.is_empty() {
            output.line("no districts")?;
        } else {
            output.table(&table(&districts))?;
        }
        Ok(exit::SUCCESS)
    }
}

fn table(districts: &[DistrictInfo]) -> Table {
    let mut table = Table::new(&["NAME", "STATE", "UPTIME", "EPOCH", "RESTARTS", "MEMORY", "PID", "LAST END"]);
    for info in districts {
        table.row([
            info.name.to_string(),
            info.state.to_string(),
            info.uptime_ms.map(units::rough_span).unwrap_or_default(),
            info.epoch.to_string(),
            info.restarts.to_string(),
            units::rough_size(info.memory),
            info.pid.map(|pid| pid.to_string()).unwrap_or_default(),
            info.last_end.as_ref().map(|end| first_line(&end.text)).unwrap_or_default(),
        ]);
    }
    table
}

/// What fits a table of a text that a guest may have written.
fn first_line(text: &str) -> String {
    const MOST: usize = 60;
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= MOST {
        return line.to_owned();
    }
    line.chars().take(MOST - 3).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::info::{End, State};
    use crate::api::name::Name;

    #[test]
    fn a_row_is_one_line_whatever_the_guest_said() {
        let info = DistrictInfo {
            name: Name::new("counter").unwrap(),
            id: "0".repeat(32),
            state: State::BackingOff,
            epoch: 3,
            pid: None,
            restarts: 2,
            uptime_ms: None,
            memory: 16 << 20,
            last_end: Some(End {
                time_ms: 0,
                exit_code: Some(3),
                text: format!("exited with 3: {}\nx", "y".repeat(99)),
            }),
        };
        let lines = table(&[info]).lines();
        assert_eq!(lines[0], "NAME     STATE        UPTIME  EPOCH  RESTARTS  MEMORY  PID  LAST END");
        assert!(lines[1].starts_with("counter  backing off  -       3      2         16 MiB  -    exited with 3: yyy"));
        assert!(lines[1].ends_with("yyy..."));
        assert_eq!(lines.len(), 2);
    }
}
