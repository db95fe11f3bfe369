//! What a program's main function may return.

use core::fmt::{self, Display, Write};

/// How a program ended, for whoever started the district.
pub trait Outcome {
    /// The exit code.
    fn code(&self) -> u8;

    /// Writes what there is to say about it, if anything.
    ///
    /// # Errors
    /// Those of `out`.
    fn message(&self, out: &mut dyn Write) -> fmt::Result;
}

impl Outcome for () {
    fn code(&self) -> u8 {
        0
    }

    fn message(&self, _: &mut dyn Write) -> fmt::Result {
        Ok(())
    }
}

impl Outcome for u8 {
    fn code(&self) -> u8 {
        *self
    }

    fn message(&self, _: &mut dyn Write) -> fmt::Result {
        Ok(())
    }
}

/// An error ends the program with code 1 and its text.
impl<E: Display> Outcome for Result<(), E> {
    fn code(&self) -> u8 {
        u8::from(self.is_err())
    }

    fn message(&self, out: &mut dyn Write) -> fmt::Result {
        match self {
            Ok(()) => Ok(()),
            Err(error) => write!(out, "{error}"),
        }
    }
}
