//! Many calls at once, and how they end.
//!
//! * `hoard keep COUNT [NAME]` publishes `hoard`, takes in that many calls, answers none, and looks at nothing that comes
//!   after them.
//! * `hoard call COUNT [NAME [MILLISECONDS]]` makes that many calls, all before it waits for the first, with a deadline if
//!   one is given.
//! * `hoard rounds COUNT [NAME]` does that again and again, and waits for a name that is not ready. No call has the
//!   operation of another, and those that were not delivered are logged.
//! * `hoard show [NAME [MICROSECONDS]]` publishes `hoard`, and logs the operation of each call before it answers, for
//!   which it takes its time.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
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
            log!("outcomes: {}", call(0..count, name, number(3).map(Duration::from_millis))?);
            Ok(())
        }
        Some("rounds") => rounds(count, name),
        Some("show") => show(argument(1).unwrap_or("hoard"), Duration::from_micros(number(2).unwrap_or(0))),
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

fn show(name: &str, each: Duration) -> Result<(), Error> {
    let mut _service = publish(name, 0)?;
    loop {
        match next_event(None) {
            Some(Event::Message(message)) => {
                log!("saw {}", message.operation);
                time::sleep(each);
                // A caller that has gone meanwhile is no business of this program's.
                let _ = message.reply(message.operation, &[]);
            }
            Some(Event::Lost(_)) => _service = publish(name, 0)?,
            _ => {}
        }
    }
}

/// Makes calls with these operations, and says how many have ended in which way.
fn call(operations: Range<u64>, name: &str, timeout: Option<Duration>) -> Result<String, Error> {
    let target = Directory::bootstrap().lookup_wait(name, PATIENCE)?;
    let mut tickets = Vec::new();
    for operation in operations.clone() {
        let call = target.call(operation, &[]).reply_capacity(0);
        tickets.push(match timeout {
            Some(timeout) => call.timeout(timeout).start()?,
            None => call.start()?,
        });
    }
    // Behind the calls on the same way: who reads this knows that the broker has them.
    log!("made {} calls", tickets.len());
    let mut outcomes = BTreeMap::new();
    let mut unseen = String::new();
    for (operation, ticket) in operations.zip(tickets) {
        let outcome = match ticket.wait() {
            Ok(reply) if reply.result == operation => String::from("Replied"),
            Ok(_) => String::from("WrongReply"),
            Err(error) => {
                if matches!(error, Error::NotDelivered(_)) {
                    unseen.push_str(&format!(" {operation}"));
                }
                format!("{error:?}")
            }
        };
        *outcomes.entry(outcome).or_insert(0) += 1;
    }
    if timeout.is_none() {
        while let Some(event) = next_event(Some(WHILE)) {
            *outcomes.entry(format!("{event:?}")).or_insert(0) += 1;
        }
    }
    if !unseen.is_empty() {
        log!("unseen:{unseen}");
    }
    let outcomes: Vec<String> = outcomes.iter().map(|(outcome, times)| format!("{outcome}={times}")).collect();
    Ok(outcomes.join(" "))
}

fn rounds(count: u64, name: &str) -> Result<(), Error> {
    for round in 0.. {
        match call(round * count..(round + 1) * count, name, Some(PATIENCE)) {
            Ok(outcomes) => log!("round {round}: {outcomes}"),
            Err(error) if error.look_up_again() => log!("round {round}: {error:?}"),
            Err(error) => return Err(error),
        }
        time::sleep(PAUSE);
    }
    Ok(())
}
