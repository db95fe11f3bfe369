//! What a person can ask for: one file each, with its arguments, its help and what it does.

mod beginning;
mod checkpoint;
mod checkpoints;
mod clone;
mod completions;
mod daemon;
mod doctor;
mod event_line;
mod export;
mod import;
mod inspect;
mod interrupt;
mod logs;
mod progress;
mod ps;
mod remove;
mod restart;
mod run;
mod session;
mod snapshot;
mod snapshots;
mod start;
mod stop;
mod up;
pub mod vmm;
mod watch;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

use crate::api::rules::Wrong;
use crate::manifest::image::ImageSearch;
use crate::state_dir::StateDir;

/// Exit codes.
pub mod exit {
    /// Done.
    pub const SUCCESS: u8 = 0;
    /// Not done, or a district failed for good.
    pub const FAILURE: u8 = 1;
    /// The command line or the manifest is wrong.
    pub const USAGE: u8 = 2;
    /// `run`: the district could not be started.
    pub const NOT_STARTED: u8 = 125;
    /// `run`: the district ended otherwise than by exiting.
    pub const NOT_EXITED: u8 = 126;
    /// A signal ended the command.
    pub const INTERRUPTED: u8 = 130;
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 not done, or a district failed for good; 2 the command line or the manifest is wrong;
130 interrupted. `run` has more: the program's own code, 125 and 126; see `district run --help`.

Examples:
  district doctor              can this host run districts?
  district run ./hello         run one program
  district up districts.toml   run what a manifest says, until it ends";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "district",
    version,
    about = "Run programs in districts: microVMs that hold one key and nothing else",
    after_help = EXIT_CODES,
    disable_help_subcommand = true
)]
pub struct Arguments {
    /// State directory; else DISTRICT_DIR, $XDG_STATE_HOME/district, ~/.local/state/district
    #[arg(long, global = true, env = "DISTRICT_DIR", hide_env = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::Up),
    Run(run::Run),
    Start(start::Start),
    Stop(stop::Stop),
    Restart(restart::Restart),
    #[command(visible_alias = "rm")]
    Remove(remove::Remove),
    Ps(ps::Ps),
    Logs(logs::Logs),
    Inspect(inspect::Inspect),
    Checkpoint(checkpoint::Checkpoint),
    Checkpoints(checkpoints::Checkpoints),
    Snapshot(snapshot::Snapshot),
    Snapshots(snapshots::Snapshots),
    Clone(clone::Clone),
    Export(export::Export),
    Import(import::Import),
    Daemon(daemon::Daemon),
    Doctor(doctor::Doctor),
    Completions(completions::Completions),
}

/// Where images are, beside the manifest or the current directory.
#[derive(Debug, Args)]
struct ImageArguments {
    /// Where else to look for images; else DISTRICT_IMAGES
    #[arg(long, env = "DISTRICT_IMAGES", hide_env = true, value_name = "DIR")]
    images: Option<PathBuf>,
}

impl ImageArguments {
    fn search(&self) -> ImageSearch {
        ImageSearch { folder: self.images.clone() }
    }
}

/// Which state directory a command is about.
#[derive(Debug)]
struct Place {
    given: Option<PathBuf>,
}

impl Place {
    /// Whether somebody said which, on the command line or in the environment.
    fn is_given(&self) -> bool {
        self.given.is_some()
    }

    fn state_dir(&self) -> Result<StateDir, Wrong> {
        StateDir::choose(self.given.as_deref())
    }
}

/// Does what the command line says, and gives the exit code.
///
/// # Errors
/// Why it could not be done.
pub fn run(arguments: Arguments) -> Result<u8> {
    let place = Place { given: arguments.dir };
    match arguments.command {
        Command::Up(up) => up.run(&place),
        Command::Run(run) => run.run(&place),
        Command::Start(start) => start.run(&place),
        Command::Stop(stop) => stop.run(&place),
        Command::Restart(restart) => restart.run(&place),
        Command::Remove(remove) => remove.run(&place),
        Command::Ps(ps) => ps.run(&place),
        Command::Logs(logs) => logs.run(&place),
        Command::Inspect(inspect) => inspect.run(&place),
        Command::Checkpoint(checkpoint) => checkpoint.run(&place),
        Command::Checkpoints(checkpoints) => checkpoints.run(&place),
        Command::Snapshot(snapshot) => snapshot.run(&place),
        Command::Snapshots(snapshots) => snapshots.run(&place),
        Command::Clone(clone) => clone.run(&place),
        Command::Export(export) => export.run(&place),
        Command::Import(import) => import.run(&place),
        Command::Daemon(daemon) => daemon.run(&place),
        Command::Doctor(doctor) => doctor.run(&place),
        Command::Completions(completions) => completions.run(),
    }
}
