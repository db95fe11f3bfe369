//! Keeps keys and values for others: `notes [BYTES]` publishes `notes`, with room for that many bytes.
//!
//! It is a map on the heap and nothing else. That it outlives crashes is the district's doing: it goes on from its newest
//! checkpoint. A client that must know what will not be forgotten asks for a commit, which takes a checkpoint and is
//! answered when that is durable; meanwhile others are served. Needs the grant `checkpoint = "host/checkpoint"` for that.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;

use district_sdk::checkpoint::{self, Commit, Pending};
use district_sdk::{Error, Event, Message, TicketId, boot, log, next_event, publish, restart};
use programs::notes::{COMMIT, NAME, Notes, Refusal};

district_sdk::entry!(main);

/// Bytes that there is room for where nothing else is said.
const LIMIT: usize = 4 << 20;

fn main() -> Result<(), Error> {
    let limit = boot::arguments().next().and_then(|text| text.parse().ok()).unwrap_or(LIMIT);
    let mut notes = Notes::new(limit);
    let mut commits = Commits::default();
    restart::on_restart(|restart| log!("restored: {restart}"));
    let mut _service = publish(NAME, 0)?;
    loop {
        match next_event(None) {
            Some(Event::Message(message)) if message.operation == COMMIT => commits.begin(message),
            Some(Event::Message(message)) => {
                let room = message.reply_capacity as usize;
                match notes.answer(message.operation, &message.data, room) {
                    Ok((result, data)) => reply(&message, result, &data),
                    Err(refusal) => refuse(&message, refusal),
                }
            }
            Some(Event::Finished(id)) => commits.end(id),
            Some(Event::Cancelled { reply }) => commits.under_way.retain(|it| it.0.reply_handle() != Some(reply)),
            Some(Event::Lost(reason)) => {
                log!("publishing {} notes again ({reason:?})", notes.count());
                _service = publish(NAME, 0)?;
            }
            _ => {}
        }
    }
}

/// Commits that somebody waits for. Those of a life that is over end like all others; that their callers do not hear of
/// it is the library's business.
#[derive(Default)]
struct Commits {
    under_way: Vec<(Message, Pending)>,
}

impl Commits {
    fn begin(&mut self, message: Message) {
        match checkpoint::begin() {
            Ok(pending) => self.under_way.push((message, pending)),
            Err(Error::NotFound) => refuse(&message, Refusal::NeverCommitted),
            Err(_) => refuse(&message, Refusal::NotCommitted),
        }
    }

    fn end(&mut self, id: TicketId) {
        let Some(at) = self.under_way.iter().position(|(_, pending)| pending.id() == id) else { return };
        let (message, mut pending) = self.under_way.swap_remove(at);
        match pending.poll() {
            Some(Ok(Commit::Committed { generation })) => reply(&message, generation, &[]),
            Some(Ok(Commit::Restored(restart))) => reply(&message, restart.generation, &[]),
            Some(Err(Error::Denied(_))) => refuse(&message, Refusal::NeverCommitted),
            Some(Err(_)) | None => refuse(&message, Refusal::NotCommitted),
        }
    }
}

fn refuse(message: &Message, refusal: Refusal) {
    reply(message, refusal.to_result(), &[]);
}

/// A caller that has given up, or is of another life, is no business of this program's.
fn reply(message: &Message, result: u64, data: &[u8]) {
    let _ = message.reply(result, data);
}
