//! `district run`: one program in a district of its own, like an ordinary command.

use anyhow::Result;
use clap::Args;
use district_protocol::layout::WINDOW_SIZE_DEFAULT;
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

use super::interrupt::{Interrupt, stop_all, stop_when_interrupted};
use super::session::{self, Session};
use super::watch::{Watch, follow};
use super::{ImageArguments, Place, exit};
use crate::api::client::Client;
use crate::api::event::{Event, EventKind};
use crate::api::name::{NAME_MAX, Name};
use crate::api::rules::{self, Wrong};
use crate::api::spec::{Grant, Policy, Spec, Target};
use crate::manifest::parse_target;
use crate::state_dir::StateDir;
use crate::terminal::output::{Output, OutputError};
use crate::terminal::text::printable;
use crate::terminal::units;

/// Run one program in a district and print its log
#[derive(Debug, Args)]
#[command(after_help = "\
The program finds `log`, `clock` and `random` in its directory, and what --grant adds. Where no daemon is running,
this command is one, with a state directory of its own that it removes. Ctrl-C stops the district; a second one ends
the command at once.

Exit codes: the program's own; 125 it could not be started; 126 it ended by a fault, or was stopped; 130 interrupted.

Examples:
  district run ./hello
  district run ./counter --memory 8MiB --grant limit=42 -- --verbose")]
pub struct Run {
    /// The program, an ELF file
    image: String,
    /// Bytes of RAM
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = memory)]
    memory: u64,
    /// A key for the program: `host/log`, `host/checkpoint` and such, `DISTRICT/NAME` or a number
    #[arg(long = "grant", value_name = "NAME=TARGET", value_parser = grant)]
    grants: Vec<(String, Grant)>,
    /// Without the keys that every program gets here
    #[arg(long)]
    bare: bool,
    /// Name of the district [default: made from the image's]
    #[arg(long)]
    name: Option<Name>,
    #[command(flatten)]
    images: ImageArguments,
    /// Arguments of the program
    #[arg(last = true)]
    arguments: Vec<String>,
}

fn memory(text: &str) -> Result<u64, Wrong> {
    let size = units::parse_size(text)
        .ok_or_else(|| Wrong::new(format!("{text:?} is no size"), "write a whole number and KiB, MiB or GiB: 8MiB"))?;
    rules::memory(size).map(|()| size)
}

fn grant(text: &str) -> Result<(String, Grant), Wrong> {
    let (name, target) =
        text.split_once('=').ok_or_else(|| Wrong::new(format!("{text:?} has no `=`"), "write NAME=TARGET"))?;
    rules::grant_name(name)?;
    let to = match target.parse() {
        Ok(number) => Target::Number(number),
        Err(_) => parse_target(target)?,
    };
    Ok((name.to_owned(), Grant::to(to)))
}

/// A name that says which image it was, with `suffix` where others may have the same.
fn name_of(image: &Path, suffix: &str) -> Result<Name, Wrong> {
    let stem = image.file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
    let allowed = |c: char| if matches!(c, 'a'..='z' | '0'..='9') { c } else { '-' };
    let room = NAME_MAX - suffix.len();
    let name: String = stem.chars().map(allowed).skip_while(|c| *c == '-').take(room).collect();
    Name::new(&format!("{name}{suffix}")).or_else(|_| Name::new(&format!("program{suffix}")))
}

impl Run {
    pub(super) fn run(self, place: &Place) -> Result<u8> {
        let image = self.images.search().find(&self.image, Path::new("."))?;
        image.check_memory(self.memory, WINDOW_SIZE_DEFAULT)?;
        rules::arguments(&self.arguments)?;
        let (session, temporary) = connect(place)?;
        let spec = self.spec(image.path, session.is_hosted())?;
        let name = spec.name.clone();
        let interrupt = stop_when_interrupted(&session.client, vec![name.clone()])?;

        let code = start_and_follow(&session.client, spec, &interrupt);
        if !session.is_hosted() {
            // It was for this one run; if the daemon cannot forget it now, `district remove` can.
            let _ = session.client.remove(&name);
        }
        session.close()?;
        drop(temporary);
        let code = code?;
        Ok(match code {
            _ if interrupt.has_come() => exit::INTERRUPTED,
            // Stopped because nobody reads the output any more, which is no failure.
            exit::NOT_EXITED if interrupt.is_stopping() => exit::SUCCESS,
            code => code,
        })
    }

    fn spec(self, image: PathBuf, alone: bool) -> Result<Spec, Wrong> {
        let suffix = if alone { String::new() } else { format!("-{}", std::process::id()) };
        let name = match self.name {
            Some(name) => name,
            None => name_of(&image, &suffix)?,
        };
        let mut spec = Spec::new(name, image);
        spec.memory = self.memory;
        spec.arguments = self.arguments;
        spec.restart.policy = Policy::Never;
        if !self.bare {
            for (name, target) in Target::HOST_NAMES {
                spec.grants.insert(name.to_owned(), Grant::to(target));
            }
        }
        for (name, grant) in self.grants {
            if alone && let Target::Published(published) = &grant.to {
                return Err(Wrong::new(
                    format!("nobody publishes {published}: no daemon is running"),
                    "start what publishes it first: `district daemon`, then `district start`",
                ));
            }
            spec.grants.insert(name, grant);
        }
        Ok(spec)
    }
}

/// A session with the daemon that is running, or with one of this command alone. Only where somebody said which
/// directory to use does the state stay there.
fn connect(place: &Place) -> Result<(Session, Option<TempDir>)> {
    if place.is_given() {
        return Ok((Session::join_or_host(&place.state_dir()?)?, None));
    }
    if let Ok(directory) = place.state_dir()
        && session::find(&directory)?.is_some()
    {
        return Ok((Session::join_or_host(&directory)?, None));
    }
    let temporary = tempfile::Builder::new().prefix("district-").tempdir()?;
    let session = Session::host(&StateDir::at(temporary.path())?)?;
    Ok((session, Some(temporary)))
}

fn start_and_follow(client: &Client, spec: Spec, interrupt: &Interrupt) -> Result<u8> {
    let names = [spec.name.clone()];
    let events = client.events(&names, true)?;
    if let Err(error) = client.start(vec![spec]) {
        report(&error.to_string());
        return Ok(exit::NOT_STARTED);
    }
    interrupt.catch_up(client, &names);
    let output = Output::standard();
    let mut code = exit::NOT_STARTED;
    let result = follow(client, events, &mut Watch::new(&names), |event| {
        show(&output, event)?;
        match (event.kind, event.exit_code) {
            (EventKind::Started, _) => code = exit::NOT_EXITED,
            (EventKind::Exited, Some(exit_code)) => code = exit_code,
            _ => {}
        }
        Ok(())
    });
    if let Err(error) = &result
        && error.is::<OutputError>()
    {
        stop_all(client, &names);
    }
    result.map(|()| code)
}

fn show(output: &Output, event: &Event) -> Result<(), OutputError> {
    match event.kind {
        EventKind::Log => return output.foreign_line(&event.text),
        EventKind::Started | EventKind::Stopped | EventKind::Removed => {}
        EventKind::Exited if event.exit_code == Some(0) => {}
        _ => report(&event.text),
    }
    Ok(())
}

fn report(text: &str) {
    // Nothing can be done about a closed standard error.
    let _ = writeln!(std::io::stderr(), "district: {}", printable(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_of_any_path() {
        let name = |path: &str| name_of(Path::new(path), "-77").unwrap().to_string();
        assert_eq!(name("/a/Hello_World.elf"), "hello-world-77");
        assert_eq!(name("/a/--"), "program-77");
        assert_eq!(name(&"x".repeat(100)).len(), NAME_MAX);
        assert_eq!(name_of(Path::new("host"), "").unwrap().to_string(), "program");
    }

    #[test]
    fn grants_are_numbers_or_targets() {
        assert_eq!(grant("limit=42").unwrap(), ("limit".to_owned(), Grant::to(Target::Number(42))));
        assert_eq!(grant("l=host/log").unwrap().1, Grant::to(Target::Log));
        for bad in ["limit", "=1", "a/b=1", "x=host/fly", "x=y", "x="] {
            assert!(grant(bad).is_err(), "{bad}");
        }
    }
}
