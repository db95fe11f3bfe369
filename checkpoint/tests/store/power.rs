//! Power cuts, full disks and failing ones, at every operation of a history.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};

use district_checkpoint::simulated::{Disk, Fault, Random};
use district_checkpoint::{SegmentHeader, SegmentWriter, Storage, WriteError, create_segment};

use super::history::{From, Player, Step, open, steps};
use super::support::*;

fn first_seed() -> u64 {
    std::env::var("DISTRICT_SEED").ok().map_or(1, |seed| seed.parse().unwrap())
}

fn player(seed: u64) -> (Player, Vec<Step>) {
    let mut random = Random(seed);
    let player = if random.below(3) == 0 { Player::with_base(&mut random) } else { Player::new() };
    let len = 8 + usize::try_from(random.below(12)).unwrap();
    (player, steps(&mut random, len))
}

#[test]
fn c50_a_power_cut_at_any_operation_leaves_a_complete_generation() {
    for seed in first_seed()..first_seed() + 24 {
        let (mut whole, history) = player(seed);
        let start = whole.disk.operations();
        whole.play_all(&history).unwrap();
        let end = whole.disk.operations();
        for cut in start + 1..=end {
            let (mut player, history) = player(seed);
            player.disk.cut_at(cut);
            let played = player.play_all(&history);
            assert!(played.is_err() && player.disk.is_off());
            player.disk.restart(seed.wrapping_mul(1000).wrapping_add(cut));
            player.check_after_cut(&format!("DISTRICT_SEED={seed}, cut at operation {cut}"));
        }
    }
}

#[test]
fn c50_a_second_power_cut_while_the_first_is_repaired() {
    for seed in first_seed() + 100..first_seed() + 140 {
        let (mut whole, history) = player(seed);
        let start = whole.disk.operations();
        whole.play_all(&history).unwrap();
        let span = whole.disk.operations() - start;
        let mut random = Random(seed);
        for _ in 0..4 {
            let (mut player, history) = player(seed);
            player.disk.cut_at(start + 1 + random.below(span));
            assert!(player.play_all(&history).is_err());
            for _ in 0..3 {
                player.disk.restart(random.number());
                let lineage = open(&player.disk).unwrap();
                player.committed = lineage.newest().unwrap().unwrap_or(0).max(player.committed);
                player.disk.cut_at(player.disk.operations() + 1 + random.below(12));
                let again = [Step::Life(From::Newest), Step::Migrate];
                let _ = player.play_all(&again);
            }
            player.disk.restart(random.number());
            player.check_after_cut(&format!("DISTRICT_SEED={seed}"));
        }
    }
}

#[test]
fn c49_a_disk_that_fails_at_any_operation_loses_nothing_that_was_committed() {
    for seed in first_seed() + 200..first_seed() + 210 {
        for fault in [Fault::NoSpace, Fault::Io] {
            let (mut whole, history) = player(seed);
            let start = whole.disk.operations();
            whole.play_all(&history).unwrap();
            for operation in start + 1..=whole.disk.operations() {
                let (mut player, history) = player(seed);
                player.disk.fail_at(operation, fault);
                let what = format!("DISTRICT_SEED={seed}, {fault:?} at operation {operation}");
                assert!(player.play_all(&history).is_err(), "{what}");
                // The host goes on as if nothing were; then a power cut shows what was not durable.
                let pages = BTreeMap::from([(2, 601), (3, 0)]);
                let goes_on = [Step::Life(From::Newest), Step::Checkpoint { pages, portions: 1, twice: false }];
                player.play_all(&goes_on).unwrap_or_else(|_| panic!("{what}: does not go on"));
                player.disk.restart(operation);
                player.check_after_cut(&what);
            }
        }
    }
}

fn writer(disk: &Disk) -> SegmentWriter<district_checkpoint::simulated::SimulatedFile> {
    let header = SegmentHeader { memory_size: MEMORY, lineage: ID, number: 1, salt: 5, floor: 0 };
    SegmentWriter::open(create_segment(&disk.folder("lineage"), &header).unwrap()).unwrap()
}

#[test]
fn c49_after_a_failed_write_or_sync_the_writer_refuses_and_a_new_segment_works() {
    for (operation, fault) in [(1, Fault::NoSpace), (1, Fault::Io), (2, Fault::Io)] {
        let disk = Disk::new();
        let mut first = writer(&disk);
        let pages = BTreeMap::from([(3, 33)]);
        checkpoint(&mut first, 1, 0, &pages).unwrap();
        let committed = first.committed();
        disk.fail_at(disk.operations() + operation, fault);
        let error = checkpoint(&mut first, 2, 1, &BTreeMap::from([(3, 34)])).unwrap_err();
        let expected = if fault == Fault::NoSpace { "StorageFull" } else { "Uncategorized" };
        assert_eq!(format!("{:?}", kind_of(&error).unwrap()), expected);
        assert!(first.has_failed());
        assert_eq!(first.committed(), committed);
        assert!(matches!(first.begin(3, 1), Err(WriteError::Failed)));
        let mut lineage = open(&disk).unwrap();
        // Nobody builds on the second, which reads might still show, and its number is not used again.
        assert_eq!(lineage.newest().unwrap(), Some(1));
        let next = lineage.next_generation().unwrap();
        assert_eq!(next, 3);
        let mut second = SegmentWriter::open(lineage.create_segment(6).unwrap()).unwrap();
        checkpoint(&mut second, next, 1, &BTreeMap::from([(3, 35)])).unwrap();
        disk.restart(operation);
        let lineage = open(&disk).unwrap();
        assert_eq!(lineage.newest().unwrap(), Some(next));
        let mut memory = empty();
        memory[3] = 35;
        assert_same(&restore(&lineage, next).unwrap(), &memory, "the next one");
    }
}

/// A file of a process that ends before its first sync.
#[derive(Debug)]
struct Dying<F>(F, Cell<bool>);

impl<F: Storage> Dying<F> {
    fn alive(&self) -> io::Result<()> {
        if self.1.get() { Ok(()) } else { Err(io::Error::other("the process has ended")) }
    }
}

impl<F: Storage> Storage for Dying<F> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        self.alive()?;
        self.0.write_at(offset, slices)
    }
    fn punch_hole(&self, _: u64, _: u64) -> io::Result<()> {
        self.alive()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.alive()?;
        self.0.set_len(len)
    }
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
    fn sync_data(&self) -> io::Result<()> {
        self.1.set(false);
        self.alive()
    }
}

#[test]
fn c50_what_a_killed_process_had_not_synced_is_durable_before_anything_builds_on_it() {
    for seed in 0..20 {
        let disk = Disk::new();
        let mut lineage = open(&disk).unwrap();
        let file = Dying(lineage.create_segment(3).unwrap(), Cell::new(true));
        let mut dying = SegmentWriter::open(file).unwrap();
        assert!(checkpoint(&mut dying, 1, 0, &BTreeMap::from([(3, 33), (4, 44)])).is_err());
        let mut lineage = open(&disk).unwrap();
        assert_eq!(lineage.newest().unwrap(), Some(1));
        let mut next = SegmentWriter::open(lineage.create_segment(4).unwrap()).unwrap();
        checkpoint(&mut next, 2, 1, &BTreeMap::from([(4, 45)])).unwrap();
        disk.restart(seed);
        let lineage = open(&disk).unwrap();
        assert_eq!(lineage.newest().unwrap(), Some(2), "seed {seed}");
        let mut memory = empty();
        (memory[3], memory[4]) = (33, 45);
        assert_same(&restore(&lineage, 2).unwrap(), &memory, "what both wrote");
    }
}
