//! Many calls at once, and how they end.
//!
//! * `hoard keep COUNT [NAME]` publishes `hoard`, takes in that many calls, answers none, and looks at nothing that comes
//!   after them.
//! * `hoard call COUNT [NAME [MILLISECONDS]]` makes that many calls, all before it waits for the first, with a deadline if
//!   one is given.
//! * `hoard rounds COUNT [NAME]` does that again and again, and waits for a name that is not ready.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use district_sdk::{Directory, Error, Event, boot, log, next_event, publish, time};

district_sdk::entry!(main);

/// How long a name may take to become ready, and a call of a round to be answered.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between rounds.
const PAUSE: Duration = Duration::from_millis(5);
/// Time for an outcome that there should not be.
const WHILE: Duration = Duration::from_millis(100);

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = boot::arguments().collect();
    let argument = |index: usize| arguments.get(index).map(String::as_str);
    let number = |index| argument(index).and_then(|text| text.parse().ok());
    let count = number(1).unwrap_or(100);
    let name = argument(2).unwrap_or("hoard");
    match argument(0) {
        Some("keep") => keep(count, name),
        Some("call") => {
            log!("outcomes: {}", call(count, name, number(3).map(Duration::from_millis))?);
            Ok(())
        }
        Some("rounds") => rounds(count, name),
        _ => Err(Error::NoSuchOperation),
    }
}

fn keep(count: u64, name: &str) -> Result<(), Error> {
    let _service = publish(name, 0)?;
    let mut kept = Vec::new();
    log!("keeps up to {count}");
    while (kept.len() as u64) < count {
        if let Some(Event::Message(message)) = next_event(None) {
            kept.push(message);
        }
    }
    log!("keeps {count}");
    time::sleep(Duration::MAX);
    Ok(())
}

/// Makes the calls, and says how many have ended in which way.
fn call(count: u64, name: &str, timeout: Option<Duration>) -> Result<String, Error> {
    let target = Directory::bootstrap().lookup_wait(name, PATIENCE)?;
    let mut tickets = Vec::new();
    for number in 0..count {
        let call = target.call(number, &[]).reply_capacity(0);
        tickets.push(match timeout {
            Some(timeout) => call.timeout(timeout).start()?,
            None => call.start()?,
        });
    }
    // Behind the calls on the same way: who reads this knows that the broker has them.
    log!("made {count} calls");
    let mut outcomes = BTreeMap::new();
    for (number, ticket) in (0..).zip(tickets) {
        let outcome = match ticket.wait() {
            Ok(reply) if reply.result == number => String::from("Replied"),
            Ok(_) => String::from("WrongReply"),
            Err(error) => format!("{error:?}"),
        };
        *outcomes.entry(outcome).or_insert(0) += 1;
    }
    if timeout.is_none() {
        while let Some(event) = next_event(Some(WHILE)) {
            *outcomes.entry(format!("{event:?}")).or_insert(0) += 1;
        }
    }
    let outcomes: Vec<String> = outcomes.iter().map(|(outcome, times)| format!("{outcome}={times}")).collect();
    Ok(outcomes.join(" "))
}

fn rounds(count: u64, name: &str) -> Result<(), Error> {
    for round in 1.. {
        match call(count, name, Some(PATIENCE)) {
            Ok(outcomes) => log!("round {round}: {outcomes}"),
            Err(error) if error.look_up_again() => log!("round {round}: {error:?}"),
            Err(error) => return Err(error),
        }
        time::sleep(PAUSE);
    }
    Ok(())
}
