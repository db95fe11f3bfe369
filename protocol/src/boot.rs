//! The boot page: all that a district knows before it has used a key (`docs/abi.md`, section 3).

/// First eight bytes of the boot page: `DISTRICT` in ASCII, read as a little-endian number.
pub const BOOT_MAGIC: u64 = u64::from_le_bytes(*b"DISTRICT");

/// Offset of the arguments in the boot page.
pub const ARGUMENTS_OFFSET: usize = 512;
/// Most bytes of arguments, each followed by one NUL.
pub const ARGUMENTS_MAX: usize = 4096 - ARGUMENTS_OFFSET;

/// Why a district's present life began (semantics, section 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum StartReason {
    /// From its image, with fresh memory.
    Cold = 1,
    /// After it failed, from its newest checkpoint.
    Crash = 2,
    /// Somebody asked for a restart.
    Requested = 3,
    /// From an older checkpoint, on request.
    RollBack = 4,
    /// As a copy of another district, under a new identity.
    Clone = 5,
    /// It went on running; the broker behind its keys is a new one. Same epoch, higher session.
    BrokerRestart = 6,
}

impl StartReason {
    /// The reason with this number, if there is one.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            1 => Self::Cold,
            2 => Self::Crash,
            3 => Self::Requested,
            4 => Self::RollBack,
            5 => Self::Clone,
            6 => Self::BrokerRestart,
            _ => return None,
        })
    }
}

/// The fixed part of the boot page, little-endian, at [`crate::layout::BOOT_PAGE`]. Read-only for the program. The host
/// rewrites it before each start and, when the broker has been replaced, while the program runs: first `reason`, then
/// `session`, which is why a program reads `session` with an atomic load.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BootPage {
    /// [`BOOT_MAGIC`].
    pub magic: u64,
    /// [`crate::ABI_VERSION`].
    pub abi_version: u32,
    /// A [`StartReason`].
    pub reason: u32,
    /// The district's permanent identity.
    pub district_id: [u8; 16],
    /// Number of this life; a restart of any kind counts one up.
    pub epoch: u64,
    /// Number of the checkpoint that this life began from; 0: none.
    pub generation: u64,
    /// When that checkpoint was taken, in nanoseconds since 1970; 0: none.
    pub checkpoint_time: u64,
    /// The time at `tsc_base`, in nanoseconds since 1970.
    pub now: u64,
    /// Value of the time-stamp counter (`rdtsc`) at `now`.
    pub tsc_base: u64,
    /// Nanoseconds per tick of the time-stamp counter, times 2^32:
    /// time = `now` + ((`rdtsc` - `tsc_base`) * `clock_scale` >> 32), in 128 bits.
    pub clock_scale: u64,
    /// Counts the broker connections of this life, from 1. When it changes, all keys but handle 1 are broken and the
    /// device must be reset and set up again.
    pub session: u64,
    /// First byte of the heap.
    pub heap_base: u64,
    /// Bytes of heap.
    pub heap_size: u64,
    /// First byte of the window.
    pub window_base: u64,
    /// Bytes of window.
    pub window_size: u64,
    /// The device page.
    pub device_base: u64,
    /// Lowest byte of the stack.
    pub stack_base: u64,
    /// Bytes of stack.
    pub stack_size: u64,
    /// Bytes of arguments at [`ARGUMENTS_OFFSET`], the closing NULs included.
    pub arguments_len: u64,
    /// Unpredictable bytes, new at each start; nobody else has them.
    pub entropy: [u8; 64],
}

const _: () = {
    use core::mem::{offset_of, size_of};
    // docs/abi.md, section 3.
    assert!(offset_of!(BootPage, district_id) == 16);
    assert!(offset_of!(BootPage, epoch) == 32);
    assert!(offset_of!(BootPage, now) == 56);
    assert!(offset_of!(BootPage, session) == 80);
    assert!(offset_of!(BootPage, heap_base) == 88);
    assert!(offset_of!(BootPage, window_base) == 104);
    assert!(offset_of!(BootPage, device_base) == 120);
    assert!(offset_of!(BootPage, arguments_len) == 144);
    assert!(offset_of!(BootPage, entropy) == 152);
    assert!(size_of::<BootPage>() == 216);
    assert!(size_of::<BootPage>() <= ARGUMENTS_OFFSET);
    assert!((ARGUMENTS_OFFSET + ARGUMENTS_MAX) as u64 == crate::layout::PAGE_SIZE);
};

impl BootPage {
    /// The page's fixed part as bytes.
    pub fn encode(&self) -> [u8; 216] {
        let mut out = [0; 216];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&self.magic.to_le_bytes());
        put(&self.abi_version.to_le_bytes());
        put(&self.reason.to_le_bytes());
        put(&self.district_id);
        for word in [
            self.epoch,
            self.generation,
            self.checkpoint_time,
            self.now,
            self.tsc_base,
            self.clock_scale,
            self.session,
            self.heap_base,
            self.heap_size,
            self.window_base,
            self.window_size,
            self.device_base,
            self.stack_base,
            self.stack_size,
            self.arguments_len,
        ] {
            put(&word.to_le_bytes());
        }
        put(&self.entropy);
        out
    }
}
