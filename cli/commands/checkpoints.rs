//! `district checkpoints`: what a district can go back to.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::{Place, exit, session};
use crate::api::event::now_ms;
use crate::api::info::CheckpointInfo;
use crate::api::name::Name;
use crate::terminal::output::Output;
use crate::terminal::table::Table;
use crate::terminal::units;

/// List the checkpoints of a district, the newest last
#[derive(Debug, Args)]
#[command(after_help = "\
`district restart NAME --from GENERATION` goes back to one that is restorable. Older ones go as newer ones come; a
snapshot stays. PAUSE and TOTAL are known of those that the running daemon has seen; a checkpoint that only the image of
the memory has, not the log, has no pages and no size of its own.

Example:
  district checkpoints counter")]
pub struct Checkpoints {
    /// Of which one
    name: Name,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

impl Checkpoints {
    pub(super) fn run(self, place: &Place) -> Result<u8> {
        let checkpoints = session::join(&place.state_dir()?)?.checkpoints(&self.name)?;
        let output = Output::standard();
        if self.json {
            output.json(&checkpoints)?;
        } else if checkpoints.is_empty() {
            output.line("no checkpoints")?;
        } else {
            output.table(&table(&checkpoints, now_ms()))?;
        }
        Ok(exit::SUCCESS)
    }
}

fn table(checkpoints: &[CheckpointInfo], now: u64) -> Table {
    let time = |us: Option<u64>| us.map(|us| units::rough_time(Duration::from_micros(us))).unwrap_or_default();
    let mut table =
        Table::new(&["GENERATION", "PARENT", "EPOCH", "AGE", "PAGES", "ZERO", "SIZE", "PAUSE", "TOTAL", "STATE"]);
    for info in checkpoints {
        let logged = |text: String| if info.bytes == 0 { String::new() } else { text };
        table.row([
            info.generation.to_string(),
            if info.parent == 0 { String::new() } else { info.parent.to_string() },
            info.epoch.to_string(),
            units::rough_span(now.saturating_sub(info.time_ms)),
            logged(info.data_pages.to_string()),
            logged(info.zero_pages.to_string()),
            logged(units::rough_size(info.bytes)),
            time(info.pause_us),
            time(info.total_us),
            if info.restorable { "restorable".to_owned() } else { info.obstacle.clone().unwrap_or_default() },
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_is_known() {
        let image = CheckpointInfo { generation: 6, epoch: 1, restorable: true, ..CheckpointInfo::default() };
        let logged = CheckpointInfo {
            generation: 7,
            parent: 6,
            epoch: 2,
            time_ms: 1000,
            data_pages: 3,
            bytes: 16 << 10,
            pause_us: Some(90),
            total_us: Some(8000),
            restorable: false,
            obstacle: Some("damaged".to_owned()),
            ..image.clone()
        };
        let lines = table(&[image, logged], 3500).lines();
        assert_eq!(lines[0], "GENERATION  PARENT  EPOCH  AGE   PAGES  ZERO  SIZE    PAUSE  TOTAL    STATE");
        assert_eq!(lines[1], "6           -       1      3.5s  -      -     -       -      -        restorable");
        assert_eq!(lines[2], "7           6       2      2.5s  3      0     16 KiB  90 us  8000 us  damaged");
    }
}
