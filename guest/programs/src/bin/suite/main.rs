//! Conformance from the inside: `suite TEST [ARGUMENT]` tries one scenario, and ends with 0, or with 1 and what was wrong.
//!
//! Most tests need the grants `clock` and `random` and nothing else; `c19` needs an `echo` that gives back data and keys,
//! `c21` a `pipe`.

#![no_std]
#![no_main]

extern crate alloc;

mod calls;
mod keys;
mod life;
mod restored;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Debug;

use district_sdk::boot;

district_sdk::entry!(main);

/// What a test has found wrong.
type Verdict = Result<(), String>;

type Test = fn(&str) -> Verdict;

const TESTS: [(&str, Test); 29] = [
    ("boot", life::boot_page),
    ("clock", life::clock),
    ("identity", life::identity),
    ("c03", life::c03_sleep_through_a_restore),
    ("c02", restored::c02_many_keys),
    ("c03-again", restored::c03_sleep_through_all_restores),
    ("c05", restored::c05_what_each_life_finds),
    ("c38", restored::c38_watch),
    ("doomed", restored::fail_after_checkpoints),
    ("c01", keys::c01_exactly_one_key),
    ("c06", keys::c06_handle_one_stays),
    ("c08", keys::c08_odd_names),
    ("c10", keys::c10_random_handles),
    ("c12", keys::c12_no_more_rights),
    ("c14", keys::c14_badges),
    ("c16", keys::c16_untransferable),
    ("c17", keys::c17_no_keys_through),
    ("c27", keys::c27_unknown_operation),
    ("c32", keys::c32_revoke),
    ("c35", keys::c35_last_key),
    ("c19", calls::c19_sizes),
    ("c20", calls::c20_reply_twice),
    ("c21", calls::c21_reply_by_another),
    ("c22", calls::c22_no_reply),
    ("c24", calls::c24_cancel),
    ("c25", calls::c25_deadline),
    ("c28", calls::c28_call_to_itself),
    ("c29", calls::c29_notifications),
    ("c33", calls::c33_revoked_in_the_queue),
];

fn main() -> Verdict {
    let arguments: Vec<String> = boot::arguments().collect();
    let name = arguments.first().map_or("", String::as_str);
    let argument = arguments.get(1).map_or("", String::as_str);
    match TESTS.iter().find(|(test, _)| *test == name) {
        Some((_, test)) => test(argument).map_err(|wrong| format!("{name}: {wrong}")),
        None => Err(format!("no test {name:?}; there are: {}", TESTS.map(|(test, _)| test).join(" "))),
    }
}

/// Says what was expected, if something else was found.
fn expect<T: PartialEq + Debug>(what: &str, found: T, expected: T) -> Verdict {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?} instead of {expected:?}")) }
}

/// Says what went wrong with something that should have worked.
fn works<T, E: Debug>(what: &str, outcome: Result<T, E>) -> Result<T, String> {
    outcome.map_err(|error| format!("{what}: {error:?}"))
}
