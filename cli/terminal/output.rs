//! Standard output. That nobody reads it any more is no error: the command then ends quietly.

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
