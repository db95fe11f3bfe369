//! The state directory: where a daemon keeps what outlives it, and where its sockets are.

use std::env;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::api::rules::Wrong;

/// Longest path of a Unix socket in bytes; `sun_path` has one more, for a NUL (unix(7)).
const SOCKET_PATH_MAX: usize = 107;
/// The longest socket path below the state directory: a district's, named by its identity.
const LONGEST_SOCKET: &str = "/run/00000000000000000000000000000000.sock";

/// An absolute path, short enough for the sockets in it. The directory need not exist yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// The one that was given, or else this user's.
    ///
    /// # Errors
    /// None was given and there is no home, or the path is too long.
    pub fn choose(given: Option<&Path>) -> Result<StateDir, Wrong> {
        match given {
            Some(path) => StateDir::at(path),
            None => StateDir::at(&default_path(env::var_os("XDG_STATE_HOME"), env::var_os("HOME"))?),
        }
    }

    /// The one at this path.
    ///
    /// # Errors
    /// The path is too long, or empty.
    pub fn at(path: &Path) -> Result<StateDir, Wrong> {
        let absolute = std::path::absolute(path).map_err(|error| {
            Wrong::new(format!("state directory {}: {error}", path.display()), "give a path with --dir")
        })?;
        let (length, most) = (absolute.as_os_str().as_bytes().len(), SOCKET_PATH_MAX - LONGEST_SOCKET.len());
        if length > most {
            return Err(Wrong::new(
                format!("state directory {} has a path of {length} bytes", absolute.display()),
                format!("give one of at most {most} bytes with --dir or DISTRICT_DIR: paths of Unix sockets are short"),
            ));
        }
        Ok(StateDir { path: absolute })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the daemon's API listens.
    pub fn socket(&self) -> PathBuf {
        self.path.join("api.sock")
    }

    /// Makes it, for this user only, or checks that nobody else can change what is in it.
    ///
    /// # Errors
    /// It cannot be made, or is somebody else's or open to somebody else.
    pub fn prepare(&self) -> Result<(), Wrong> {
        let shown = self.path.display();
        let failed = |error: io::Error| {
            Wrong::new(format!("state directory {shown} cannot be used: {error}"), "choose another one with --dir")
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path).map_err(failed)?;
        let metadata = self.path.metadata().map_err(failed)?;
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(Wrong::new(
                format!("state directory {shown} belongs to user {}", metadata.uid()),
                "choose one of your own with --dir",
            ));
        }
        if metadata.permissions().mode() & 0o022 != 0 {
            return Err(Wrong::new(
                format!("others can write to the state directory {shown}"),
                format!("chmod go-w {shown}, or choose another one with --dir"),
            ));
        }
        Ok(())
    }
}

/// XDG Base Directory Specification: relative paths in its variables are ignored.
fn default_path(state_home: Option<std::ffi::OsString>, home: Option<std::ffi::OsString>) -> Result<PathBuf, Wrong> {
    let absolute = |value: Option<std::ffi::OsString>| value.map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(state_home)
        .or_else(|| absolute(home).map(|home| home.join(".local/state")))
        .map(|base| base.join("district"))
        .ok_or_else(|| {
            Wrong::new("there is no home directory for the state", "give a directory with --dir or DISTRICT_DIR")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_xdg_specification() {
        let path = |state: Option<&str>, home: Option<&str>| default_path(state.map(Into::into), home.map(Into::into));
        assert_eq!(path(Some("/s"), Some("/h")), Ok(PathBuf::from("/s/district")));
        assert_eq!(path(Some("relative"), Some("/h")), Ok(PathBuf::from("/h/.local/state/district")));
        assert_eq!(path(None, Some("/h")), Ok(PathBuf::from("/h/.local/state/district")));
        assert!(path(None, None).is_err());
    }

    #[test]
    fn every_socket_in_it_has_a_path_that_fits() {
        let most = SOCKET_PATH_MAX - LONGEST_SOCKET.len();
        let fits = format!("/{}", "x".repeat(most - 1));
        assert!(StateDir::at(Path::new(&fits)).is_ok());
        let wrong = StateDir::at(Path::new(&format!("{fits}x"))).unwrap_err();
        assert!(wrong.remedy.contains("at most 65 bytes"), "{}", wrong.remedy);
    }

    #[test]
    fn is_made_private_and_refused_when_it_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::at(&parent.path().join("a/b")).unwrap();
        state.prepare().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(state.path()), 0o700);
        state.prepare().unwrap();
        std::fs::set_permissions(state.path(), std::fs::Permissions::from_mode(0o770)).unwrap();
        assert!(state.prepare().unwrap_err().what.starts_with("others can write"));
    }
}
