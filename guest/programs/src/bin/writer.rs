//! Writes to `notes` and holds it to its word: `writer [COUNT [EVERY [PAUSE [NAME]]]]` writes COUNT numbered notes, has
//! each EVERY of them committed, and waits PAUSE milliseconds between any two.
//!
//! What is committed it logs, as `committed <number> at generation <generation>`, and from then on it must be there, whatever
//! happens to any district. Each time that it had to find `notes` again it looks, and ends with an error if something is
//! missing. What was not committed then may be gone, so it is written again.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use core::time::Duration;

use district_sdk::{Error, Link, boot, log, restart, time};
use programs::notes::{self, COMMIT, GET, PUT, Refusal, numbered_key, numbered_value, put_data};

district_sdk::entry!(main);

/// How long it tries before it gives up.
const PATIENCE: Duration = Duration::from_secs(600);
/// Wait after a commit that did not succeed.
const AGAIN: Duration = Duration::from_millis(100);

fn main() -> Result<(), String> {
    let mut arguments = boot::arguments();
    let mut number = |otherwise| arguments.next().and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    let (count, every, pause): (u64, u64, u64) = (number(1000), number(10).max(1), number(0));
    let name = arguments.next().unwrap_or_else(|| String::from(notes::NAME));
    let mut writer =
        Writer { notes: Link::new(name).patience(PATIENCE), committed: 0, pause: Duration::from_millis(pause) };
    restart::on_restart(|restart| log!("restored: {restart}"));
    while writer.committed < count {
        let last = count.min(writer.committed + every);
        writer.write_up_to(last).map_err(|error| format!("after {} commits: {error}", writer.committed))?;
    }
    writer.verify()?;
    log!("verified {count}");
    Ok(())
}

struct Writer {
    notes: Link,
    /// All notes up to this one are durable.
    committed: u64,
    pause: Duration,
}

impl Writer {
    /// Writes all that is not committed, and has it committed. If `notes` was not the same all the time, a commit says
    /// nothing about what was written before: then it is not acknowledged.
    fn write_up_to(&mut self, last: u64) -> Result<(), String> {
        let life = self.notes.reconnections();
        for number in self.committed + 1..=last {
            self.put(number)?;
            if !self.pause.is_zero() {
                time::sleep(self.pause);
            }
        }
        let committed = self.notes.call(COMMIT, &[]).wait();
        if self.notes.reconnections() != life {
            log!("{} had to be found again, {} are committed", self.notes.path(), self.committed);
            return self.verify();
        }
        match committed {
            Ok(reply) => match Refusal::from_result(reply.result) {
                None => {
                    self.committed = last;
                    log!("committed {last} at generation {}", reply.result);
                }
                Some(Refusal::NotCommitted) => {
                    log!("{last} could not be committed");
                    time::sleep(AGAIN);
                }
                Some(refusal) => return Err(format!("no commit: {refusal:?}")),
            },
            Err(Error::Unknown(reason)) => log!("{last} may or may not be committed ({reason:?})"),
            Err(error) => return Err(format!("no commit: {error}")),
        }
        Ok(())
    }

    fn put(&mut self, number: u64) -> Result<(), String> {
        let data = put_data(&numbered_key(number), &numbered_value(number));
        // Twice is as good as once.
        let reply = self.notes.call(PUT, &data).wait_at_least_once().map_err(|error| format!("no put: {error}"))?;
        match Refusal::from_result(reply.result) {
            None => Ok(()),
            Some(refusal) => Err(format!("no put: {refusal:?}")),
        }
    }

    /// Whether all that is committed is there.
    fn verify(&mut self) -> Result<(), String> {
        for number in 1..=self.committed {
            let key = numbered_key(number);
            let reply = self.notes.call(GET, &key).wait_at_least_once().map_err(|error| format!("no get: {error}"))?;
            if reply.data != numbered_value(number) {
                return Err(format!("note {number} of {} is lost or wrong: {:#x}", self.committed, reply.result));
            }
        }
        Ok(())
    }
}
