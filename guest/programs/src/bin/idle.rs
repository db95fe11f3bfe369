//! Does nothing, for ever. `idle connected` has set its channel up before.

#![no_std]
#![no_main]

use core::time::Duration;

use district_sdk::{boot, next_event, time};

district_sdk::entry!(main);

fn main() {
    if boot::arguments().next().as_deref() == Some("connected") {
        loop {
            next_event(None);
        }
    }
    time::sleep(Duration::MAX);
}
