//! `district import`.

use std::path::{self, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use super::start::say;
use super::{Place, exit, progress, session};
use crate::api::name::Name;
use crate::terminal::output::Output;

/// Make a district of an exported snapshot, without starting it
#[derive(Debug, Args)]
#[command(after_help = "\
The file says what the district is granted. Start the new district with `district start NAME` if you trust whoever wrote
it; else give it a manifest of your own under its name and start that: it keeps the memory and gets your grants.

Example:
  district import counter.district counter-2")]
pub struct Import {
    /// The file
    file: PathBuf,
    /// Name of the new district
    name: Name,
}

impl Import {
    pub(super) fn run(self, place: &Place) -> Result<u8> {
        let client = session::join(&place.state_dir()?)?;
        let file = path::absolute(&self.file).with_context(|| self.file.display().to_string())?;
        let info = progress::watched(&client, &self.name, |client| client.import(&file, &self.name))?;
        say(&Output::standard(), &info)?;
        Ok(exit::SUCCESS)
    }
}
