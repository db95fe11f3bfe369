//! The state directory: can it be written, and how long until what is written is safe.

use std::io::{self, Write};
use std::time::Duration;

use super::{Finding, median_time};
use crate::api::rules::Wrong;
use crate::state_dir::StateDir;
use crate::terminal::units::rough_time;

const SUBJECT: &str = "state directory";
/// Runs of which the median time is shown.
const RUNS: usize = 9;
/// What is written each time.
const BLOCK: [u8; 4096] = [0; 4096];
/// A start of a district waits for two or three writes; longer than this each is felt.
const SLOW: Duration = Duration::from_millis(20);

pub(super) fn examine(directory: &Result<StateDir, Wrong>) -> Vec<Finding> {
    let prepared = directory.as_ref().map_err(Wrong::clone).and_then(|state| state.prepare().map(|()| state));
    match prepared {
        Ok(state) => vec![written(state)],
        Err(wrong) => vec![Finding::bad(SUBJECT, wrong.what, wrong.remedy)],
    }
}

fn written(state: &StateDir) -> Finding {
    let shown = state.path().display();
    match time(state) {
        Ok(time) => {
            let found = format!("{shown}, 4 KiB safe on disk in {}", rough_time(time));
            if time > SLOW {
                return Finding::doubtful(SUBJECT, found, "starts wait for it; use a faster disk with --dir");
            }
            Finding::good(SUBJECT, found)
        }
        Err(error) => Finding::bad(
            SUBJECT,
            format!("{shown} cannot be written: {error}"),
            "make room, or choose another one with --dir or DISTRICT_DIR",
        ),
    }
}

fn time(state: &StateDir) -> io::Result<Duration> {
    let mut file = tempfile::tempfile_in(state.path())?;
    let mut failure = None;
    let time = median_time(RUNS, || {
        let result = file.write_all(&BLOCK).and_then(|()| file.sync_data());
        result.map_err(|error| failure = Some(error)).ok()
    });
    match (time, failure) {
        (Some(time), None) => Ok(time),
        (_, Some(error)) => Err(error),
        (None, None) => Err(io::Error::other("nothing was written")),
    }
}
