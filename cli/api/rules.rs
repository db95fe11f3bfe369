//! What a district may be made of: limits that hold for a manifest and for a request over the socket alike.

use district_protocol::boot::ARGUMENTS_MAX;
use district_protocol::layout::{PAGE_SIZE, RAM_SIZE_MAX, RAM_SIZE_MIN, WINDOW_SIZE_MAX, WINDOW_SIZE_MIN};
use district_protocol::operation::directory::{PATH_MAX, PUBLISH};
use std::fmt;
use std::time::Duration;

use crate::terminal::units;

/// Most names that a district may publish, and most grants that it may have.
pub const NAMES_MAX: usize = 1024;
/// Longest back-off, and longest time in which restarts are counted.
pub const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// One thing that is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// The thing and its value, lower case.
    pub what: String,
    /// What to write instead.
    pub remedy: String,
}

impl Wrong {
    /// A mistake and its remedy.
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Wrong {
        Wrong { what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

impl std::error::Error for Wrong {}

fn size(what: &str, bytes: u64, least: u64, most: u64) -> Result<(), Wrong> {
    let range = format!("{what} is {} to {}", units::exact_size(least), units::exact_size(most));
    if !(least..=most).contains(&bytes) {
        let relation = if bytes < least { "too small" } else { "too large" };
        return Err(Wrong::new(format!("{what} of {} is {relation}", units::exact_size(bytes)), range));
    }
    if !bytes.is_multiple_of(PAGE_SIZE) {
        let up = bytes.next_multiple_of(PAGE_SIZE);
        return Err(Wrong::new(
            format!("{what} of {bytes} bytes is not a whole number of pages of {PAGE_SIZE} bytes"),
            format!("the next that is one is \"{}\"", units::exact_size(up)),
        ));
    }
    Ok(())
}

/// Bytes of RAM.
///
/// # Errors
/// Out of range, or not whole pages.
pub fn memory(bytes: u64) -> Result<(), Wrong> {
    size("memory", bytes, RAM_SIZE_MIN, RAM_SIZE_MAX)
}

/// Bytes of window.
///
/// # Errors
/// Out of range, or not whole pages.
pub fn window(bytes: u64) -> Result<(), Wrong> {
    size("window", bytes, WINDOW_SIZE_MIN, WINDOW_SIZE_MAX)
}

/// All arguments of a program. They share one page with the rest of what it is told at its start.
///
/// # Errors
/// Too long together, or one has a NUL in it.
pub fn arguments<S: AsRef<str>>(arguments: &[S]) -> Result<(), Wrong> {
    if let Some(index) = arguments.iter().position(|argument| argument.as_ref().contains('\0')) {
        return Err(Wrong::new(
            format!("argument {} has a NUL character in it", index + 1),
            "a NUL ends an argument; leave it out",
        ));
    }
    let total: usize = arguments.iter().map(|argument| argument.as_ref().len() + 1).sum();
    if total > ARGUMENTS_MAX {
        return Err(Wrong::new(
            format!("the arguments have {total} bytes, with one more for each; {ARGUMENTS_MAX} fit the boot page"),
            "pass less, or let the program fetch it through a key",
        ));
    }
    Ok(())
}

fn path_name(what: &str, name: &str, most: usize) -> Result<(), Wrong> {
    let remedy = format!("use 1 to {most} bytes without `/` and NUL, and neither `.` nor `..`");
    if name.is_empty() {
        return Err(Wrong::new(format!("{what} is empty"), remedy));
    }
    if name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(Wrong::new(format!("{what} {name:?} cannot be looked up"), remedy));
    }
    if name.len() > most {
        return Err(Wrong::new(format!("{what} of {} bytes is too long for a path", name.len()), remedy));
    }
    Ok(())
}

/// A name under which a district finds a grant.
///
/// # Errors
/// It cannot be looked up, or stands for something else.
pub fn grant_name(name: &str) -> Result<(), Wrong> {
    if name == PUBLISH {
        return Err(Wrong::new(
            format!("no grant can have the name `{PUBLISH}`"),
            "under it a district finds the keys to bind what it publishes; choose another name",
        ));
    }
    path_name("grant name", name, PATH_MAX)
}

/// A name that a district may publish. Its owner binds it at `publish/<name>`, which must be a path too.
///
/// # Errors
/// It cannot be looked up.
pub fn published_name(name: &str) -> Result<(), Wrong> {
    path_name("published name", name, PATH_MAX - PUBLISH.len() - 1)
}

/// How many names there may be in one place.
///
/// # Errors
/// More than [`NAMES_MAX`].
pub fn names(what: &str, count: usize) -> Result<(), Wrong> {
    if count > NAMES_MAX {
        return Err(Wrong::new(format!("{count} {what}"), format!("a district has at most {NAMES_MAX}")));
    }
    Ok(())
}

/// A back-off, or the time in which restarts are counted.
///
/// # Errors
/// Zero, or more than [`DURATION_MAX`].
pub fn duration(what: &str, duration: Duration) -> Result<(), Wrong> {
    if duration < Duration::from_millis(1) || duration > DURATION_MAX {
        return Err(Wrong::new(
            format!("{what} of {} is out of range", units::exact_duration(duration)),
            format!("{what} is 1ms to {}", units::exact_duration(DURATION_MAX)),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_whole_pages_within_its_range() {
        for good in [RAM_SIZE_MIN, RAM_SIZE_MIN + PAGE_SIZE, RAM_SIZE_MAX] {
            assert_eq!(memory(good), Ok(()));
        }
        for bad in [0, RAM_SIZE_MIN - 1, RAM_SIZE_MIN + 1, RAM_SIZE_MAX + 1, u64::MAX] {
            assert!(memory(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn arguments_fill_the_boot_page_exactly() {
        let fits = "x".repeat(ARGUMENTS_MAX - 1);
        assert_eq!(arguments(&[&fits]), Ok(()));
        assert!(arguments(&[fits.as_str(), ""]).is_err());
        assert!(arguments(&["a\0b"]).is_err());
    }

    #[test]
    fn names_are_single_steps_of_a_path() {
        assert_eq!(grant_name(&"x".repeat(PATH_MAX)), Ok(()));
        for bad in ["", ".", "..", "a/b", "a\0", "publish", &"x".repeat(PATH_MAX + 1)] {
            assert!(grant_name(bad).is_err(), "{bad:?}");
        }
        assert_eq!(published_name(&"x".repeat(PATH_MAX - 8)), Ok(()));
        assert!(published_name(&"x".repeat(PATH_MAX - 7)).is_err());
    }
}
