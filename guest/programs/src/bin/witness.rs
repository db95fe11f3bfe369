//! Holds a key across whatever happens, and tells what has become of it: `witness [NAME]`.
//!
//! It looks the name up at once, then waits until there is something behind it. Each time that the connection is lost it
//! tries the handle of the lost key, and handle 1, and looks the name up again. It logs each step.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::string::String;
use core::mem::ManuallyDrop;
use core::time::Duration;

use district_sdk::protocol::operation::directory;
use district_sdk::{Directory, Error, Event, Handle, Key, boot, log, next_event};

district_sdk::entry!(main);

const PATIENCE: Duration = Duration::from_secs(600);

fn main() -> Result<(), Error> {
    let name = boot::arguments().next().unwrap_or_else(|| String::from("counter"));
    match Directory::bootstrap().lookup(&name) {
        Ok(_) => log!("{name} is ready"),
        Err(error) => log!("{name} is not to be had: {error:?}"),
    }
    let mut held = find(&name)?;
    loop {
        if let Some(Event::Lost(reason)) = next_event(None) {
            let (epoch, session, generation) = (boot::epoch(), boot::session(), boot::generation());
            log!(
                "lost ({reason:?}) in epoch {epoch} session {session} for {:?}, generation {generation}",
                boot::reason()
            );
            log!("old handle: {:?}", identify(held));
            log!("handle 1: {:?}", identify(Handle::BOOTSTRAP));
            held = find(&name)?;
        }
    }
}

/// The handle of a key that works.
fn find(name: &str) -> Result<Handle, Error> {
    loop {
        let found = Directory::bootstrap().0.call(directory::LOOKUP_WAIT, name.as_bytes()).timeout(PATIENCE).wait();
        match found {
            Ok(reply) => {
                let version = reply.result;
                let key = ManuallyDrop::new(reply.into_key()?);
                log!("{name} has version {version} and handle {:#x}", key.handle().0);
                return Ok(key.handle());
            }
            Err(error) if error.look_up_again() => log!("{name} is not to be had: {error:?}"),
            Err(error) => return Err(error),
        }
    }
}

/// Asks the broker about a number, whatever the program knows of it.
fn identify(handle: Handle) -> Option<Error> {
    ManuallyDrop::new(Key::from_handle(handle)).identify().err()
}
