//! Snapshots: checkpoints that are kept under a name, as they were.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::name::Name;
use super::rules::Wrong;

/// The name of a snapshot among those of one district: like a district's, and not only digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(Name);

impl Tag {
    /// The name, if it is one.
    ///
    /// # Errors
    /// What is wrong with it otherwise.
    pub fn new(text: &str) -> Result<Tag, Wrong> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Wrong::new(
                format!("tag `{text}` is a number"),
                "numbers stand for generations; use a letter in it",
            ));
        }
        let name = Name::new(text).map_err(|wrong| Wrong::new(wrong.what.replace("district", "tag"), wrong.remedy))?;
        Ok(Tag(name))
    }

    /// The tag of a snapshot that nobody has given one.
    ///
    /// # Errors
    /// None: any number makes a tag.
    pub fn of_generation(generation: u64) -> Result<Tag, Wrong> {
        Tag::new(&format!("g{generation}"))
    }

    /// The tag as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for Tag {
    type Error = Wrong;

    fn try_from(text: String) -> Result<Tag, Wrong> {
        Tag::new(&text)
    }
}

impl From<Tag> for String {
    fn from(tag: Tag) -> String {
        tag.as_str().to_owned()
    }
}

impl FromStr for Tag {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Tag, Wrong> {
        Tag::new(text)
    }
}

/// What memory a district begins its next life with.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Beginning {
    /// That of its newest checkpoint; fresh, if there is none.
    #[default]
    Newest,
    /// Fresh, with its program from its image.
    Cold,
    /// That of a checkpoint.
    Generation(u64),
    /// That of a snapshot. Checkpoints that were taken after it are dropped.
    Tag(Tag),
}

impl FromStr for Beginning {
    type Err = Wrong;

    /// A number is a generation, anything else a tag.
    fn from_str(text: &str) -> Result<Beginning, Wrong> {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(generation) if is_number => Ok(Beginning::Generation(generation)),
            _ => Tag::new(text).map(Beginning::Tag),
        }
    }
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Of which district.
    pub district: Name,
    /// Its name.
    pub tag: Tag,
    /// The checkpoint that it is.
    pub generation: u64,
    /// When that was taken, in milliseconds since 1970.
    pub time_ms: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes that its file takes on the disk, alone or together with clones.
    pub disk: u64,
}

/// The body of a request to start or restart a district.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StartFrom {
    /// With which memory.
    pub from: Beginning,
}

/// The body of a request for a snapshot.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotRequest {
    /// Its name; else `g` and the generation.
    pub tag: Option<Tag>,
}

/// The body of a request to copy a district.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloneRequest {
    /// Name of the copy.
    pub name: Name,
    /// The snapshot that it begins from; else the district as it is now.
    #[serde(default)]
    pub from: Option<Tag>,
}

/// The body of a request to write a snapshot to a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportRequest {
    /// Absolute path of the file, which is not there yet.
    pub path: PathBuf,
}

/// The body of a request to make a district of such a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportRequest {
    /// Absolute path of the file.
    pub path: PathBuf,
    /// Name of the new district.
    pub name: Name,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_generations_and_words_are_tags() {
        assert_eq!("17".parse(), Ok(Beginning::Generation(17)));
        assert_eq!("v17".parse(), Ok(Beginning::Tag(Tag::new("v17").unwrap())));
        assert!("+17".parse::<Beginning>().is_err());
        assert!(Tag::new("17").unwrap_err().what.contains("is a number"));
        assert!(Tag::new("../x").unwrap_err().what.starts_with("tag name"));
        assert!(Tag::new("").is_err());
        assert_eq!(Tag::of_generation(u64::MAX).unwrap().as_str().len(), 21);
    }
}
