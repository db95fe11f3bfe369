//! `district clone`.

use anyhow::Result;
use clap::Args;

use super::start::say;
use super::{Place, exit, progress, session};
use crate::api::name::Name;
use crate::api::snapshot::{CloneRequest, Tag};
use crate::terminal::output::Output;

/// Make and start a copy of a district, with its memory
#[derive(Debug, Args)]
#[command(after_help = "\
The copy has a name and an identity of its own and holds no key but the first; what it finds with that is what the
original was granted. The original is not disturbed.

Examples:
  district clone counter counter-2
  district clone counter counter-of-monday --from monday")]
pub struct Clone {
    /// Of which one
    name: Name,
    /// Name of the copy
    new: Name,
    /// As it was in this snapshot; else as it is now
    #[arg(long, value_name = "TAG")]
    from: Option<Tag>,
}

impl Clone {
    pub(super) fn run(self, place: &Place) -> Result<u8> {
        let client = session::join(&place.state_dir()?)?;
        let request = CloneRequest { name: self.new, from: self.from };
        let info = progress::watched(&client, &self.name, |client| client.clone_district(&self.name, &request))?;
        say(&Output::standard(), &info)?;
        Ok(exit::SUCCESS)
    }
}
