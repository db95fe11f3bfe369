//! Standard output. That nobody reads it any more is no error: the command then ends quietly.

use rustix::event::{PollFd, PollFlags, poll};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

use super::style::Palette;
use super::table::Table;
use super::text::printable;

/// Why a line could not be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// Nobody reads it any more; see [`is_closed`].
    #[error("standard output was closed")]
    Closed,
    /// The disk is full, say.
    #[error("cannot write to standard output: {0}")]
    Failed(io::Error),
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> OutputError {
        match error.kind() {
            io::ErrorKind::BrokenPipe => OutputError::Closed,
            _ => OutputError::Failed(error),
        }
    }
}

/// Whether a command failed only because nobody reads its output any more.
pub fn is_closed(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(OutputError::Closed))
}

/// Calls `then`, in a thread of its own, when nobody reads standard output any more, also while nothing is written.
pub fn when_closed(then: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let watch = move || {
        let stdout = io::stdout();
        // Without a reader a pipe reports an error and a terminal or socket that it was hung up (poll(2)); both are
        // reported unasked. A file never reports anything, and keeps this thread waiting.
        let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
        loop {
            match poll(&mut watched, None) {
                Ok(_) if watched[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => return then(),
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) | Err(_) => return,
            }
        }
    };
    std::thread::Builder::new().name("output".to_owned()).spawn(watch).map(drop)
}

/// Standard output, line by line.
#[derive(Debug)]
pub struct Output {
    stdout: io::Stdout,
    terminal: bool,
    /// The colours that fit it.
    pub palette: Palette,
}

impl Output {
    /// This process's.
    pub fn standard() -> Output {
        let stdout = io::stdout();
        Output { terminal: stdout.is_terminal(), palette: Palette::of(&stdout), stdout }
    }

    /// Writes a line of our own.
    ///
    /// # Errors
    /// See [`OutputError`]; so for all that follow.
    pub fn line(&self, line: &str) -> Result<(), OutputError> {
        let mut stdout = self.stdout.lock();
        stdout.write_all(line.as_bytes())?;
        stdout.write_all(b"\n")?;
        Ok(stdout.flush()?)
    }

    /// Writes a line from a guest: as it is, except to a terminal.
    ///
    /// # Errors
    /// See [`OutputError`].
    pub fn foreign_line(&self, line: &str) -> Result<(), OutputError> {
        if self.terminal { self.line(&printable(line)) } else { self.line(line) }
    }

    /// Writes a table.
    ///
    /// # Errors
    /// See [`OutputError`].
    pub fn table(&self, table: &Table) -> Result<(), OutputError> {
        self.line(&table.lines().join("\n"))
    }

    /// Writes a JSON document, on one line.
    ///
    /// # Errors
    /// See [`OutputError`].
    pub fn json(&self, value: &impl Serialize) -> Result<(), OutputError> {
        let text = serde_json::to_string(value).map_err(|error| OutputError::Failed(error.into()))?;
        self.line(&text)
    }
}
