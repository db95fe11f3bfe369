//! Where a program begins and ends.

use core::fmt::{self, Write};
use core::panic::PanicInfo;

use district_protocol::shim::EXIT_MESSAGE_MAX;

use crate::channel::{self, HOST_FAULT};
use crate::{Outcome, boot, heap, machine, restart};

/// Exit code of a program whose panic handler ran.
const PANIC: u8 = 101;

/// Names the function that a program begins with: `entry!(main)`. It takes nothing and returns an [`Outcome`]. Also
/// makes the program's heap and its panic handler, which ends the district with code 101, the message and the place. A
/// program is entered as a function is called (`docs/abi.md`, section 1), so that no assembly is needed for it.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[cfg(not(test))]
        #[unsafe(no_mangle)]
        extern "C" fn _start() -> ! {
            $crate::start($main)
        }

        #[cfg(not(test))]
        #[panic_handler]
        fn district_panic(panic: &::core::panic::PanicInfo) -> ! {
            $crate::panic(panic)
        }

        #[cfg(not(test))]
        #[global_allocator]
        static DISTRICT_HEAP: $crate::Heap = $crate::Heap;

        // A test harness has all that from elsewhere.
        #[cfg(test)]
        const _: fn() -> ! = || $crate::start($main);
    };
}

/// Runs `main` and ends the district with its outcome. Called by what [`entry!`] makes, and only there.
pub fn start<T: Outcome>(main: fn() -> T) -> ! {
    if let Err(message) = boot::check() {
        machine::exit(HOST_FAULT, message);
    }
    heap::start();
    restart::notice();
    let outcome = main();
    let code = outcome.code();
    let mut message = Message::new();
    // Writing to a `Message` cannot fail, and what `outcome` itself does not want to say is not said.
    let _ = outcome.message(&mut message);
    exit(code, message.as_str())
}

/// Ends the district with this exit code, after everything that was sent without waiting has reached the broker. Of
/// `message`, the first [`EXIT_MESSAGE_MAX`] bytes are kept.
pub fn exit(code: u8, message: &str) -> ! {
    channel::settle();
    machine::exit(code, message)
}

/// Ends the district with what a panic says. Called by what [`entry!`] makes.
pub fn panic(panic: &PanicInfo) -> ! {
    let mut message = Message::new();
    // Writing to a `Message` cannot fail.
    let _ = match panic.location() {
        Some(at) => write!(message, "{} at {}:{}", panic.message(), at.file(), at.line()),
        None => write!(message, "{}", panic.message()),
    };
    machine::exit(PANIC, message.as_str())
}

/// Text of an exit message, made without the heap; what does not fit is cut off.
struct Message {
    bytes: [u8; EXIT_MESSAGE_MAX],
    len: usize,
}

impl Message {
    const fn new() -> Self {
        Message { bytes: [0; EXIT_MESSAGE_MAX], len: 0 }
    }

    fn as_str(&self) -> &str {
        // Only whole characters are ever put in.
        str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl Write for Message {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let kept = &text[..text.floor_char_boundary(EXIT_MESSAGE_MAX - self.len)];
        self.bytes[self.len..self.len + kept.len()].copy_from_slice(kept.as_bytes());
        self.len += kept.len();
        Ok(())
    }
}
