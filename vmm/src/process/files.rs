//! The files of a district, by what they are for.

use std::fs::File;
use std::os::fd::OwnedFd;

use crate::control::{Beginning, Start};
use crate::origin::Origin;

/// The files that came with a [`Start`], by what they are for.
pub(super) struct Files {
    pub(super) window: OwnedFd,
    pub(super) log: Option<OwnedFd>,
    pub(super) origin: Origin,
}

impl Files {
    /// None: they are not those that belong to it.
    pub(super) fn of(start: &Start, fds: Vec<OwnedFd>) -> Option<Self> {
        let mut fds = fds.into_iter();
        let window = fds.next()?;
        let log = if start.checkpoints.is_some() { Some(fds.next()?) } else { None };
        let origin = match start.from {
            Beginning::Program => Origin::Program(fds.next()?.into()),
            Beginning::Checkpoint { image, verify, .. } => {
                let image = if image { Some(fds.next()?.into()) } else { None };
                Origin::Checkpoint { image, verify, segments: fds.by_ref().map(File::from).collect() }
            }
        };
        fds.next().is_none().then_some(Self { window, log, origin })
    }
}
