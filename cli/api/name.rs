//! Names of districts.

use serde::{Deserialize, Serialize};
use std::fmt;

use super::rules::Wrong;

/// Most characters in a district's name.
pub const NAME_MAX: usize = 32;
/// The name under which manifests find what the host itself serves. No district can have it.
pub const HOST: &str = "host";

/// The name of a district: 1 to [`NAME_MAX`] of `a-z`, `0-9` and `-`, not beginning with `-`, and not [`HOST`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The name, if it is one.
    ///
    /// # Errors
    /// What is wrong with it otherwise.
    pub fn new(text: &str) -> Result<Name, Wrong> {
        let remedy = format!("use 1 to {NAME_MAX} of the characters a-z, 0-9 and `-`, the first of them not `-`");
        if text.is_empty() {
            return Err(Wrong::new("a district's name is empty", remedy));
        }
        if let Some(bad) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
            return Err(Wrong::new(format!("district name {text:?} has the character {bad:?}"), remedy));
        }
        if text.starts_with('-') {
            return Err(Wrong::new(format!("district name `{text}` begins with `-`"), remedy));
        }
        if text.len() > NAME_MAX {
            return Err(Wrong::new(format!("district name `{text}` has {} characters", text.len()), remedy));
        }
        if text == HOST {
            return Err(Wrong::new(
                format!("no district can have the name `{HOST}`"),
                "it stands for what the host itself serves; choose another name",
            ));
        }
        Ok(Name(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = Wrong;

    fn try_from(text: String) -> Result<Name, Wrong> {
        Name::new(&text)
    }
}

impl std::str::FromStr for Name {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Name, Wrong> {
        Name::new(text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_whole_alphabet_and_length() {
        for good in ["a", "0", "web-2", &"x".repeat(NAME_MAX)] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn refuses_what_could_be_a_path_an_option_or_the_host() {
        for bad in ["", "-x", "A", "a/b", "..", "a b", "ä", "host", "a\0", &"x".repeat(NAME_MAX + 1)] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
    }
}
