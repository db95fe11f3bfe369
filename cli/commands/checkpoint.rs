//! `district checkpoint`.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::{Place, exit, progress, session};
use crate::api::info::CheckpointInfo;
use crate::api::name::Name;
use crate::terminal::output::Output;
use crate::terminal::units;

/// Take a checkpoint of a running district now
#[derive(Debug, Args)]
#[command(after_help = "\
The district goes on from it when it is started the next time. Its manifest must have `checkpoints`.

Example:
  district checkpoint counter")]
pub struct Checkpoint {
    /// Which one
    name: Name,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

impl Checkpoint {
    pub(super) fn run(self, place: &Place) -> Result<u8> {
        let client = session::join(&place.state_dir()?)?;
        let taken = progress::watched(&client, &self.name, |client| client.checkpoint(&self.name))?;
        let output = Output::standard();
        if self.json {
            output.json(&taken)?;
        } else {
            output.line(&line(&self.name, &taken))?;
        }
        Ok(exit::SUCCESS)
    }
}

fn line(name: &Name, taken: &CheckpointInfo) -> String {
    let time = |us: u64| units::rough_time(Duration::from_micros(us));
    let mut line = format!("{name}  generation {}", taken.generation);
    // What an earlier daemon had taken, and nothing has happened since, has its number alone.
    if let (Some(pause), Some(total)) = (taken.pause_us, taken.total_us) {
        line += &format!(
            ": {} pages, {} more are zero, {}; it stood still for {}, durable after {}",
            taken.data_pages,
            taken.zero_pages,
            units::rough_size(taken.bytes),
            time(pause),
            time(total),
        );
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_it_has_cost_if_that_is_known() {
        let name = Name::new("a").unwrap();
        let bare = CheckpointInfo { generation: 7, ..CheckpointInfo::default() };
        assert_eq!(line(&name, &bare), "a  generation 7");
        let costs =
            CheckpointInfo { data_pages: 5, bytes: 24 << 10, pause_us: Some(210), total_us: Some(12_000), ..bare };
        assert_eq!(
            line(&name, &costs),
            "a  generation 7: 5 pages, 0 more are zero, 24 KiB; it stood still for 210 us, durable after 12 ms"
        );
    }
}
