//! `district up`: what a manifest says, until it ends.

use anyhow::{Result, bail};
use clap::Args;
use std::path::PathBuf;

use super::event_line::EventPrinter;
use super::interrupt::{Interrupt, stop_all, stop_when_interrupted};
use super::session::Session;
use super::watch::{Watch, follow};
use super::{ImageArguments, Place, exit};
use crate::api::client::Client;
use crate::api::name::Name;
use crate::api::spec::Spec;
use crate::manifest::Manifest;
use crate::terminal::output::OutputError;

/// Start the districts of a manifest and follow them until all have ended
#[derive(Debug, Args)]
#[command(after_help = "\
Where no daemon is running, this command is one for as long as it runs. Ctrl-C stops the districts; a second one
ends the command at once.

Exit codes: 0 all ended; 1 one failed for good; 2 the manifest is wrong; 130 interrupted.

Example:
  district up examples/counter.toml")]
pub struct Up {
    /// The manifest
    file: PathBuf,
    #[command(flatten)]
    images: ImageArguments,
    /// Print one JSON document for each event
    #[arg(long)]
    json: bool,
}

impl Up {
    pub(super) fn run(self, place: &Place) -> Result<u8> {
        // A mistake in the manifest is reported before anything is touched.
        let manifest = Manifest::load(&self.file, &self.images.search())?;
        let session = Session::join_or_host(&place.state_dir()?)?;
        let names: Vec<Name> = manifest.districts.iter().map(|spec| spec.name.clone()).collect();
        let interrupt = stop_when_interrupted(&session.client, names.clone())?;

        let mut watch = Watch::new(&names);
        let mut printer = EventPrinter::new(&names, self.json);
        let result = start_and_follow(&session.client, manifest.districts, &interrupt, &mut watch, &mut printer);
        let result = match result {
            // Nobody looks any more: as if interrupted, but that is no failure.
            Err(error) if error.is::<OutputError>() => {
                stop_all(&session.client, &names);
                Err(error)
            }
            Ok(()) if session.is_hosted() && !interrupt.has_come() => wait_for_others(&session.client, &mut printer),
            other => other,
        };
        session.close()?;
        result?;
        if interrupt.has_come() {
            return Ok(exit::INTERRUPTED);
        }
        let failed: Vec<&str> = watch.failed().into_iter().map(Name::as_str).collect();
        if failed.is_empty() {
            return Ok(exit::SUCCESS);
        }
        bail!("failed for good: {}", failed.join(", "))
    }
}

fn start_and_follow(
    client: &Client,
    specs: Vec<Spec>,
    interrupt: &Interrupt,
    watch: &mut Watch,
    printer: &mut EventPrinter,
) -> Result<()> {
    let names: Vec<Name> = specs.iter().map(|spec| spec.name.clone()).collect();
    // First the ear, then the noise: nothing that happens in between is missed.
    let events = client.events(&names, true)?;
    client.start(specs)?;
    interrupt.catch_up(client, &names);
    follow(client, events, watch, |event| Ok(printer.print(event)?))
}

/// Other clients may have started districts at the daemon in this process. Those go on until they end too.
fn wait_for_others(client: &Client, printer: &mut EventPrinter) -> Result<()> {
    let events = client.events(&[], true)?;
    let others: Vec<Name> =
        client.list()?.into_iter().filter(|info| !info.state.is_over()).map(|info| info.name).collect();
    if others.is_empty() {
        return Ok(());
    }
    let mut watch = Watch::new(&others);
    follow(client, events, &mut watch, |event| Ok(printer.print(event)?))
}
