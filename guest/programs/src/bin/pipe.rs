//! Keeps keys and hands them out: what comes in by one key goes out by another.
//!
//! * 1 `PUT`: keeps the keys of the message. Result: how many it has.
//! * 2 `TAKE`: hands out the oldest key, if there is one. Result: how many it still has.
//! * 3 `FORWARD`: sends the data, and the right to answer it, to the object of the first key of the message.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::collections::VecDeque;

use district_sdk::{Error, Event, Key, Message, log, next_event, publish};

district_sdk::entry!(main);

const PUT: u64 = 1;
const TAKE: u64 = 2;
const FORWARD: u64 = 3;

fn main() -> Result<(), Error> {
    let mut kept = VecDeque::new();
    let mut _service = publish("pipe", 0)?;
    loop {
        match next_event(None) {
            Some(Event::Message(message)) => {
                if let Err(error) = serve(message, &mut kept) {
                    log!("pipe: {error}");
                }
            }
            Some(Event::Lost(_)) => {
                kept.clear();
                _service = publish("pipe", 0)?;
            }
            _ => {}
        }
    }
}

fn serve(mut message: Message, kept: &mut VecDeque<Key>) -> Result<(), Error> {
    match message.operation {
        PUT => {
            kept.extend(message.keys.drain(..));
            message.reply(kept.len() as u64, &[])
        }
        TAKE => match kept.pop_front() {
            Some(key) => message.answer(kept.len() as u64, &[])?.give(key).detach(),
            None => message.reply(0, &[]),
        },
        FORWARD => match (message.keys.first(), message.take_reply_key()) {
            (Some(target), Some(reply)) => target.send(FORWARD, &message.data).give(reply).detach(),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}
