//! Says when it began: exits at once, with the time before anything else, in nanoseconds since 1970, as its message.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;

use district_sdk::{exit, time};

district_sdk::entry!(main);

fn main() {
    let began = time::now();
    exit(0, &format!("{began}"))
}
