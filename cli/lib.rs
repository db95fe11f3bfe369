//! The `district` command: the only place that composes the other crates.
//!
//! [`commands`] has one file for each thing that a person can ask for. All but a few of them are clients of a daemon,
//! through [`api`]; `up` and `run` host one in their own process where none is running. [`manifest`] turns what a
//! person writes into what the daemon takes. [`terminal`] is how things are shown.

pub mod api;
pub mod commands;
pub mod daemon;
pub mod doctor;
pub mod manifest;
pub mod state_dir;
pub mod terminal;

use clap::Parser;
use std::io::Write;
use std::process::ExitCode;

use api::rules::Wrong;
use commands::{Arguments, exit};
use manifest::Mistakes;
use terminal::output;

/// The command line of this process, from its arguments to its exit code.
pub fn main() -> ExitCode {
    let result = commands::vmm::run_if_asked(std::env::args_os().skip(1))
        // Help and mistakes end the process here, with the codes 0 and 2.
        .unwrap_or_else(|| commands::run(Arguments::parse()));
    let code = result.unwrap_or_else(|error| {
        if output::is_closed(&error) {
            return exit::SUCCESS;
        }
        let said = match error.downcast_ref() {
            Some(Wrong { what, remedy }) => format!("{what}\n  remedy: {remedy}"),
            None => format!("{error:#}"),
        };
        // Nothing can be done about a closed standard error.
        let _ = writeln!(std::io::stderr(), "error: {said}");
        if error.is::<Mistakes>() || error.is::<Wrong>() { exit::USAGE } else { exit::FAILURE }
    });
    ExitCode::from(code)
}
