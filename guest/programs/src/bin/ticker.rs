//! Computes, and makes sure at each step that nothing it has was changed: `ticker [PERIOD [LINES]]` logs its count every
//! PERIOD milliseconds, 1,000 if not given, and ends after that many lines, or never.
//!
//! It hardly ever parks, and then for a moment, so that a checkpoint catches it anywhere: in a register, deep in its stack,
//! in the middle of a list. It ends with an error if it finds something that is not as it was.

#![no_std]
#![no_main]

use core::time::Duration;

use district_sdk::{boot, log, restart, time};
use programs::tally::Tally;

district_sdk::entry!(main);

/// Steps between two parks.
const STRETCH: u64 = 4096;
/// How long it parks.
const MOMENT: Duration = Duration::from_micros(20);

fn main() -> Result<(), &'static str> {
    let mut arguments = boot::arguments();
    let period = Duration::from_millis(arguments.next().and_then(|text| text.parse().ok()).unwrap_or(1000));
    let lines: Option<u64> = arguments.next().and_then(|text| text.parse().ok());
    let mut tally = Tally::new();
    let mut restarts = 0;
    let mut logged = 0;
    let mut due = time::deadline(period);
    log!("ticking: {}", restart::current());
    while lines.is_none_or(|lines| logged < lines) {
        tally.step()?;
        if restart::count() != restarts {
            restarts = restart::count();
            log!("restored: {}, at {} steps", restart::current(), tally.steps());
        }
        if time::now() >= due {
            log!("{} steps", tally.steps());
            logged += 1;
            due = time::deadline(period);
        }
        if tally.steps().is_multiple_of(STRETCH) {
            time::sleep(MOMENT);
        }
    }
    Ok(())
}
