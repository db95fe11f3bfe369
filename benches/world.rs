//! A daemon of its own for one benchmark: another process, in an empty directory that goes with it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use district::api::client::{Client, Events};
use district::api::command::Leave;
use district::api::event::{Event, EventKind};
use district::api::name::Name;
use district::api::spec::{Grant, Policy, Published, Restart, Spec, Target};
use tempfile::TempDir;

/// How long a daemon may take to answer for the first time.
const COMES_UP_WITHIN: Duration = Duration::from_secs(10);

/// A running daemon, ended with all its districts when this is dropped.
pub struct World {
    pub client: Client,
    daemon: Child,
    folder: TempDir,
}

impl World {
    pub fn new() -> Result<World> {
        World::within(tempfile::tempdir()?)
    }

    /// With its state in this directory.
    pub fn within(folder: TempDir) -> Result<World> {
        let (client, daemon) = bring_up(folder.path())?;
        Ok(World { client, daemon, folder })
    }

    /// Ends the daemon and its districts, and starts another one on the same state.
    pub fn begin_again(&mut self) -> Result<()> {
        self.client.shutdown(Leave::Stopped)?;
        self.daemon.wait()?;
        (self.client, self.daemon) = bring_up(self.folder.path())?;
        Ok(())
    }

    /// Where the state is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The daemon's process.
    pub fn daemon(&self) -> u32 {
        self.daemon.id()
    }

    /// Runs a known district once more, until it exits; returns its log lines and its exit message.
    pub fn run(&self, name: &Name, events: &mut Events<'_>) -> Result<(Vec<String>, String)> {
        self.client.start_existing(name)?;
        until_exit(name, events)
    }
}

/// Starts a daemon and waits until it answers.
fn bring_up(folder: &Path) -> Result<(Client, Child)> {
    let words = folder.join("stderr");
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_district"))
        .arg("--dir")
        .arg(folder)
        .arg("daemon")
        .stdin(Stdio::null())
        .stderr(File::create(&words)?)
        .spawn()
        .context("the daemon cannot be started")?;
    let socket = folder.join("api.sock");
    let begin = Instant::now();
    loop {
        match Client::connect(&socket) {
            Ok(client) => return Ok((client, daemon)),
            Err(error) if begin.elapsed() > COMES_UP_WITHIN => {
                daemon.kill()?;
                daemon.wait()?;
                let said = std::fs::read_to_string(words).unwrap_or_default();
                return Err(error).with_context(|| format!("the daemon does not come up; it said: {said}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.client.shutdown(Leave::Stopped).is_err() {
            // It does not answer any more. Its districts, if it has any, are left over.
            let _ = self.daemon.kill();
        }
        let _ = self.daemon.wait();
    }
}

/// Waits for the exit of a district; returns its log lines and its exit message. Any other end is an error.
pub fn until_exit(name: &Name, events: &mut Events<'_>) -> Result<(Vec<String>, String)> {
    let mut lines = Vec::new();
    loop {
        let Event { kind, district, exit_code, text, .. } = next(events)?;
        if district.as_ref() != Some(name) {
            continue;
        }
        match kind {
            EventKind::Log => lines.push(text),
            EventKind::Started => {}
            EventKind::Exited if exit_code == Some(0) => {
                let message = text.split_once(": ").map(|(_, message)| message.to_owned());
                return Ok((lines, message.unwrap_or_default()));
            }
            _ => bail!("district {name} ended otherwise than by exiting with code 0: {text}"),
        }
    }
}

/// The next event of a stream that must not end.
pub fn next(events: &mut Events<'_>) -> Result<Event> {
    let event = events.next().context("the daemon has ended")??;
    ensure!(event.kind != EventKind::Dropped, "{}", event.text);
    Ok(event)
}

/// A name of a district.
pub fn name(text: &str) -> Result<Name> {
    Name::new(text).map_err(|wrong| anyhow::anyhow!("{}", wrong.what))
}

/// A district called `district` that runs `program` once, with a log.
pub fn spec(district: &str, program: &str, arguments: &[&str]) -> Result<Spec> {
    let images = std::env::var_os("DISTRICT_IMAGES")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/guest")), PathBuf::from);
    let mut spec = Spec::new(name(district)?, images.join(program));
    spec.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
    spec.restart = Restart { policy: Policy::Never, ..Restart::default() };
    spec.grants.insert("log".to_owned(), Grant::to(Target::Log));
    Ok(spec)
}

/// Lets `server` publish a name, and `client` find it.
pub fn connect(server: &mut Spec, client: &mut Spec, service: &str) {
    server.publishes.push(service.to_owned());
    let published = Published { district: server.name.clone(), name: service.to_owned() };
    client.grants.insert(service.to_owned(), Grant::to(Target::Published(published)));
}
