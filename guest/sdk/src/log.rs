//! The district's log: whatever the bootstrap directory has under the name `log`.

use alloc::format;
use core::fmt::Arguments;

use district_protocol::frame::RequestKind;
use district_protocol::operation::log::{LINE_MAX, WRITE};

use crate::channel::{self, Channel, KeyName};
use crate::{Directory, Error, Invocation, boot};

/// Where the log's key is in the bootstrap directory.
const NAME: &str = "log";

/// Writes a line to the district's log: `log!("{n} clients")`. Does not wait; a district that was granted no log says
/// nothing.
#[macro_export]
macro_rules! log {
    ($($arguments:tt)*) => {
        $crate::write_log(::core::format_args!($($arguments)*))
    };
}

/// Writes a line to the district's log, as [`log!`](crate::log!) does.
pub fn write(line: Arguments<'_>) {
    let text = format!("{line}");
    let mut rest = text.as_str();
    loop {
        let part;
        (part, rest) = rest.split_at(rest.floor_char_boundary(LINE_MAX));
        write_part(part);
        if rest.is_empty() {
            return;
        }
    }
}

/// Writes what fits into one message. There is nowhere to report a failure to.
fn write_part(part: &str) {
    let mut looked_up_again = false;
    while let Err(error) = send(part) {
        // The key may have broken since the last line, and the connection may have ended any number of times.
        if !error.connection_lost() && (!error.look_up_again() || core::mem::replace(&mut looked_up_again, true)) {
            return;
        }
        channel::with(Channel::forget_log_key);
    }
}

/// What is known on the present connection about the log's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogKey {
    /// It has not been looked up.
    Unknown,
    /// There is none.
    Absent,
    /// This one.
    Known(KeyName),
}

fn send(line: &str) -> Result<(), Error> {
    let key = match channel::with(|channel| channel.log_key()) {
        LogKey::Absent => return Ok(()),
        LogKey::Known(key) => key,
        LogKey::Unknown => look_up()?,
    };
    Invocation::new(RequestKind::Send, Some(key), WRITE, line.as_bytes()).detach()
}

fn look_up() -> Result<KeyName, Error> {
    let connection = boot::connection();
    let found = Directory::bootstrap().lookup(NAME);
    if let Err(Error::NotFound | Error::Denied(_)) = found {
        channel::with(|channel| channel.set_log_key(connection, LogKey::Absent));
    }
    let key = found?.into_name();
    channel::with(|channel| channel.set_log_key(key.connection, LogKey::Known(key)));
    Ok(key)
}
