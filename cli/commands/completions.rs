//! `district completions`: what a shell needs to complete command lines.

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Arguments, exit};
use crate::terminal::output::Output;

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  district completions bash > ~/.local/share/bash-completion/completions/district")]
pub struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<u8> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "district", &mut script);
        Output::standard().line(String::from_utf8_lossy(&script).trim_end())?;
        Ok(exit::SUCCESS)
    }
}
