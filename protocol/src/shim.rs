//! What a program asks of ring 0, with `int3` (`docs/abi.md`, section 4).
//!
//! `eax` holds the call's number, `rdi`, `rsi` and `rdx` its arguments. All registers keep their values. Any other
//! number ends the district with a fault report of vector 3.

/// Stop until the host has something for this district, or until the guest's clock (see [`crate::boot::BootPage::now`])
/// reaches `rdi` nanoseconds since 1970; `u64::MAX` means no deadline. May return early and for no reason.
pub const PARK: u32 = 1;

/// End the district. `rdi`: exit code, of which the low 8 bits count; `rsi`, `rdx`: address and length of a message in
/// UTF-8, at most [`EXIT_MESSAGE_MAX`] bytes, or zero. Does not return.
pub const EXIT: u32 = 2;

/// Longest exit message in bytes; more is cut off.
pub const EXIT_MESSAGE_MAX: usize = 1024;

/// A `rdi` of [`PARK`] that never comes.
pub const NO_DEADLINE: u64 = u64::MAX;
