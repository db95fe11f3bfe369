//! Answers every call with its own data: the other side of `ping`. `pong [NAME]`.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::string::String;

use district_sdk::{Error, Event, boot, next_event, publish};

district_sdk::entry!(main);

fn main() -> Result<(), Error> {
    let name = boot::arguments().next().unwrap_or_else(|| String::from("pong"));
    let mut _service = publish(&name, 0)?;
    loop {
        match next_event(None) {
            Some(Event::Message(message)) => _ = message.reply(message.operation, &message.data),
            Some(Event::Lost(_)) => _service = publish(&name, 0)?,
            _ => {}
        }
    }
}
