//! The changing part of an image's header, of which there are two copies.

use xxhash_rust::xxh3::xxh3_64;

use crate::field::{Block, ZEROS, get_bytes, get_u32, get_u64, put_bytes, put_u32, put_u64};
use crate::format::{STATE_MAX, slot};
use crate::segment::record::Stamp;
use crate::storage::Storage;

/// What an image is the memory of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Of this generation.
    At(u64),
    /// Of one that it comes from, but for pages that any generation up to one that it is going to contains: those may be
    /// half written. Generations that build on the latter can be restored, for they have all of these pages.
    Migrating {
        /// Where it comes from.
        from: u64,
        /// Where it is going to.
        to: u64,
    },
}

/// A slot that has been checked, or is going to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub sequence: u64,
    pub phase: Phase,
    /// Of the generation in the phase, the older one during a migration.
    pub stamp: Stamp,
    /// Of the whole table; during a migration, of the table with zero in place of all entries that it changes.
    pub table_checksum: u64,
    pub state: Vec<u8>,
}

impl Slot {
    /// Reads the slot at `at`. `None` if it is not intact or cannot be read, which it need not be: there are two.
    pub(crate) fn read(file: &impl Storage, at: u64) -> Option<Slot> {
        let mut block = ZEROS;
        file.read_at(at, &mut block).ok()?;
        let (mut slot, state_len, state_checksum) = Slot::decode(&mut block, at)?;
        slot.state = vec![0; state_len];
        file.read_at(at + slot::STATE, &mut slot.state).ok()?;
        (xxh3_64(&slot.state) == state_checksum).then_some(slot)
    }

    /// The slot without its state, and the length and checksum of that.
    fn decode(block: &mut Block, at: u64) -> Option<(Slot, usize, u64)> {
        let checksum = get_u64(block, slot::CHECKSUM);
        put_u64(block, slot::CHECKSUM, at);
        if get_bytes(block, slot::MAGIC) != slot::SLOT || xxh3_64(block) != checksum {
            return None;
        }
        let (generation, to) = (get_u64(block, slot::GENERATION), get_u64(block, slot::TARGET));
        let phase = match get_u32(block, slot::PHASE) {
            slot::AT if generation > 0 => Phase::At(generation),
            slot::MIGRATING if 0 < generation && generation < to => Phase::Migrating { from: generation, to },
            _ => return None,
        };
        let stamp = Stamp {
            generation,
            parent: get_u64(block, slot::PARENT),
            time: get_u64(block, slot::TIME),
            epoch: get_u64(block, slot::EPOCH),
        };
        let state_len = usize::try_from(get_u32(block, slot::STATE_LEN)).ok().filter(|len| *len <= STATE_MAX)?;
        let table_checksum = get_u64(block, slot::TABLE_CHECKSUM);
        let sequence = get_u64(block, slot::SEQUENCE);
        let slot = Slot { sequence, phase, stamp, table_checksum, state: Vec::new() };
        Some((slot, state_len, get_u64(block, slot::STATE_CHECKSUM)))
    }

    /// The block and the state, for the slot at `at`.
    pub(crate) fn encode(&self, at: u64) -> (Block, &[u8]) {
        let mut block = ZEROS;
        let (phase, to) = match self.phase {
            Phase::At(_) => (slot::AT, 0),
            Phase::Migrating { to, .. } => (slot::MIGRATING, to),
        };
        put_bytes(&mut block, slot::MAGIC, slot::SLOT);
        put_u32(&mut block, slot::PHASE, phase);
        put_u64(&mut block, slot::SEQUENCE, self.sequence);
        put_u64(&mut block, slot::GENERATION, self.stamp.generation);
        put_u64(&mut block, slot::TARGET, to);
        put_u64(&mut block, slot::PARENT, self.stamp.parent);
        put_u64(&mut block, slot::TIME, self.stamp.time);
        put_u64(&mut block, slot::EPOCH, self.stamp.epoch);
        put_u64(&mut block, slot::TABLE_CHECKSUM, self.table_checksum);
        put_u32(&mut block, slot::STATE_LEN, u32::try_from(self.state.len()).unwrap_or(u32::MAX));
        put_u64(&mut block, slot::STATE_CHECKSUM, xxh3_64(&self.state));
        put_u64(&mut block, slot::CHECKSUM, at);
        let checksum = xxh3_64(&block);
        put_u64(&mut block, slot::CHECKSUM, checksum);
        (block, &self.state)
    }
}
