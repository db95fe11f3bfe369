//! Where images are, and whether they are programs that a district can run.

use district_vmm::address_space::{AddressSpace, SizeError};
use district_vmm::loader;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::api::rules::Wrong;
use crate::terminal::units::exact_size;

/// Where images are looked for.
#[derive(Debug, Clone, Default)]
pub struct ImageSearch {
    /// Where those are that are not in the first place; what `--images` or `DISTRICT_IMAGES` says.
    pub folder: Option<PathBuf>,
}

/// A file that is a program for districts; until somebody writes to it.
#[derive(Debug)]
pub struct Image {
    /// Its absolute path.
    pub path: PathBuf,
    program: loader::Image,
}

impl Image {
    /// Whether the program can have so many bytes of memory and window. Sizes that no district can have are not
    /// looked at here.
    ///
    /// # Errors
    /// The program does not fit.
    pub fn check_memory(&self, memory: u64, window: u64) -> Result<(), Wrong> {
        match AddressSpace::new(&self.program, memory, window) {
            Err(SizeError::TooSmall { given, needed }) => {
                let needed = exact_size(needed);
                Err(Wrong::new(
                    format!("memory of {} is too small: the program needs {needed}, stack included", exact_size(given)),
                    format!("give at least \"{needed}\"; what is beyond is heap"),
                ))
            }
            _ => Ok(()),
        }
    }
}

impl ImageSearch {
    /// The image that is named relative to the folder `beside`, or else to the search's own.
    ///
    /// # Errors
    /// There is no such file, or it is no program for districts.
    pub fn find(&self, image: &str, beside: &Path) -> Result<Image, Wrong> {
        if image.is_empty() || image.contains('\0') {
            return Err(Wrong::new(format!("image {image:?} is no path"), "give the path of a program, an ELF file"));
        }
        let candidates: Vec<PathBuf> =
            std::iter::once(beside).chain(self.folder.as_deref()).map(|folder| folder.join(image)).collect();
        let Some(found) = candidates.iter().find(|path| path.exists()) else {
            return Err(missing(image, &candidates));
        };
        let program = read(found)?;
        let path = found.canonicalize().map_err(|error| unusable(found, &error.to_string()))?;
        Ok(Image { path, program })
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

fn read(path: &Path) -> Result<loader::Image, Wrong> {
    let metadata = path.metadata().map_err(|error| unusable(path, &error.to_string()))?;
    // Opening anything else could wait for ever.
    if !metadata.is_file() {
        return Err(unusable(path, "it is no regular file"));
    }
    let file = File::open(path).map_err(|error| unusable(path, &error.to_string()))?;
    loader::Image::read(&file).map_err(|error| unusable(path, &error.to_string()))
}
