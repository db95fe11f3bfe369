//! Measures one-way messages: `source [MESSAGES [BYTES [NAME]]]` sends that many, each with so much data, to a `sink` as
//! fast as it takes them, and logs how many a second that was.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec;
use core::time::Duration;

use district_sdk::{Directory, Error, Key, Ticket, boot, log, time};

district_sdk::entry!(main);

const COUNT: u64 = 1;
const REPORT: u64 = 2;
/// Messages that may be on their way to the broker.
const UNDER_WAY: usize = 128;
/// What a sender waits when the receiver has enough to do.
const PAUSE: Duration = Duration::from_micros(50);

fn main() -> Result<(), Error> {
    let mut arguments = boot::arguments();
    let messages = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let bytes: usize = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(64);
    let name = arguments.next().unwrap_or_else(|| String::from("sink"));

    let sink = Directory::bootstrap().lookup_wait(&name, Duration::from_secs(30))?;
    sink.call(REPORT, &[]).wait()?;
    let start = time::now();
    let refused = send_all(&sink, messages, &vec![0xa5; bytes])?;
    let report = sink.call(REPORT, &[]).wait()?;
    let passed = (time::now() - start).max(1);
    let total = <[u8; 8]>::try_from(report.data.as_slice()).map_or(0, u64::from_le_bytes);
    log!(
        "source messages={} bytes={bytes} refused={refused} ns={passed} messages_per_s={} mb_per_s={}",
        report.result,
        report.result * 1_000_000_000 / passed,
        total * 1000 / passed
    );
    Ok(())
}

/// Sends until `messages` are queued; returns how many times the sink's queue was full.
fn send_all(sink: &Key, messages: u64, data: &[u8]) -> Result<u64, Error> {
    let mut under_way: VecDeque<Ticket> = VecDeque::new();
    let (mut to_send, mut refused) = (messages, 0);
    while to_send > 0 || !under_way.is_empty() {
        let room = to_send > 0 && under_way.len() < UNDER_WAY;
        match if room { sink.send(COUNT, data).start() } else { Err(Error::WouldBlock) } {
            Ok(ticket) => {
                under_way.push_back(ticket);
                to_send -= 1;
                continue;
            }
            Err(Error::WouldBlock) => {}
            Err(error) => return Err(error),
        }
        match under_way.pop_front().map(Ticket::wait) {
            Some(Err(Error::Quota(_) | Error::WouldBlock)) => {
                to_send += 1;
                refused += 1;
                time::sleep(PAUSE);
            }
            Some(Err(error)) => return Err(error),
            Some(Ok(_)) | None => {}
        }
    }
    Ok(refused)
}
