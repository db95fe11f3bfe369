//! How a command comes to a daemon: a running one, or one that it hosts itself.

use anyhow::{Context, Result};

use crate::api::client::{Client, ClientError};
use crate::api::command::Leave;
use crate::api::refusal::Refusal;
use crate::api::rules::Wrong;
use crate::daemon::{self, Daemon, Options};
use crate::state_dir::StateDir;

/// A client, and the daemon if it lives in this process.
#[derive(Debug)]
pub struct Session {
    pub client: Client,
    hosted: Option<Daemon>,
}

/// The daemon of this state directory, if one is running.
pub fn find(directory: &StateDir) -> Result<Option<Client>, ClientError> {
    match Client::connect(&directory.socket()) {
        Ok(client) => Ok(Some(client)),
        Err(ClientError::NoDaemon(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A client of the daemon that must be running.
pub fn join(directory: &StateDir) -> Result<Client> {
    find(directory)?.ok_or_else(|| {
        let wrong = Wrong::new(
            format!("no daemon is running at {}", directory.path().display()),
            "start one with `district daemon`, or use `district up` or `district run`, which need none",
        );
        // Not a mistake of the command line: the same line works when a daemon runs.
        Refusal::from(wrong).into()
    })
}

impl Session {
    /// A client of the daemon that is running, or else of one in this process.
    pub fn join_or_host(directory: &StateDir) -> Result<Session> {
        match find(directory)? {
            Some(client) => Ok(Session { client, hosted: None }),
            None => Session::host(directory),
        }
    }

    /// A client of a daemon in this process.
    pub fn host(directory: &StateDir) -> Result<Session> {
        directory.prepare()?;
        match daemon::start(Options { directory: directory.clone(), hosted: true }) {
            Ok(daemon) => {
                let client = Client::connect(&directory.socket()).context("the daemon started and does not answer")?;
                Ok(Session { client, hosted: Some(daemon) })
            }
            // Somebody else may have been faster.
            Err(error) => match find(directory) {
                Ok(Some(client)) => Ok(Session { client, hosted: None }),
                _ => Err(error),
            },
        }
    }

    /// Whether the daemon ends with this process.
    pub fn is_hosted(&self) -> bool {
        self.hosted.is_some()
    }

    /// Ends the daemon and all its districts, if it is this process's.
    pub fn close(self) -> Result<()> {
        match self.hosted {
            Some(daemon) => daemon.shutdown(Leave::Stopped),
            None => Ok(()),
        }
    }
}
