//! Uses up every quota that it has, again and again: `glutton`. When it has met all of them once, it says which.
//!
//! It needs the right to publish `glutton`, and limits that are low: a few dozen of everything, no bindings, and few
//! enough frames per second that it can send them.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use core::time::Duration;

use district_sdk::{Directory, Error, Key, Quota, export, log, next_event, time};

district_sdk::entry!(main);

/// More than any of its limits, but that on frames.
const MANY: u64 = 2000;
/// Requests that it has under way at a time.
const AT_A_TIME: u64 = 200;
/// Of a message that is queued.
const DATA: [u8; 1000] = [0; 1000];
/// How long a call lasts that nobody answers.
const PATIENCE: Duration = Duration::from_millis(10);
/// Until there are frames for a line of the log.
const PAUSE: Duration = Duration::from_millis(100);

fn main() -> Result<(), Error> {
    let own = export(0)?;
    let mut met = Vec::new();
    round(&own, &mut met);
    time::sleep(PAUSE);
    log!("met {met:?}");
    loop {
        met.clear();
        round(&own, &mut met);
    }
}

/// Goes up to each limit, and notes which were met.
fn round(own: &Key, met: &mut Vec<Quota>) {
    met.extend(many_at_once(|number| own.call(number, &[]).timeout(PATIENCE).start()));
    met.extend(until_refused(|_| Directory::bootstrap().publish("glutton", own).map(drop)));
    met.extend(until_refused(|number| own.send(number, &DATA).wait().map(drop)));
    let mut kept = Vec::new();
    met.extend(until_refused(|number| export(number).map(|key| kept.push(key))));
    met.extend(until_refused(|number| own.watch(number)));
    met.extend(until_refused(|_| own.derive().make().map(|key| kept.push(key))));
    for _ in 0..MANY {
        let refused = many_at_once(|number| own.send(number, &DATA).start());
        if refused == Some(Quota::Frames) {
            met.extend(refused);
            break;
        }
    }
    // What it has sent to itself.
    while next_event(Some(Duration::ZERO)).is_some() {}
}

/// Does something until a quota is met. Which one.
fn until_refused(mut act: impl FnMut(u64) -> Result<(), Error>) -> Option<Quota> {
    (0..MANY).find_map(|number| quota(act(number)))
}

/// Starts many requests before it looks what has become of them. The quota that was met last.
fn many_at_once(start: impl Fn(u64) -> Result<district_sdk::Ticket, Error>) -> Option<Quota> {
    let started: Vec<_> = (0..AT_A_TIME).map(start).collect();
    let quotas = started.into_iter().map(|ticket| quota(ticket.and_then(|ticket| ticket.wait())));
    quotas.fold(None, |last, quota| quota.or(last))
}

fn quota<T>(outcome: Result<T, Error>) -> Option<Quota> {
    match outcome {
        Err(Error::Quota(quota)) => Some(quota),
        _ => None,
    }
}
