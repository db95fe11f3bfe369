//! Why a request was not done, and what to do about it.

use serde::{Deserialize, Serialize};
use std::fmt;

use super::name::Name;
use super::rules::Wrong;

/// What the one who asked can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// Ask for something else: the request itself is wrong. HTTP 400.
    Invalid,
    /// Look at what there is: no such district. HTTP 404.
    NotFound,
    /// Change something first: the district's state does not allow it. HTTP 409.
    Conflict,
    /// Ask again later. HTTP 503.
    Busy,
    /// Look at the host: the daemon could not do it. HTTP 500.
    Failed,
}

impl RefusalKind {
    /// The HTTP status that says so.
    pub fn status(self) -> u16 {
        match self {
            RefusalKind::Invalid => 400,
            RefusalKind::NotFound => 404,
            RefusalKind::Conflict => 409,
            RefusalKind::Busy => 503,
            RefusalKind::Failed => 500,
        }
    }

    /// What an HTTP status says.
    pub fn from_status(status: u16) -> RefusalKind {
        match status {
            404 => RefusalKind::NotFound,
            409 => RefusalKind::Conflict,
            503 => RefusalKind::Busy,
            400..=499 => RefusalKind::Invalid,
            _ => RefusalKind::Failed,
        }
    }
}

/// The body of an answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What is wrong, lower case.
    pub error: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// A request that was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What the one who asked can do.
    pub kind: RefusalKind,
    /// In words.
    pub problem: Problem,
}

impl Refusal {
    /// A refusal without a remedy.
    pub fn new(kind: RefusalKind, error: impl Into<String>) -> Refusal {
        Refusal { kind, problem: Problem { error: error.into(), remedy: None } }
    }

    /// There is no district of this name.
    pub fn no_district(name: &Name) -> Refusal {
        Refusal::new(RefusalKind::NotFound, format!("no district has the name `{name}`"))
            .remedy("see `district ps` for those there are")
    }

    /// The event loop has ended, or is about to.
    pub fn shutting_down() -> Refusal {
        Refusal::new(RefusalKind::Busy, "the daemon is shutting down").remedy("start it again with `district daemon`")
    }

    /// The same, with a remedy.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Refusal {
        self.problem.remedy = Some(remedy.into());
        self
    }
}

impl From<Wrong> for Refusal {
    fn from(wrong: Wrong) -> Refusal {
        Refusal::new(RefusalKind::Invalid, wrong.what).remedy(wrong.remedy)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem.error)?;
        match &self.problem.remedy {
            Some(remedy) => write!(f, "\n  remedy: {remedy}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refusal {}
