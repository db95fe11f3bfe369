//! Handles: the numbers by which a district names the keys that it holds (semantics, section 2).

/// A handle: serial in the upper 44 bits, slot in the lower 20. No value is issued twice in a district's life. What a
/// guest puts into a frame is only an allegation that it holds such a key; the broker's table decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u64);

/// Bits of a handle that name the slot.
pub const SLOT_BITS: u32 = 20;
/// Largest serial.
pub const SERIAL_MAX: u64 = (1 << 44) - 1;

impl Handle {
    /// The bootstrap key: the only key at every start and restart.
    pub const BOOTSTRAP: Handle = Handle(1);

    /// The handle with this serial. The slot of every handle but the bootstrap key's is its serial modulo 2^20, so that
    /// a number which was never issued can be told from an old one without remembering each old one.
    pub const fn from_serial(serial: u64) -> Handle {
        Handle(serial << SLOT_BITS | serial & ((1 << SLOT_BITS) - 1))
    }

    /// The serial, if this number has the form of a handle that a broker issues.
    pub const fn serial(self) -> Option<u64> {
        let serial = self.0 >> SLOT_BITS;
        if serial != 0 && Handle::from_serial(serial).0 == self.0 { Some(serial) } else { None }
    }
}

const _: () = {
    // docs/abi.md, section 6: handle 1 has serial 0, which is never issued.
    assert!(Handle::BOOTSTRAP.serial().is_none());
    assert!(Handle::from_serial(SERIAL_MAX).0 >> SLOT_BITS == SERIAL_MAX);
};
