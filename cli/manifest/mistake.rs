//! Mistakes in manifests: where, what, and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::api::rules::Wrong;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Its line, from 1.
    pub line: usize,
    /// What is wrong and how to right it.
    pub wrong: Wrong,
}

impl Mistake {
    /// The text is no text any more after `valid`.
    pub(super) fn not_utf8(valid: &[u8]) -> Mistake {
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        Mistake { line, wrong: Wrong::new("not UTF-8", "save the file as UTF-8") }
    }
}

/// All that is wrong with one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes {
    path: PathBuf,
    /// The file itself cannot be read.
    unreadable: Option<Wrong>,
    list: Vec<Mistake>,
}

impl Mistakes {
    pub(super) fn new(path: &Path, mut list: Vec<Mistake>) -> Mistakes {
        list.sort_by_key(|mistake| mistake.line);
        Mistakes { path: path.to_owned(), unreadable: None, list }
    }

    pub(super) fn unreadable(path: &Path, wrong: Wrong) -> Mistakes {
        Mistakes { path: path.to_owned(), unreadable: Some(wrong), list: Vec::new() }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        if let Some(wrong) = &self.unreadable {
            write!(f, "{path}: {}\n  remedy: {}", wrong.what, wrong.remedy)?;
        }
        for (index, Mistake { line, wrong }) in self.list.iter().enumerate() {
            let gap = if index == 0 { "" } else { "\n" };
            write!(f, "{gap}{path}:{line}: {}\n  remedy: {}", wrong.what, wrong.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}
