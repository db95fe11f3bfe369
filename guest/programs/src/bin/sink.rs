//! Takes messages in and counts them: the other side of `source`. `sink [NAME]`.
//!
//! Operation 1 is counted; 2 answers with the number of messages and, as a little-endian u64, of bytes since the last 2.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::string::String;

use district_sdk::{Error, Event, boot, next_event, publish};

district_sdk::entry!(main);

const COUNT: u64 = 1;
const REPORT: u64 = 2;

fn main() -> Result<(), Error> {
    let name = boot::arguments().next().unwrap_or_else(|| String::from("sink"));
    let mut _service = publish(&name, 0)?;
    let (mut messages, mut bytes) = (0u64, 0u64);
    loop {
        match next_event(None) {
            Some(Event::Message(message)) if message.operation == COUNT => {
                messages += 1;
                bytes += message.data.len() as u64;
            }
            Some(Event::Message(message)) if message.operation == REPORT => {
                // Whoever asked and has gone meanwhile does not want to know.
                let _ = message.reply(messages, &bytes.to_le_bytes());
                (messages, bytes) = (0, 0);
            }
            Some(Event::Lost(_)) => _service = publish(&name, 0)?,
            _ => {}
        }
    }
}
