//! Calls a counter, and goes on when the counter restarts. `client [NAME [CALLS [PERIOD]]]`: the counter's name, how many
//! calls to make (0: for ever), and milliseconds between them.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::string::String;
use core::time::Duration;

use district_sdk::{Directory, Error, Key, boot, log, time};

district_sdk::entry!(main);

const ADD: u64 = 1;
const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> Result<(), Error> {
    let mut arguments = boot::arguments();
    let name = arguments.next().unwrap_or_else(|| String::from("counter"));
    let mut number = |otherwise| arguments.next().and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    let (calls, period): (u64, u64) = (number(0), number(1000));

    let mut counter = None;
    let mut answered = 0;
    while calls == 0 || answered < calls {
        match call(&name, counter.take()) {
            Ok((key, count)) => {
                log!("{name} is at {count}");
                counter = Some(key);
                answered += 1;
            }
            Err(error @ (Error::NotFound | Error::Denied(_))) => return Err(error),
            Err(error) if error.retry_is_safe() => log!("{name} is gone ({error:?}), looking it up again"),
            Err(error) => log!("{name} may or may not have counted ({error:?}), looking it up again"),
        }
        time::sleep(Duration::from_millis(period));
    }
    Ok(())
}

fn call(name: &str, counter: Option<Key>) -> Result<(Key, u64), Error> {
    let counter = match counter {
        Some(key) => key,
        None => Directory::bootstrap().lookup_wait(name, PATIENCE)?,
    };
    let count = counter.call(ADD, &1u64.to_le_bytes()).timeout(PATIENCE).wait()?.result;
    Ok((counter, count))
}
