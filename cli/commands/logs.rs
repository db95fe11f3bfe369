//! `district logs`.

use anyhow::Result;
use clap::Args;

use super::event_line::EventPrinter;
use super::{Place, exit, session};
use crate::api::event::EventKind;
use crate::api::name::Name;
use crate::terminal::output::{self, Output};

/// Print the logs of districts
#[derive(Debug, Args)]
#[command(after_help = "\
Lines of several districts have the time and the name before them, those of one district are printed as they are.

Examples:
  district logs counter --lines 100
  district logs --follow")]
pub struct Logs {
    /// Of these districts; none: of all
    #[arg(value_name = "NAME")]
    names: Vec<Name>,
    /// Go on with the lines that come
    #[arg(short, long)]
    follow: bool,
    /// How many of the last lines to begin with
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10_000)]
    lines: usize,
    /// Print one JSON document for each line
    #[arg(long)]
    json: bool,
}

impl Logs {
    pub(super) fn run(self, place: &Place) -> Result<u8> {
        let client = session::join(&place.state_dir()?)?;
        if self.follow {
            // The next line may be long in coming.
            output::when_closed(|| std::process::exit(i32::from(exit::SUCCESS)))?;
        }
        let plain = self.names.len() == 1 && !self.json;
        let output = Output::standard();
        let mut printer = EventPrinter::new(&self.names, self.json);
        for event in client.logs(&self.names, self.lines, self.follow)? {
            let event = event?;
            if plain && event.kind == EventKind::Log {
                output.foreign_line(&event.text)?;
            } else {
                printer.print(&event)?;
            }
        }
        Ok(exit::SUCCESS)
    }
}
