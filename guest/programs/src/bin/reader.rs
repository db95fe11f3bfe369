//! Reads all of what `writer` has written to `notes`: `reader [NAME]`. It logs how many notes there are, up to which
//! number none is missing, and the last one; and ends with an error if one is not what was written.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use district_sdk::{Link, boot, log};
use programs::notes::{self, GET, LIST, listed, number_of, numbered_value};

district_sdk::entry!(main);

/// How long it tries before it gives up.
const PATIENCE: Duration = Duration::from_secs(600);
/// Bytes of keys that are asked for at a time.
const ROOM: u32 = 4096;

fn main() -> Result<(), String> {
    let name = boot::arguments().next().unwrap_or_else(|| String::from(notes::NAME));
    let mut notes = Link::new(name).patience(PATIENCE);
    let (mut count, mut whole, mut last) = (0u64, 0, 0);
    let mut after = Vec::new();
    loop {
        let page = notes.call(LIST, &after).reply_capacity(ROOM).wait_at_least_once();
        let page = page.map_err(|error| format!("no list: {error}"))?;
        let Some(end) = listed(&page.data).last() else { break };
        after = end.to_vec();
        for key in listed(&page.data) {
            let number = number_of(key).ok_or_else(|| format!("a key that nobody wrote: {key:x?}"))?;
            let reply = notes.call(GET, key).wait_at_least_once().map_err(|error| format!("no get: {error}"))?;
            if reply.data != numbered_value(number) {
                return Err(format!("note {number} is not what was written: {:#x}", reply.result));
            }
            count += 1;
            last = number;
            if number == whole + 1 {
                whole = number;
            }
        }
    }
    log!("read {count}, all up to {whole}, last {last}");
    Ok(())
}
