//! `district export`.

use std::path::{self, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use super::snapshot::say;
use super::{Place, exit, progress, session};
use crate::api::name::Name;
use crate::api::snapshot::Tag;
use crate::terminal::output::Output;

/// Write a snapshot to a file that another host can import
#[derive(Debug, Args)]
#[command(after_help = "\
The file has the memory and what the district was made of, but not the program's file. There must be no file of that
name yet. Whoever can read it can read all that the district knows.

Example:
  district export counter monday counter.district")]
pub struct Export {
    /// Of which district
    name: Name,
    /// Which snapshot of it
    tag: Tag,
    /// The new file
    file: PathBuf,
}

impl Export {
    pub(super) fn run(self, place: &Place) -> Result<u8> {
        let client = session::join(&place.state_dir()?)?;
        let file = path::absolute(&self.file).with_context(|| self.file.display().to_string())?;
        let info = progress::watched(&client, &self.name, |client| client.export(&self.name, &self.tag, &file))?;
        say(&Output::standard(), &info)?;
        Ok(exit::SUCCESS)
    }
}
