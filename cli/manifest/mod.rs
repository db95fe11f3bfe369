//! Manifests: which districts there shall be, as a person writes it (`docs/manifest.md`), turned into checked specs.
//!
//! Reading goes on after a mistake, so that one run shows all of them. Text, places and remedies are made where the
//! mistake is found; [`links`] looks at what only all districts together show.

mod checkpoints;
mod district;
mod field;
mod grant;
pub mod image;
mod links;
mod mistake;
mod near;
mod policy;
mod reader;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::api::rules::Wrong;
use crate::api::spec::Spec;
use district::Draft;
pub use grant::parse_target;
use image::ImageSearch;
pub use mistake::{Mistake, Mistakes};
use reader::Reader;

/// Largest manifest in bytes.
pub const MANIFEST_MAX: u64 = 1 << 20;

/// A manifest without mistakes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// At least one district, in the order of the file; names are unique and everything that is referred to is there.
    pub districts: Vec<Spec>,
}

impl Manifest {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// All mistakes that could be found.
    pub fn load(path: &Path, images: &ImageSearch) -> Result<Manifest, Mistakes> {
        let bytes = read(path).map_err(|wrong| Mistakes::unreadable(path, wrong))?;
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let text = match std::str::from_utf8(&bytes) {
            Ok(text) => text,
            Err(error) => return Err(Mistakes::new(path, vec![Mistake::not_utf8(&bytes[..error.valid_up_to()])])),
        };
        Manifest::parse(text, &folder, images).map_err(|mistakes| Mistakes::new(path, mistakes))
    }

    fn parse(text: &str, folder: &Path, images: &ImageSearch) -> Result<Manifest, Vec<Mistake>> {
        let mut reader = Reader::new(text);
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            reader.mistake(error.span().unwrap_or(0..0), syntax(error.message()));
        }
        // What the parser made of a broken file would only look like further mistakes.
        if errors.is_empty() {
            let drafts = read_districts(&mut reader, root.get_ref(), folder, images);
            links::check(&mut reader, &drafts);
            return reader
                .finish()
                .map(|()| Manifest { districts: drafts.into_iter().map(|draft| draft.spec).collect() });
        }
        reader.finish().map(|()| Manifest { districts: Vec::new() })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Wrong> {
    let failed = |error: std::io::Error| {
        Wrong::new(
            format!("cannot be read: {error}"),
            "give the path of a manifest, a TOML file with `[districts.NAME]` tables",
        )
    };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MANIFEST_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MANIFEST_MAX {
        return Err(Wrong::new(format!("has more than {MANIFEST_MAX} bytes"), "a manifest is a short text file"));
    }
    Ok(bytes)
}

fn syntax(message: &str) -> Wrong {
    let message = message.replace('\n', ", ");
    let remedy = if message.starts_with("duplicate key") {
        "each name can stand once; rename or remove one of them"
    } else {
        "write TOML (https://toml.io); a district begins with a line like `[districts.NAME]`"
    };
    Wrong::new(message, remedy)
}

fn read_districts(reader: &mut Reader, root: &DeTable<'_>, folder: &Path, images: &ImageSearch) -> Vec<Draft> {
    reader.unknown_fields(root, &["districts"], "the manifest");
    let remedy = "add a table `[districts.NAME]` with at least an `image`";
    let Some(value) = root.get("districts") else {
        if root.is_empty() {
            reader.mistake(0..0, Wrong::new("the manifest is empty", remedy));
        }
        return Vec::new();
    };
    let Some(table) = reader.table("districts", value) else { return Vec::new() };
    if table.is_empty() {
        reader.mistake(value.span(), Wrong::new("the manifest has no district", remedy));
    }
    let mut entries: Vec<(&Spanned<_>, &Spanned<DeValue<'_>>)> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries.into_iter().filter_map(|(key, value)| district::read(reader, key, value, folder, images)).collect()
}
