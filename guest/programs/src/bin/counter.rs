//! A service that counts. `counter [NAME [CRASH_AT [IDLE]]]` publishes it under that name, or `counter`; crashes each time
//! that it is about to count to CRASH_AT; and exits when nobody has called for IDLE milliseconds.
//!
//! Operation 1 adds the number in the data (a little-endian u64, or 1 if there is none), 2 asks for the count. Both
//! answer with the count. The count is an ordinary variable: it is as old as the district's memory.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::collections::BTreeSet;
use alloc::string::String;

use core::time::Duration;

use district_sdk::{Error, Event, Message, boot, log, next_event, publish};

district_sdk::entry!(main);

const ADD: u64 = 1;
const GET: u64 = 2;

fn main() -> Result<(), Error> {
    let mut arguments = boot::arguments();
    let name = arguments.next().unwrap_or_else(|| String::from("counter"));
    let mut number = || arguments.next().and_then(|text| text.parse::<u64>().ok());
    let (crash_at, idle) = (number(), number().map(Duration::from_millis));
    let mut count = 0;
    let mut clients = BTreeSet::new();
    // Each time under another number: what is said of an export that was given up is not meant for the new one.
    let mut publication = 0;
    let mut service = publish(&name, publication)?;
    loop {
        match next_event(idle) {
            Some(Event::Message(message)) => {
                if message.operation == ADD && Some(count + 1) == crash_at {
                    log!("about to count to {}, which goes wrong", count + 1);
                    crash();
                }
                if message.badge != 0 && clients.insert(message.badge) {
                    log!("{} clients so far", clients.len());
                }
                answer(&message, &mut count);
            }
            Some(Event::Lost(reason)) => {
                log!("at {count}, publishing {name} again ({reason:?})");
                publication += 1;
                service = publish(&name, publication)?;
            }
            Some(Event::Unreferenced { export }) if export == publication => {
                log!("nobody can reach {name} any more");
                drop(service);
                return Ok(());
            }
            None => {
                log!("nobody has called for a while; at {count}");
                return Ok(());
            }
            _ => {}
        }
    }
}

/// The mistake that this program is known for: it writes to an address that no district has.
fn crash() {
    // SAFETY: a write wants memory that is the program's own. This is not: that the district ends here, and nobody else
    // notices more than an unanswered call, is what is shown.
    unsafe { core::ptr::without_provenance_mut::<u64>(0xdead_0000).write_volatile(1) };
}

fn answer(message: &Message, count: &mut u64) {
    match (message.operation, <[u8; 8]>::try_from(message.data.as_slice())) {
        (ADD, Ok(number)) => *count = count.wrapping_add(u64::from_le_bytes(number)),
        (ADD, Err(_)) => *count = count.wrapping_add(1),
        (GET, _) => {}
        // Without an answer, the caller learns that there will be none.
        _ => return,
    }
    // A caller that has given up meanwhile is no business of the counter's.
    let _ = message.reply(*count, &[]);
}
