//! Says hello, tells its arguments, and ends.

#![no_std]
#![no_main]

use district_sdk::{boot, log};

district_sdk::entry!(main);

fn main() {
    log!("hello from epoch {}", boot::epoch());
    for argument in boot::arguments() {
        log!("argument: {argument}");
    }
}
