//! Flipped bits and cut-off files: what comes out is what went in, or an older generation, or an error.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;

use district_checkpoint::simulated::{Disk, Random, SimulatedFile};
use district_checkpoint::{
    Access, Damage, Depth, Directory, Error, Identity, Image, ImportLimits, Lineage, Migration, Phase, Run,
    SegmentHeader, SegmentWriter, Storage, create_segment, export, import, write_image,
};

use super::history::open;
use super::support::*;

/// A lineage with a home, of which all generations but the first can be restored, and two segments.
fn lineage() -> (Disk, Model) {
    let (disk, mut model, mut memory) = (Disk::new(), Model::new(), empty());
    let mut generation = 0;
    for life in 0..3 {
        let mut lineage = open(&disk).unwrap();
        let mut writer = SegmentWriter::open(lineage.create_segment(50 + life).unwrap()).unwrap();
        for _ in 0..3 {
            let pages =
                BTreeMap::from([(generation % PAGES, generation + 1), (life, 100 + generation), (7, 0), (8, 8)]);
            pages.iter().for_each(|(page, value)| memory[usize::try_from(*page).unwrap()] = *value);
            checkpoint(&mut writer, generation + 1, generation, &pages).unwrap();
            generation += 1;
            model.insert(generation, memory.clone());
        }
        if life == 0 {
            let mut lineage = open(&disk).unwrap();
            let migration = Migration { target: 2, running: 3, writing: u64::MAX, description: b"a description" };
            lineage.migrate(&migration, &mut quiet).unwrap();
        }
    }
    (disk, model)
}

fn migrate_to_six(disk: &Disk) {
    let mut lineage = open(disk).unwrap();
    let migration = Migration { target: 6, running: 9, writing: u64::MAX, description: b"" };
    lineage.migrate(&migration, &mut quiet).unwrap();
    assert_eq!(lineage.segments().len(), 1);
}

fn file(disk: &Disk, name: &str) -> SimulatedFile {
    disk.folder("lineage").open(name, Access::Write).unwrap()
}

pub fn flip(file: &SimulatedFile, bit: u64) {
    let mut byte = [0];
    file.read_at(bit / 8, &mut byte).unwrap();
    byte[0] ^= 1 << (bit % 8);
    file.write_at(bit / 8, &[IoSlice::new(&byte)]).unwrap();
}

fn contents(file: &impl Storage) -> Vec<u8> {
    let mut all = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
    file.read_at(0, &mut all).unwrap();
    all
}

fn replace(file: &SimulatedFile, bytes: &[u8]) {
    file.set_len(0).unwrap();
    file.write_at(0, &[IoSlice::new(bytes)]).unwrap();
    file.sync_data().unwrap();
}

/// All that a lineage says of itself: two that are alike have lost nothing.
fn account(disk: &Disk) -> (BTreeSet<u64>, Vec<Damage>, u64) {
    let lineage = open(disk).unwrap();
    let known = lineage.generations();
    let restorable = known.iter().filter(|known| known.restorable).map(|known| known.stamp.generation).collect();
    let ignored = lineage.segments().iter().map(|segment| segment.ignored).sum();
    (restorable, lineage.damage().to_vec(), ignored)
}

/// Bits all over a file: all of the first bytes of each block and of the last, some of the others.
fn bits(len: u64, random: &mut Random) -> Vec<u64> {
    let mut bits = Vec::new();
    for block in (0..len).step_by(PAGE) {
        bits.extend((0..6).map(|_| (block + random.below(112)) * 8 + random.below(8)));
        bits.extend((0..3).map(|_| (block + random.below(PAGE as u64)) * 8 + random.below(8)));
        bits.push((block + 4088 + random.below(8)) * 8 + random.below(8));
    }
    bits
}

#[test]
fn c51_each_flipped_bit_in_a_segment_is_found() {
    let (disk, model) = lineage();
    let before = account(&disk);
    assert_eq!((before.0.len(), before.1.len(), before.2), (9, 0, 0));
    let mut random = Random(51);
    for name in ["log.1", "log.2", "log.3"] {
        let file = file(&disk, name);
        let mut chosen = bits(file.size().unwrap(), &mut random);
        chosen.extend((0..64 * 8).chain((4096..4096 + 112).flat_map(|byte| byte * 8..byte * 8 + 8)));
        for bit in chosen {
            flip(&file, bit);
            let what = format!("bit {bit} of {name}");
            match open(&disk) {
                Ok(lineage) => {
                    check_all(&lineage, &model, &what);
                    assert!(lineage.newest().unwrap() >= Some(2), "{what}");
                    let after = account(&disk);
                    assert_ne!(before, after, "{what} has not been found");
                    // Only of the last checkpoint nobody can tell whether it ever was complete.
                    let lost = before.0.difference(&after.0).count();
                    assert!(!after.1.is_empty() || lost <= 1, "{what}: {lost} generations lost without a word");
                }
                Err(error) => assert!(matches!(error, Error::Version { .. }), "{what}: {error}"),
            }
            flip(&file, bit);
        }
    }
    assert_eq!(account(&disk), before);
}

#[test]
fn c51_a_damaged_record_does_not_take_later_ones_along() {
    let (disk, model) = lineage();
    let clean = open(&disk).unwrap();
    let third = clean.generations().iter().find(|known| known.stamp.generation == 8).copied().unwrap();
    assert_eq!(third.segment, Some(3));
    let file = file(&disk, "log.3");
    // Generation 7 is in the first records of this segment: its data, its head, its commit.
    for byte in [4096 + 4096 + 5, 4096 + 20, 4096 + 4 * 4096 + 30] {
        flip(&file, byte * 8);
        let lineage = open(&disk).unwrap();
        let known = lineage.generations();
        assert_eq!(lineage.newest().unwrap(), Some(6), "byte {byte}");
        let later: Vec<bool> =
            known.iter().filter(|known| known.stamp.generation > 7).map(|known| known.intact).collect();
        assert_eq!(later, [true, true], "byte {byte}");
        assert!(matches!(lineage.damage(), [Damage::Record { segment: 3, .. }]), "byte {byte}: {:?}", lineage.damage());
        check_all(&lineage, &model, "before the damage");
        flip(&file, byte * 8);
    }
}

#[test]
fn c51_the_longest_record_can_be_lost_and_the_next_one_is_found() {
    let disk = Disk::new();
    let memory_size = 200 * PAGE as u64;
    let header = SegmentHeader { memory_size, lineage: ID, number: 1, salt: 5, floor: 0 };
    let file = create_segment(&disk.folder("lineage"), &header).unwrap();
    let mut writer = SegmentWriter::open(file.clone()).unwrap();
    let data = vec![1; 128 * PAGE];
    for generation in 1..3 {
        let next = writer.begin(generation, 0).unwrap();
        next.put_and_commit(&[Run::data(9, 128)], &data, &info(generation), &state(generation)).unwrap();
    }
    flip(&file, 4096 * 8);
    let lineage = Lineage::open(disk.folder("lineage"), ID, memory_size, Depth::Data).unwrap();
    assert_eq!(lineage.newest().unwrap(), Some(2));
    assert_eq!(lineage.generations().len(), 1);
    assert_eq!(lineage.damage(), [Damage::Record { segment: 1, offset: 4096 }]);
}

#[test]
fn c51_each_length_of_a_segment_gives_what_is_whole() {
    let (disk, model) = lineage();
    let file = file(&disk, "log.3");
    let whole = contents(&file);
    for len in (0..whole.len()).step_by(509).chain([4095, 4096, 4097, whole.len() - 1]) {
        replace(&file, &whole[..len]);
        let lineage = open(&disk).unwrap();
        check_all(&lineage, &model, &format!("cut off at {len}"));
        let newest = lineage.newest().unwrap().unwrap();
        assert!((6..9).contains(&newest), "{newest} at {len}");
        assert_eq!(lineage.damage(), [], "a torn end is none");
        assert!(lineage.next_generation().unwrap() > newest);
    }
}

#[test]
fn c51_each_flipped_bit_in_home_is_found_or_does_no_harm() {
    let (disk, model) = lineage();
    // What only the image has is what matters: the log must not make up for it.
    migrate_to_six(&disk);
    let home = file(&disk, "home");
    let pages_at = open(&disk).unwrap().image().unwrap().pages_offset;
    let mut random = Random(52);
    let meta = [(0, 4096), (4096, 20), (0x2_0000, 96), (0x2_1000, 5000), (0x4_0000, 96), (0x4_1000, 5000)];
    let mut chosen: Vec<u64> = meta
        .iter()
        .flat_map(|(at, len)| (0..150).map(|_| (at + random.below(*len)) * 8 + random.below(8)).collect::<Vec<_>>())
        .collect();
    chosen.extend((0..64 * 8).chain(0x6_0000 * 8..0x6_0000 * 8 + PAGES * 64));
    chosen.extend((0..400).map(|_| (pages_at + random.below(MEMORY)) * 8 + random.below(8)));
    for bit in chosen {
        flip(&home, bit);
        let what = format!("bit {bit} of home");
        match open(&disk) {
            Err(error) => assert!(matches!(error, Error::Version { .. }), "{what}: {error}"),
            Ok(lineage) if lineage.image().is_none() => {
                assert!(matches!(lineage.newest(), Err(Error::NothingLeft(_))), "{what}");
            }
            Ok(lineage) => match lineage.verify_image(&mut quiet) {
                Ok(()) => {
                    check_all(&lineage, &model, &what);
                    assert!(bit < pages_at * 8 && (bit < 0x6_0000 * 8), "{what} has not been found");
                    assert!(bit / 8 >= 4096 + 13, "{what} has not been found");
                }
                Err(error) => {
                    assert!(matches!(error, Error::Damaged(_)), "{what}: {error}");
                    // Nothing is made from it, either.
                    let mut lineage = lineage;
                    let migration = Migration { target: 8, running: 0, writing: u64::MAX, description: b"" };
                    let plan = lineage.restore(8).unwrap();
                    let identity = Identity { lineage: ID, description: b"" };
                    let other = disk.folder("other");
                    if matches!(write_image(&other, "copy", &plan, &identity, &mut quiet), Ok(copy) if copy.verify(&|_| false, &mut quiet).is_ok())
                    {
                        // What is damaged is not a part of that generation.
                        let mut found = vec![0; usize::try_from(MEMORY).unwrap()];
                        other.open("copy", Access::Read).unwrap().read_at(pages_at, &mut found).unwrap();
                        assert_same(&found, &model[&8], &what);
                    }
                    if error.to_string().contains("table") {
                        assert!(lineage.migrate(&migration, &mut quiet).is_err(), "{what}");
                    }
                }
            },
        }
        flip(&home, bit);
    }
}

#[test]
fn c51_checkpoints_whose_image_is_gone_are_not_nothing() {
    let (disk, _) = lineage();
    migrate_to_six(&disk);
    disk.folder("lineage").remove("home").unwrap();
    let lineage = open(&disk).unwrap();
    assert!(lineage.damage().is_empty() && !lineage.segments().is_empty());
    assert!(matches!(lineage.newest(), Err(Error::NothingLeft(Damage::Missing))), "{:?}", lineage.newest());
}

#[test]
fn c51_each_length_of_home_is_found() {
    let (disk, _) = lineage();
    migrate_to_six(&disk);
    let home = file(&disk, "home");
    let len = home.size().unwrap();
    let whole = contents(&home);
    for short in (0..len).step_by(100_003).chain([4096, 0x2_0000, 0x6_0000, len - 1]) {
        replace(&home, &whole[..usize::try_from(short).unwrap()]);
        let lineage = open(&disk).unwrap();
        assert!(lineage.newest().is_err() && !lineage.damage().is_empty(), "{short} of {len} bytes");
    }
}

/// Lineages whose power was cut while `home` was being written.
fn interrupted() -> Vec<(Disk, Model)> {
    let mut found = Vec::new();
    for cut in 0..60 {
        let (disk, model) = lineage();
        let mut lineage = open(&disk).unwrap();
        disk.cut_at(disk.operations() + 1 + cut / 2);
        let migration = Migration { target: 8, running: 0, writing: 3, description: b"" };
        if lineage.migrate(&migration, &mut quiet).is_ok() {
            break;
        }
        disk.restart(cut);
        let lineage = open(&disk).unwrap();
        if matches!(lineage.image().unwrap().phase, Phase::Migrating { from: 2, to: 8 }) {
            found.push((disk, model));
        }
    }
    found
}

#[test]
fn c51_each_flipped_bit_in_the_header_of_a_home_that_is_being_migrated_into_does_no_harm() {
    let all = interrupted();
    assert!(all.len() > 5);
    let mut random = Random(53);
    for (disk, model) in all {
        let home = file(&disk, "home");
        let before = open(&disk).unwrap();
        let (newest, both) = (before.newest().unwrap(), before.image().unwrap().both_slots);
        assert_eq!(newest, Some(9));
        let mut chosen: Vec<u64> = [0x2_0000, 0x4_0000].iter().flat_map(|at| at * 8..(at + 88) * 8).collect();
        chosen.retain(|_| random.below(4) == 0);
        for bit in chosen {
            flip(&home, bit);
            let lineage = open(&disk).unwrap();
            let what = format!("bit {bit} of home");
            check_all(&lineage, &model, &what);
            // While pages are being written, both slots say so: one is enough.
            if both {
                assert_eq!(lineage.newest().unwrap(), newest, "{what}");
            }
            flip(&home, bit);
        }
        // And the migration can be finished.
        let mut lineage = open(&disk).unwrap();
        lineage.migrate(&Migration { target: 8, running: 0, writing: 3, description: b"" }, &mut quiet).unwrap();
        lineage.verify_image(&mut quiet).unwrap();
        check_all(&lineage, &model, "finished");
    }
}

fn exported(disk: &Disk) -> Vec<u8> {
    let lineage = open(disk).unwrap();
    let identity = Identity { lineage: ID, description: b"what it is" };
    let mut out = Vec::new();
    export(&lineage.restore(8).unwrap(), &identity, 77, &mut out, &mut quiet).unwrap();
    out
}

fn imported(mut bytes: &[u8]) -> Result<(Disk, Image<SimulatedFile>), Error> {
    let disk = Disk::new();
    let limits = ImportLimits { memory_size_max: MEMORY };
    let mut describe = |text: &[u8]| Ok([b"imported: ", text].concat());
    let folder = disk.folder("images");
    let found = import(&mut bytes, &folder, "copy", &limits, [3; 16], &mut describe, &mut quiet);
    // What has failed leaves nothing.
    assert_eq!(folder.names().unwrap().len(), usize::from(found.is_ok()));
    let found = found?;
    assert_eq!((found.lineage, found.description), (ID, b"what it is".to_vec()));
    Ok((disk, found.image))
}

#[test]
fn an_export_becomes_the_same_memory_elsewhere() {
    let (disk, model) = lineage();
    let bytes = exported(&disk);
    let data_pages = model[&8].iter().filter(|value| **value != 0).count();
    assert!(bytes.len() < (2 * data_pages + 8) * PAGE, "{} bytes for {data_pages} pages", bytes.len());
    let (disk, image) = imported(&bytes).unwrap();
    assert_eq!(image.description().unwrap(), b"imported: what it is");
    let info = image.info();
    assert_eq!((info.phase, info.stamp.parent, info.lineage), (Phase::At(8), 0, [3; 16]));
    image.verify(&|_| false, &mut quiet).unwrap();
    disk.link(("images", "copy"), ("lineage", "base")).unwrap();
    let mut clone = Lineage::open(disk.folder("lineage"), [4; 16], MEMORY, Depth::Data).unwrap();
    assert_same(&restore(&clone, 8).unwrap(), &model[&8], "imported");
    let mut writer = SegmentWriter::open(clone.create_segment(1).unwrap()).unwrap();
    checkpoint(&mut writer, clone.next_generation().unwrap(), 8, &BTreeMap::from([(0, 1)])).unwrap();
}

#[test]
fn c51_each_flipped_bit_and_each_length_of_an_export_is_found() {
    let (disk, _) = lineage();
    let mut bytes = exported(&disk);
    for bit in bits(bytes.len() as u64, &mut Random(54)) {
        let byte = usize::try_from(bit / 8).unwrap();
        bytes[byte] ^= 1 << (bit % 8);
        assert!(imported(&bytes).is_err(), "bit {bit}");
        bytes[byte] ^= 1 << (bit % 8);
    }
    for len in (0..bytes.len()).step_by(2003).chain([bytes.len() - 1]) {
        assert!(matches!(imported(&bytes[..len]), Err(Error::Damaged(_))), "{len} bytes");
    }
    bytes.push(0);
    assert!(matches!(imported(&bytes), Err(Error::Damaged(Damage::Length))));
}

#[test]
fn c51_each_flipped_bit_of_a_snapshot_is_found() {
    let (disk, model) = lineage();
    let folder = disk.folder("snapshots");
    let identity = Identity { lineage: ID, description: b"of generation 7" };
    write_image(&folder, "s", &open(&disk).unwrap().restore(7).unwrap(), &identity, &mut quiet).unwrap();
    let file = folder.open("s", Access::Write).unwrap();
    let image = Image::open(&file).unwrap();
    let mut found = vec![0; usize::try_from(MEMORY).unwrap()];
    file.read_at(image.info().pages_offset, &mut found).unwrap();
    assert_same(&found, &model[&7], "snapshot");
    let (mut random, pages_at) = (Random(55), image.info().pages_offset);
    let places = [(0, 4096), (4096, 15), (0x6_0000, PAGES * 8), (pages_at, MEMORY)];
    for (at, len) in places {
        for _ in 0..200 {
            let bit = (at + random.below(len)) * 8 + random.below(8);
            flip(&file, bit);
            let found = Image::open(&file).and_then(|image| image.verify(&|_| false, &mut quiet));
            assert!(found.is_err(), "bit {bit}");
            flip(&file, bit);
        }
    }
    image.verify(&|_| false, &mut quiet).unwrap();
}
