//! Where images are.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::api::rules::Wrong;

/// How every ELF file begins (System V ABI, chapter 4, "ELF Identification").
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";

/// Where images are looked for.
#[derive(Debug, Clone, Default)]
pub struct ImageSearch {
    /// Where those are that are not in the first place; what `--images` or `DISTRICT_IMAGES` says.
    pub folder: Option<PathBuf>,
}

impl ImageSearch {
    /// The absolute path of an image that is named relative to the folder `beside`, or else to the search's own.
    ///
    /// # Errors
    /// There is no such file, or it cannot be a program.
    pub fn find(&self, image: &str, beside: &Path) -> Result<PathBuf, Wrong> {
        if image.is_empty() || image.contains('\0') {
            return Err(Wrong::new(format!("image {image:?} is no path"), "give the path of a program, an ELF file"));
        }
        let candidates: Vec<PathBuf> =
            std::iter::once(beside).chain(self.folder.as_deref()).map(|folder| folder.join(image)).collect();
        let Some(found) = candidates.iter().find(|path| path.exists()) else {
            return Err(missing(image, &candidates));
        };
        check(found)?;
        found.canonicalize().map_err(|error| unusable(found, &error.to_string()))
    }
}

fn missing(image: &str, candidates: &[PathBuf]) -> Wrong {
    let mut places: Vec<String> = candidates
        .iter()
        .map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string())
        .collect();
    places.dedup();
    Wrong::new(
        format!("no image `{}`; looked for {}", image.escape_debug(), places.join(" and ")),
        "build it, correct the path, or say where images are with --images DIR or DISTRICT_IMAGES",
    )
}

fn unusable(path: &Path, why: &str) -> Wrong {
    Wrong::new(
        format!("image {} cannot be used: {why}", path.display()),
        "give a program for districts: a statically linked ELF file for x86-64 that you may read",
    )
}

fn check(path: &Path) -> Result<(), Wrong> {
    let metadata = path.metadata().map_err(|error| unusable(path, &error.to_string()))?;
    // Opening anything else could wait for ever.
    if !metadata.is_file() {
        return Err(unusable(path, "it is no regular file"));
    }
    let mut magic = Vec::new();
    File::open(path)
        .and_then(|file| file.take(ELF_MAGIC.len() as u64).read_to_end(&mut magic))
        .map_err(|error| unusable(path, &error.to_string()))?;
    if magic != ELF_MAGIC {
        return Err(unusable(path, "it is no ELF file"));
    }
    Ok(())
}
