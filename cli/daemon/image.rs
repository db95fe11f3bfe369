//! Images, as far as the daemon looks at them: a vmm process reads them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;

/// Opens an image to be read. A path that names no file, but a pipe that nobody writes to, would keep whoever opens it
/// waiting.
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file")) }
}

/// The same for a district, whose error names the path.
pub fn open_program(path: &Path) -> anyhow::Result<File> {
    open(path).with_context(|| format!("image {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_refused_without_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [directory.path(), &pipe, Path::new("/dev/zero")] {
            assert_eq!(open(path).unwrap_err().to_string(), "not a file");
        }
        assert_eq!(open(&directory.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::write(directory.path().join("image"), "").unwrap();
        open(&directory.path().join("image")).unwrap();
    }
}
