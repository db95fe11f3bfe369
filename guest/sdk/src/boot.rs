//! What the boot page says (`docs/abi.md`, section 3).
//!
//! The host rewrites the page when it restores the district, which may be between any two instructions, and counts the
//! epoch up. What takes more than one read is therefore read between two equal readings of the epoch.

use alloc::string::String;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering, compiler_fence};

use district_protocol::ABI_VERSION;
use district_protocol::boot::{ARGUMENTS_MAX, ARGUMENTS_OFFSET, BOOT_MAGIC, BootPage, StartReason};
use district_protocol::status::Reason;

use crate::machine;

fn word(offset: usize) -> u64 {
    machine::step();
    let field = machine::boot_page().cast::<u8>().wrapping_add(offset).cast::<u64>();
    // SAFETY: the page is readable for the district's whole life, and all callers name an aligned word inside of it; on
    // x86-64, an atomic load of a word is one that memory mapped read-only allows.
    unsafe { AtomicU64::from_ptr(field.cast_mut()) }.load(Ordering::Acquire)
}

pub(crate) fn consistent<T>(read: impl Fn() -> T) -> T {
    loop {
        let before = epoch();
        let value = read();
        if epoch() == before {
            return value;
        }
    }
}

/// One connection to the broker. All keys but the bootstrap key belong to one, and die with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Connection {
    epoch: u64,
    session: u64,
}

impl Connection {
    /// Why what belongs to this connection is of no use on `present`.
    pub(crate) fn lost_because(self, present: Connection) -> Reason {
        if self.epoch == present.epoch { Reason::Unreachable } else { Reason::SelfRestart }
    }
}

/// The connection that is possible now: by what it says, everything that was read from the window before can be judged.
pub(crate) fn connection() -> Connection {
    // The processor keeps reads in order by itself.
    compiler_fence(Ordering::SeqCst);
    consistent(|| Connection { epoch: epoch(), session: session() })
}

/// What is wrong with the boot page, if it is not one of this ABI.
pub(crate) fn check() -> Result<(), &'static str> {
    const { assert!(offset_of!(BootPage, reason) == offset_of!(BootPage, abi_version) + 4) };
    if word(offset_of!(BootPage, magic)) != BOOT_MAGIC {
        return Err("the boot page is not where it should be");
    }
    if word(offset_of!(BootPage, abi_version)) & u64::from(u32::MAX) != u64::from(ABI_VERSION) {
        return Err("the host has another ABI version than the program");
    }
    Ok(())
}

/// The district's permanent identity.
pub fn district_id() -> [u8; 16] {
    const AT: usize = offset_of!(BootPage, district_id);
    consistent(|| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&word(AT).to_le_bytes());
        id[8..].copy_from_slice(&word(AT + 8).to_le_bytes());
        id
    })
}

/// Number of this life; each restart counts one up.
pub fn epoch() -> u64 {
    word(offset_of!(BootPage, epoch))
}

/// Why this life began; or, if that is the later event, that the broker was replaced.
pub fn reason() -> Option<StartReason> {
    let [_, _, _, _, reason @ ..] = word(offset_of!(BootPage, abi_version)).to_le_bytes();
    StartReason::from_raw(u32::from_le_bytes(reason))
}

/// Number of the broker connection in this life, from 1.
pub fn session() -> u64 {
    word(offset_of!(BootPage, session))
}

/// Number of the checkpoint that this life began from; 0: none.
pub fn generation() -> u64 {
    word(offset_of!(BootPage, generation))
}

/// When that checkpoint was taken, in nanoseconds since 1970; 0: none.
pub fn checkpoint_time() -> u64 {
    word(offset_of!(BootPage, checkpoint_time))
}

/// First byte and length of the heap.
pub fn heap() -> (u64, u64) {
    consistent(|| (word(offset_of!(BootPage, heap_base)), word(offset_of!(BootPage, heap_size))))
}

/// First byte and length of the window.
pub fn window() -> (u64, u64) {
    consistent(|| (word(offset_of!(BootPage, window_base)), word(offset_of!(BootPage, window_size))))
}

/// First byte and length of the stack.
pub fn stack() -> (u64, u64) {
    consistent(|| (word(offset_of!(BootPage, stack_base)), word(offset_of!(BootPage, stack_size))))
}

/// Bytes that nobody else has, new in each epoch. They are what [`crate::Rng`] is made from: a program that wants
/// numbers takes them from there.
pub fn entropy() -> [u8; 64] {
    life().1
}

/// The epoch, and the entropy that was made for it.
pub(crate) fn life() -> (u64, [u8; 64]) {
    consistent(|| {
        let mut entropy = [0; 64];
        for (index, chunk) in entropy.chunks_exact_mut(8).enumerate() {
            chunk.copy_from_slice(&word(offset_of!(BootPage, entropy) + index * 8).to_le_bytes());
        }
        (epoch(), entropy)
    })
}

/// Time of the clock's base, the counter then, and nanoseconds per tick times 2^32.
pub(crate) fn clock() -> (u64, u64, u64) {
    const { assert!(offset_of!(BootPage, clock_scale) == offset_of!(BootPage, now) + 16) };
    (word(offset_of!(BootPage, now)), word(offset_of!(BootPage, tsc_base)), word(offset_of!(BootPage, clock_scale)))
}

/// The time by the clock that the page describes now, in nanoseconds since 1970.
pub(crate) fn now() -> u64 {
    consistent(|| {
        let (base, tsc_base, scale) = clock();
        let ticks = machine::ticks().saturating_sub(tsc_base);
        // 2^64 nanoseconds since 1970 are the year 2554; a host that says so gets a clock that stands still.
        let passed = u64::try_from((u128::from(ticks) * u128::from(scale)) >> 32).unwrap_or(u64::MAX);
        base.saturating_add(passed)
    })
}

/// The program's arguments, in order. Bytes that are not UTF-8 are replaced.
pub fn arguments() -> impl Iterator<Item = String> {
    let bytes = consistent(|| {
        let len = word(offset_of!(BootPage, arguments_len)).min(ARGUMENTS_MAX as u64);
        let words = (0..len.div_ceil(8)).map(|index| ARGUMENTS_OFFSET as u64 + index * 8);
        let mut bytes: Vec<u8> = words.flat_map(|at| word(usize_from(at)).to_le_bytes()).collect();
        bytes.truncate(usize_from(len));
        bytes
    });
    let mut rest = bytes;
    core::iter::from_fn(move || {
        let end = rest.iter().position(|&byte| byte == 0)?;
        let argument = String::from_utf8_lossy(&rest[..end]).into_owned();
        rest.drain(..=end);
        Some(argument)
    })
}

#[allow(clippy::cast_possible_truncation)] // x86-64: both have 64 bits
const fn usize_from(value: u64) -> usize {
    value as usize
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use district_protocol::layout::WINDOW_SIZE_MIN;

    use super::*;
    use crate::machine::{self, install};

    #[test]
    fn arguments_are_split_at_their_zeros() {
        install(WINDOW_SIZE_MIN, |_, _| {});
        let text = b"one\0\0three and more\0";
        machine::write_boot(512, text);
        machine::with_boot(|boot| boot.arguments_len = text.len() as u64);
        let found: Vec<String> = arguments().collect();
        assert_eq!(found, ["one", "", "three and more"]);
        machine::with_boot(|boot| boot.arguments_len = u64::MAX);
        assert!(arguments().count() > 3);
    }

    #[test]
    fn another_abi_is_refused() {
        install(WINDOW_SIZE_MIN, |_, _| {});
        assert_eq!(check(), Ok(()));
        machine::with_boot(|boot| boot.abi_version += 1);
        assert!(check().unwrap_err().contains("ABI version"));
        machine::with_boot(|boot| boot.magic = 0);
        assert!(check().unwrap_err().contains("boot page"));
    }
}
