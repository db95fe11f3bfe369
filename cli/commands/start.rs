//! `district start`: districts at a running daemon, without following them.

use anyhow::Result;
use clap::Args;
use std::path::Path;

use super::beginning::BeginningArguments;
use super::{ImageArguments, Place, exit, session};
use crate::api::info::DistrictInfo;
use crate::api::name::Name;
use crate::api::rules::Wrong;
use crate::manifest::Manifest;
use crate::terminal::output::{Output, OutputError};

/// Start the districts of a manifest, or a stopped district, at the running daemon
#[derive(Debug, Args)]
#[command(after_help = "\
What ends with `.toml` or has a `/` in it is a manifest, anything else the name of a district. Where checkpoints are
taken, a district goes on from its newest one, unless --from or --cold says otherwise.

Examples:
  district start examples/counter.toml
  district start counter
  district start counter --from monday")]
pub struct Start {
    /// A manifest, or the name of a district that the daemon knows
    #[arg(value_name = "FILE|NAME")]
    what: String,
    #[command(flatten)]
    images: ImageArguments,
    #[command(flatten)]
    beginning: BeginningArguments,
}

impl Start {
    pub(super) fn run(self, place: &Place) -> Result<u8> {
        let output = Output::standard();
        if self.what.contains('/') || self.what.ends_with(".toml") {
            if !self.beginning.is_usual() {
                let remedy = "use `district restart NAME` for one of its districts";
                return Err(Wrong::new("--from and --cold are about one district, not about a manifest", remedy).into());
            }
            let manifest = Manifest::load(Path::new(&self.what), &self.images.search())?;
            for info in session::join(&place.state_dir()?)?.start(manifest.districts)? {
                say(&output, &info)?;
            }
        } else {
            let name = Name::new(&self.what)?;
            say(&output, &session::join(&place.state_dir()?)?.start_from(&name, self.beginning.beginning())?)?;
        }
        Ok(exit::SUCCESS)
    }
}

/// One line about a district that was asked to change.
pub(super) fn say(output: &Output, info: &DistrictInfo) -> Result<(), OutputError> {
    output.line(&format!("{}  {} (epoch {})", info.name, info.state, info.epoch))
}
