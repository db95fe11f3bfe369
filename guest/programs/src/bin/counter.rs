//! A service that counts. `counter [NAME]` publishes it under that name, or `counter`.
//!
//! Operation 1 adds the number in the data (a little-endian u64, or 1 if there is none), 2 asks for the count. Both
//! answer with the count. The count is an ordinary variable: it is as old as the district's memory.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::collections::BTreeSet;
use alloc::string::String;

use district_sdk::{Error, Event, Message, boot, log, next_event, publish};

district_sdk::entry!(main);

const ADD: u64 = 1;
const GET: u64 = 2;

fn main() -> Result<(), Error> {
    let name = boot::arguments().next().unwrap_or_else(|| String::from("counter"));
    let mut count = 0;
    let mut clients = BTreeSet::new();
    let mut service = publish(&name, 0)?;
    loop {
        match next_event(None) {
            Some(Event::Message(message)) => {
                if message.badge != 0 && clients.insert(message.badge) {
                    log!("{} clients so far", clients.len());
                }
                answer(&message, &mut count);
            }
            Some(Event::Lost(reason)) => {
                log!("at {count}, publishing {name} again ({reason:?})");
                service = publish(&name, 0)?;
            }
            Some(Event::Unreferenced { .. }) => {
                log!("nobody can reach {name} any more");
                drop(service);
                return Ok(());
            }
            _ => {}
        }
    }
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
