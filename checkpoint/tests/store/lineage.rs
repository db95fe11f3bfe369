//! What a lineage keeps, removes, proposes and reports.

use std::collections::BTreeMap;

use district_checkpoint::simulated::{Disk, Fault};
use district_checkpoint::{
    Access, Damage, Directory, Error, Identity, Lineage, Migration, Phase, SegmentWriter, Storage, write_image,
};

use super::damage::flip;
use super::history::open;
use super::support::*;

/// A new life: a segment, with checkpoints (generation, parent), of which each has written its number to page 1 and to
/// the page of its number.
fn life(disk: &Disk, checkpoints: &[(u64, u64)]) {
    let mut lineage = open(disk).unwrap();
    let mut writer = SegmentWriter::open(lineage.create_segment(checkpoints.len() as u64).unwrap()).unwrap();
    for (generation, parent) in checkpoints {
        let pages = BTreeMap::from([(1, *generation), (*generation, *generation)]);
        checkpoint(&mut writer, *generation, *parent, &pages).unwrap();
    }
}

/// The memory of what has come about in these steps.
fn memory(way: &[u64]) -> Memory {
    let mut memory = empty();
    for generation in way {
        memory[usize::try_from(*generation).unwrap()] = *generation;
        memory[1] = *generation;
    }
    memory
}

#[test]
fn a_segment_that_nothing_was_written_to_is_used_again() {
    let disk = Disk::new();
    life(&disk, &[(1, 0)]);
    let begin = |salt| {
        let mut lineage = open(&disk).unwrap();
        let segment = lineage.begin_segment(salt).unwrap();
        lineage.sync_segment(&segment).unwrap();
        lineage.sync_log().unwrap();
        SegmentWriter::open(segment).unwrap()
    };
    let [first, mut second] = [begin(7), begin(8)];
    assert_eq!([first.header().number, second.header().number], [2, 2]);
    assert_eq!([first.header().salt, second.header().salt], [7, 8]);
    checkpoint(&mut second, 2, 1, &BTreeMap::from([(1, 2)])).unwrap();
    assert_eq!(begin(9).header().number, 3);
    assert_eq!(open(&disk).unwrap().newest().unwrap(), Some(2));
}

fn migrate(disk: &Disk, target: u64, running: u64) -> Result<(), Error> {
    let migration = Migration { target, running, writing: u64::MAX, description: b"own" };
    open(disk).unwrap().migrate(&migration, &mut quiet)
}

fn names(disk: &Disk) -> Vec<String> {
    disk.folder("lineage").names().unwrap()
}

fn restorable(disk: &Disk) -> Vec<u64> {
    let known = open(disk).unwrap().generations();
    known.iter().filter(|known| known.restorable).map(|known| known.stamp.generation).collect()
}

#[test]
fn a_branch_stays_as_long_as_the_image_is_below_it() {
    let disk = Disk::new();
    life(&disk, &[(2, 0), (3, 2)]);
    life(&disk, &[(4, 3), (5, 4)]);
    life(&disk, &[(6, 3)]);
    life(&disk, &[(7, 6), (8, 7)]);
    assert_eq!(open(&disk).unwrap().chain(8).unwrap(), [2, 3, 6, 7, 8]);
    migrate(&disk, 3, 8).unwrap();
    assert_eq!(restorable(&disk), [3, 4, 5, 6, 7, 8]);
    assert_eq!(names(&disk), ["home", "log.2", "log.3", "log.4"]);
    let lineage = open(&disk).unwrap();
    assert_same(&restore(&lineage, 5).unwrap(), &memory(&[2, 3, 4, 5]), "the branch");
    assert_eq!(lineage.chain(8).unwrap(), [3, 6, 7, 8]);
    migrate(&disk, 6, 8).unwrap();
    assert_eq!(restorable(&disk), [6, 7, 8]);
    assert_eq!(names(&disk), ["home", "log.4"]);
    assert!(matches!(open(&disk).unwrap().restore(5), Err(Error::NotRestorable(5))));
}

#[test]
fn what_runs_keeps_what_it_builds_on() {
    let disk = Disk::new();
    life(&disk, &[(2, 0), (3, 2), (4, 3), (5, 4)]);
    let lineage = open(&disk).unwrap();
    // Rolled back to 3, and no checkpoint since.
    let targets = [0, 5, 4, 3, 2].map(|running| lineage.migration_target(running));
    assert_eq!(targets, [Some(4), Some(4), Some(4), Some(3), Some(2)]);
    assert_eq!(lineage.migration_target(9), None);
    assert!(matches!(migrate(&disk, 4, 3), Err(Error::OffTheWay { target: 4, running: 3 })));
    assert!(matches!(migrate(&disk, 9, 3), Err(Error::NotRestorable(9))));
    assert_eq!(names(&disk), ["log.1"]);
    migrate(&disk, 3, 3).unwrap();
    // Now it has gone on: 5 is a dead end.
    life(&disk, &[(6, 3)]);
    life(&disk, &[(7, 6)]);
    assert_eq!(open(&disk).unwrap().migration_target(7), Some(6));
    migrate(&disk, 6, 7).unwrap();
    assert_eq!(restorable(&disk), [6, 7]);
}

#[test]
fn a_life_that_began_with_nothing_gets_an_image_of_its_own() {
    let disk = Disk::new();
    life(&disk, &[(2, 0), (3, 2)]);
    migrate(&disk, 2, 3).unwrap();
    life(&disk, &[(4, 0), (5, 4)]);
    let old = disk.folder("lineage").open("home", Access::Read).unwrap();
    assert_eq!(open(&disk).unwrap().migration_target(5), Some(4));
    migrate(&disk, 4, 5).unwrap();
    let lineage = open(&disk).unwrap();
    assert_same(&restore(&lineage, 4).unwrap(), &memory(&[4]), "from nothing");
    assert_same(&restore(&lineage, 5).unwrap(), &memory(&[4, 5]), "from nothing");
    assert_eq!(restorable(&disk), [4, 5]);
    // Whoever has the old one still has it.
    let mut page = vec![0; PAGE];
    old.read_at(lineage.image().unwrap().pages_offset + 2 * PAGE as u64, &mut page).unwrap();
    assert_eq!(page, bytes(2));
}

#[test]
fn a_shared_base_is_never_written_and_goes_when_there_is_a_home() {
    let disk = Disk::new();
    life(&disk, &[(2, 0), (3, 2)]);
    let snapshots = disk.folder("snapshots");
    let identity = Identity { lineage: [1; 16], description: b"a snapshot" };
    write_image(&snapshots, "s", &open(&disk).unwrap().restore(3).unwrap(), &identity, &mut quiet).unwrap();
    let disk2 = disk.clone();
    disk.link(("snapshots", "s"), ("clone", "base")).unwrap();
    let clone = || Lineage::open(disk2.folder("clone"), [2; 16], MEMORY, district_checkpoint::Depth::Data).unwrap();
    let before = contents(&snapshots.open("s", Access::Read).unwrap());
    let mut lineage = clone();
    assert_eq!((lineage.newest().unwrap(), lineage.next_generation()), (Some(3), Some(4)));
    assert_eq!(lineage.migration_target(0), None);
    let mut writer = SegmentWriter::open(lineage.create_segment(9).unwrap()).unwrap();
    checkpoint(&mut writer, 4, 3, &BTreeMap::from([(1, 4), (4, 4)])).unwrap();
    checkpoint(&mut writer, 5, 4, &BTreeMap::from([(1, 5), (5, 5)])).unwrap();
    let mut lineage = clone();
    let migration = Migration { target: 4, running: 5, writing: 1, description: b"own" };
    lineage.migrate(&migration, &mut quiet).unwrap();
    assert_eq!(disk.folder("clone").names().unwrap(), ["home", "log.1"]);
    assert_same(&restore(&clone(), 5).unwrap(), &memory(&[2, 3, 4, 5]), "the clone");
    assert!(before == contents(&snapshots.open("s", Access::Read).unwrap()), "the snapshot has changed");
    // Left behind by a power cut: it does not count, and goes.
    disk.link(("snapshots", "s"), ("clone", "base")).unwrap();
    let mut lineage = clone();
    assert_eq!(lineage.image().unwrap().phase, Phase::At(4));
    lineage.clean(1).unwrap();
    assert_eq!(disk.folder("clone").names().unwrap(), ["home", "log.1"]);
}

fn contents(file: &impl Storage) -> Vec<u8> {
    let mut all = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
    file.read_at(0, &mut all).unwrap();
    all
}

#[test]
fn a_segment_that_may_be_written_to_stays() {
    let disk = Disk::new();
    life(&disk, &[(2, 0), (3, 2)]);
    life(&disk, &[]);
    life(&disk, &[]);
    life(&disk, &[(4, 3), (5, 4)]);
    let migration = Migration { target: 4, running: 5, writing: 2, description: b"own" };
    open(&disk).unwrap().migrate(&migration, &mut quiet).unwrap();
    assert_eq!(names(&disk), ["home", "log.2", "log.3", "log.4"]);
    open(&disk).unwrap().clean(3).unwrap();
    assert_eq!(names(&disk), ["home", "log.3", "log.4"]);
    assert_eq!(open(&disk).unwrap().size_of_log(), open(&disk).unwrap().segments().iter().map(|one| one.size).sum());
}

/// A lineage whose daemon ended, or whose disk failed, after that operation of its first migration.
fn ended_at(operation: u64) -> Disk {
    let disk = Disk::new();
    life(&disk, &[(2, 0), (3, 2)]);
    life(&disk, &[(4, 3), (5, 4)]);
    disk.fail_at(disk.operations() + operation, Fault::Io);
    let _ = migrate(&disk, 4, 5);
    disk
}

#[test]
fn c50_no_segment_goes_before_the_name_of_the_image_is_durable() {
    let renamed = |operation: &u64| names(&ended_at(*operation)) == ["home", "log.1", "log.2"];
    // The first is the sync of the directory after the image got its name.
    let operation = (1..100).find(renamed).unwrap();
    for seed in 0..24 {
        let disk = ended_at(operation);
        let mut lineage = open(&disk).unwrap();
        disk.cut_at(disk.operations() + 3);
        assert!(lineage.clean(u64::MAX).is_err(), "the sync, a segment, the sync");
        disk.restart(seed);
        let lineage = open(&disk).unwrap();
        assert_eq!(lineage.newest().unwrap(), Some(5), "seed {seed}");
        assert_same(&restore(&lineage, 5).unwrap(), &memory(&[2, 3, 4, 5]), "after the cut");
    }
}

#[test]
fn c51_segments_go_only_when_both_slots_say_that_nobody_needs_them() {
    let mut found = 0;
    for cut in 0..40 {
        let disk = Disk::new();
        life(&disk, &[(2, 0), (3, 2)]);
        migrate(&disk, 2, 3).unwrap();
        life(&disk, &[(4, 3), (5, 4)]);
        disk.cut_at(disk.operations() + 1 + cut / 2);
        if migrate(&disk, 4, 5).is_ok() {
            break;
        }
        disk.restart(cut);
        let image = open(&disk).unwrap().image().unwrap();
        if image.phase != Phase::At(4) || image.both_slots {
            continue;
        }
        assert!(open(&disk).unwrap().damage().contains(&Damage::Slot));
        found += 1;
        open(&disk).unwrap().clean(u64::MAX).unwrap();
        assert_eq!(names(&disk), ["home", "log.2"]);
        let home = disk.folder("lineage").open("home", Access::Write).unwrap();
        for slot in [0x2_0000, 0x4_0000] {
            flip(&home, slot * 8 + 70);
            let lineage = open(&disk).unwrap();
            assert_eq!(lineage.newest().unwrap(), Some(5));
            assert_same(&restore(&lineage, 5).unwrap(), &memory(&[2, 3, 4, 5]), "with one slot");
            flip(&home, slot * 8 + 70);
        }
    }
    assert!(found > 0);
}

#[test]
fn c51_damaged_data_is_found_before_the_image_is_touched() {
    let disk = Disk::new();
    life(&disk, &[(2, 0), (3, 2)]);
    migrate(&disk, 2, 3).unwrap();
    life(&disk, &[(4, 3), (5, 4)]);
    let log = disk.folder("lineage").open("log.2", Access::Write).unwrap();
    let before = contents(&disk.folder("lineage").open("home", Access::Read).unwrap());
    // The data of generation 4, whose head is right.
    flip(&log, (4096 + 4096 + 9) * 8);
    let mut lineage = Lineage::open(disk.folder("lineage"), ID, MEMORY, district_checkpoint::Depth::Heads).unwrap();
    assert_eq!(lineage.newest().unwrap(), Some(5), "heads do not tell");
    let migration = Migration { target: 4, running: 5, writing: u64::MAX, description: b"own" };
    assert!(matches!(lineage.migrate(&migration, &mut quiet), Err(Error::Damaged(Damage::Record { segment: 2, .. }))));
    assert!(before == contents(&disk.folder("lineage").open("home", Access::Read).unwrap()));
    assert_eq!(open(&disk).unwrap().newest().unwrap(), Some(3), "data does");
}
