//! Segments and exports that somebody has made up: all checksums are right, the rest is not.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, IoSlice, Read};

use district_checkpoint::format::{batch, commit, header, record};
use district_checkpoint::simulated::{Disk, Random};
use district_checkpoint::{
    Access, Damage, Depth, Directory, Error, ImportLimits, Lineage, Migration, Restore, SegmentHeader, SegmentWriter,
    Storage, create_segment, import,
};
use proptest::prelude::*;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::history::open;
use super::support::*;

const SALT: u64 = 5;

fn put(block: &mut [u8], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A file that is made record by record, with whatever checksums it takes.
struct Forger {
    bytes: Vec<u8>,
    sequence: u64,
    running: u64,
}

impl Forger {
    fn new(change: impl FnOnce(&mut [u8])) -> Forger {
        let mut block = vec![0; PAGE];
        put(&mut block, header::MAGIC, &header::SEGMENT);
        put(&mut block, header::VERSION, &1_u32.to_le_bytes());
        put(&mut block, header::PAGE_SIZE, &4096_u32.to_le_bytes());
        put(&mut block, header::MEMORY_SIZE, &MEMORY.to_le_bytes());
        put(&mut block, header::LINEAGE, &ID);
        put(&mut block, header::NUMBER, &1_u64.to_le_bytes());
        put(&mut block, header::SALT, &SALT.to_le_bytes());
        change(&mut block);
        let checksum = xxh3_64(&block[..header::CHECKSUM]);
        put(&mut block, header::CHECKSUM, &checksum.to_le_bytes());
        Forger { bytes: block, sequence: 0, running: 0 }
    }

    fn record(&mut self, kind: u32, generation: u64, body: &[u8], change: impl FnOnce(&mut [u8])) {
        self.sequence += 1;
        let mut block = vec![0; PAGE];
        put(&mut block, record::MAGIC, &record::HEAD);
        put(&mut block, record::KIND, &kind.to_le_bytes());
        put(&mut block, record::GENERATION, &generation.to_le_bytes());
        put(&mut block, record::SEQUENCE, &self.sequence.to_le_bytes());
        put(&mut block, record::BODY_LEN, &(body.len() as u64).to_le_bytes());
        put(&mut block, record::BODY_CHECKSUM, &xxh3_64_with_seed(body, SALT).to_le_bytes());
        change(&mut block);
        seal(&mut block, self.bytes.len());
        let checksum = &block[record::CHECKSUM..][..8];
        self.running = xxh3_64_with_seed(&[&self.running.to_le_bytes(), checksum].concat(), SALT);
        self.bytes.extend(block);
        self.bytes.extend(body);
    }

    fn batch(&mut self, generation: u64, runs: &[(u32, u32)], data_pages: u32, change: impl FnOnce(&mut [u8])) {
        let body = vec![0xee; usize::try_from(data_pages).unwrap() * PAGE];
        self.record(record::BATCH, generation, &body, |block| {
            put(block, batch::RUN_COUNT, &u32::try_from(runs.len()).unwrap().to_le_bytes());
            put(block, batch::DATA_PAGES, &data_pages.to_le_bytes());
            for (index, (first, count)) in runs.iter().enumerate() {
                put(block, batch::RUNS + 8 * index, &first.to_le_bytes());
                put(block, batch::RUNS + 8 * index + 4, &count.to_le_bytes());
            }
            change(block);
        });
    }

    fn commit(&mut self, generation: u64, parent: u64, tally: [u64; 3], change: impl FnOnce(&mut [u8])) {
        let running = if tally[0] == 0 { 0 } else { self.running };
        self.record(record::COMMIT, generation, &[], |block| {
            put(block, commit::PARENT, &parent.to_le_bytes());
            put(block, commit::TIME, &(1_000_000 + generation).to_le_bytes());
            put(block, commit::EPOCH, &(generation / 2).to_le_bytes());
            put(block, commit::BATCHES, &tally[0].to_le_bytes());
            put(block, commit::DATA_PAGES, &tally[1].to_le_bytes());
            put(block, commit::ZERO_PAGES, &tally[2].to_le_bytes());
            put(block, commit::RUNNING, &running.to_le_bytes());
            put(block, commit::STATE_LEN, &40_u32.to_le_bytes());
            put(block, commit::STATE, &[1; 40]);
            change(block);
        });
        self.running = 0;
    }

    /// A good generation of one page.
    fn good(&mut self, generation: u64, parent: u64) {
        self.batch(generation, &[(3, 1)], 1, |_| {});
        self.commit(generation, parent, [1, 1, 0], |_| {});
    }

    fn lineage(&self) -> (Disk, Result<Lineage<district_checkpoint::simulated::SimulatedFolder>, Error>) {
        let disk = Disk::new();
        let file = disk.folder("lineage").create_new("log.1").unwrap();
        file.write_at(0, &[IoSlice::new(&self.bytes)]).unwrap();
        let lineage = open(&disk);
        (disk, lineage)
    }
}

fn seal(block: &mut [u8], offset: usize) {
    put(block, record::CHECKSUM, &(offset as u64).to_le_bytes());
    let checksum = xxh3_64_with_seed(block, SALT);
    put(block, record::CHECKSUM, &checksum.to_le_bytes());
}

fn nothing(_: &mut [u8]) {}

/// What may be wrong with the second generation, each made by somebody who can compute checksums.
type Forgery = (&'static str, fn(&mut Forger));

const FORGERIES: [Forgery; 18] = [
    ("a run beyond the end", |forger| {
        forger.batch(2, &[(24, 1)], 1, nothing);
        forger.commit(2, 1, [1, 1, 0], nothing);
    }),
    ("a run that ends beyond the end", |forger| {
        forger.batch(2, &[(23, 2)], 2, nothing);
        forger.commit(2, 1, [1, 2, 0], nothing);
    }),
    ("a run whose end does not fit", |forger| {
        forger.batch(2, &[(u32::MAX, u32::MAX)], 0, nothing);
        forger.commit(2, 1, [1, 0, (1 << 31) - 1], nothing);
    }),
    ("an empty run", |forger| {
        forger.batch(2, &[(3, 0)], 0, nothing);
        forger.commit(2, 1, [1, 0, 0], nothing);
    }),
    ("runs that overlap", |forger| {
        forger.batch(2, &[(3, 2), (4, 2)], 4, nothing);
        forger.commit(2, 1, [1, 4, 0], nothing);
    }),
    ("more runs than there is room for", |forger| {
        forger.batch(2, &[(3, 1)], 1, |block| put(block, batch::RUN_COUNT, &505_u32.to_le_bytes()));
        forger.commit(2, 1, [1, 1, 0], nothing);
    }),
    ("as many runs as can be named", |forger| {
        forger.batch(2, &[(3, 1)], 1, |block| put(block, batch::RUN_COUNT, &u32::MAX.to_le_bytes()));
        forger.commit(2, 1, [1, 1, 0], nothing);
    }),
    ("data that no run is about", |forger| {
        forger.batch(2, &[(3, 1)], 2, nothing);
        forger.commit(2, 1, [1, 2, 0], nothing);
    }),
    ("more pages than fit into a batch", |forger| {
        forger.batch(2, &[(0, 129)], 129, nothing);
        forger.commit(2, 1, [1, 129, 0], nothing);
    }),
    ("a body as long as can be named", |forger| {
        forger.batch(2, &[(3, 1)], 1, |block| put(block, record::BODY_LEN, &u64::MAX.to_le_bytes()));
        forger.commit(2, 1, [1, 1, 0], nothing);
    }),
    ("a state that is too long", |forger| {
        forger.batch(2, &[(3, 1)], 1, nothing);
        forger.commit(2, 1, [1, 1, 0], |block| put(block, commit::STATE_LEN, &u32::MAX.to_le_bytes()));
    }),
    ("a parent that is itself", |forger| {
        forger.batch(2, &[(3, 1)], 1, nothing);
        forger.commit(2, 2, [1, 1, 0], nothing);
    }),
    ("a parent that comes later", |forger| {
        forger.batch(2, &[(3, 1)], 1, nothing);
        forger.commit(2, 3, [1, 1, 0], nothing);
    }),
    ("a generation that there was already", |forger| forger.good(1, 0)),
    ("batches that were never written", |forger| {
        forger.batch(2, &[(3, 1)], 1, nothing);
        forger.commit(2, 1, [u64::MAX, u64::MAX, u64::MAX], nothing);
    }),
    ("batches of another generation", |forger| {
        forger.batch(2, &[(3, 1)], 1, nothing);
        forger.commit(3, 1, [1, 1, 0], nothing);
    }),
    ("a description", |forger| {
        forger.record(record::DESCRIPTION, 2, &[], nothing);
    }),
    ("a kind that there is not", |forger| {
        forger.record(4, 2, &[], nothing);
        forger.record(u32::MAX, 2, &[], nothing);
    }),
];

#[test]
fn a_forged_record_is_none_and_what_was_before_it_remains() {
    for (what, forge) in FORGERIES {
        let mut forger = Forger::new(nothing);
        forger.good(1, 0);
        forge(&mut forger);
        let (_, lineage) = forger.lineage();
        let lineage = lineage.unwrap();
        let known: Vec<u64> = lineage.generations().iter().map(|known| known.stamp.generation).collect();
        assert!(known == [1], "{what}: {known:?}");
        let mut memory = empty();
        memory[3] = 1;
        let found = restore(&lineage, 1).unwrap();
        assert!(found[3 * PAGE..4 * PAGE].iter().all(|byte| *byte == 0xee), "{what}");
        assert!(found[4 * PAGE..].iter().all(|byte| *byte == 0), "{what}");
    }
}

#[test]
fn of_two_generations_with_one_number_the_first_counts() {
    let mut first = Forger::new(nothing);
    first.good(1, 0);
    first.good(2, 1);
    let mut second = Forger::new(|block| put(block, header::NUMBER, &2_u64.to_le_bytes()));
    second.batch(2, &[(4, 1)], 1, nothing);
    second.commit(2, 1, [1, 1, 0], nothing);
    second.good(3, 2);
    let (disk, _) = first.lineage();
    let file = disk.folder("lineage").create_new("log.2").unwrap();
    file.write_at(0, &[IoSlice::new(&second.bytes)]).unwrap();
    let lineage = open(&disk).unwrap();
    assert_eq!(lineage.chain(3).unwrap(), [1, 2, 3]);
    assert_eq!(lineage.damage(), [Damage::Record { segment: 2, offset: 4096 }]);
    let second = lineage.generations()[1];
    assert_eq!((second.stamp.generation, second.segment), (2, Some(1)));
}

#[test]
fn generations_up_to_the_floor_do_not_count() {
    let mut forger = Forger::new(|block| put(block, header::FLOOR, &4_u64.to_le_bytes()));
    forger.good(4, 0);
    forger.good(5, 0);
    let (_, lineage) = forger.lineage();
    let known: Vec<u64> = lineage.unwrap().generations().iter().map(|known| known.stamp.generation).collect();
    assert_eq!(known, [5]);
}

/// Changes a header.
type Change = fn(&mut [u8]);

#[test]
fn a_file_of_another_version_lineage_or_memory_is_not_read() {
    let mut forger = Forger::new(nothing);
    // Nothing else in it need be right, or be there at all.
    forger.bytes[header::VERSION] = 2;
    forger.bytes[header::MEMORY_SIZE] = 1;
    assert!(matches!(forger.lineage().1, Err(Error::Version { found: 2, .. })));

    let changes: [(bool, Change); 4] = [
        (false, |block| put(block, header::LINEAGE, &[8; 16])),
        (false, |block| put(block, header::MEMORY_SIZE, &(2 * MEMORY).to_le_bytes())),
        (false, |block| put(block, header::MEMORY_SIZE, &u64::MAX.to_le_bytes())),
        // Whoever gets it by descriptor does not know the name.
        (true, |block| put(block, header::NUMBER, &2_u64.to_le_bytes())),
    ];
    for (by_descriptor, change) in changes {
        let mut forger = Forger::new(change);
        forger.good(1, 0);
        let (disk, lineage) = forger.lineage();
        let lineage = lineage.unwrap();
        assert_eq!(lineage.damage(), [Damage::SegmentHeader(1)]);
        assert!(matches!(lineage.newest(), Err(Error::NothingLeft(_))));
        // As many generations as may have been in there are left out.
        assert!(lineage.next_generation().unwrap() > 1);
        let file = disk.folder("lineage").open("log.1", Access::Read).unwrap();
        let good = Forger::new(nothing);
        let other = good.lineage().0.folder("lineage").open("log.1", Access::Read).unwrap();
        assert_eq!(Restore::plan(None, vec![file, other], 1).is_ok(), by_descriptor);
    }
}

#[test]
fn a_file_that_claims_to_be_endless_is_read_in_no_time() {
    let mut forger = Forger::new(nothing);
    forger.good(1, 0);
    let (disk, _) = forger.lineage();
    let file = disk.folder("lineage").open("log.1", Access::Write).unwrap();
    file.set_len(u64::MAX).unwrap();
    let lineage = open(&disk).unwrap();
    assert_eq!(lineage.newest().unwrap(), Some(1));
    assert!(lineage.segments()[0].ignored > 1 << 63);
}

#[test]
fn many_long_runs_cost_no_more_than_short_ones() {
    let pages: u64 = 1 << 24;
    let mut forger = Forger::new(|block| put(block, header::MEMORY_SIZE, &(pages << 12).to_le_bytes()));
    let whole = (0, u32::try_from(pages).unwrap() | batch::ZERO);
    for generation in 1..300 {
        forger.batch(generation, &[whole], 0, nothing);
        forger.commit(generation, generation - 1, [1, 0, pages], nothing);
    }
    let disk = Disk::new();
    let file = disk.folder("lineage").create_new("log.1").unwrap();
    file.write_at(0, &[IoSlice::new(&forger.bytes)]).unwrap();
    let lineage = Lineage::open(disk.folder("lineage"), ID, pages << 12, Depth::Data).unwrap();
    assert_eq!(lineage.newest().unwrap(), Some(299));
    let plan = lineage.restore(299).unwrap();
    let mut calls = 0;
    plan.apply(&mut |_, _| {
        calls += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(calls, 0, "zero is what memory begins as");
}

/// A file that somebody goes on writing: from the so-many-th read on, a byte is another.
struct Changing<F> {
    file: F,
    reads: Cell<u64>,
    from: u64,
    at: u64,
}

impl<F: Storage> Storage for Changing<F> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, buffer)?;
        self.reads.set(self.reads.get() + 1);
        if let Some(place) = self.at.checked_sub(offset).filter(|_| self.reads.get() > self.from)
            && let Some(byte) = buffer.get_mut(usize::try_from(place).unwrap())
        {
            *byte ^= 1;
        }
        Ok(())
    }
    fn write_at(&self, _: u64, _: &[IoSlice<'_>]) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
    fn punch_hole(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn c51_a_segment_that_changes_while_it_is_read_gives_its_memory_or_an_error() {
    let disk = Disk::new();
    let mut lineage = open(&disk).unwrap();
    let mut writer = SegmentWriter::open(lineage.create_segment(5).unwrap()).unwrap();
    let mut memory = empty();
    for generation in 1..4 {
        let pages = BTreeMap::from([(generation, generation), (9, 10 * generation)]);
        pages.iter().for_each(|(page, value)| memory[usize::try_from(*page).unwrap()] = *value);
        checkpoint(&mut writer, generation, generation - 1, &pages).unwrap();
    }
    let (mut fine, mut random) = (0, Random(9));
    for from in 0..40 {
        for _ in 0..40 {
            let file = disk.folder("lineage").open("log.1", Access::Read).unwrap();
            let at = random.below(file.size().unwrap());
            let file = Changing { file, reads: Cell::new(0), from, at };
            let found = Restore::plan(None, vec![file], 3).and_then(|plan| restored(&plan, None::<&Changing<File>>));
            if let Ok(found) = found {
                assert_same(&found, &memory, &format!("byte {at} from read {from} on"));
                fine += 1;
            }
        }
    }
    assert!(fine > 100 && fine < 1500, "{fine}");
}

type File = district_checkpoint::simulated::SimulatedFile;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Any change to the heads, with checksums that fit: whatever is said to be restorable can be restored, and the
    /// daemon survives it.
    #[test]
    fn no_forged_head_does_harm(
        changes in prop::collection::vec((0_usize..12, 0_usize..128, any::<u64>(), 1_usize..9), 1..6),
    ) {
        let mut forger = Forger::new(nothing);
        let mut heads = Vec::new();
        for generation in 1..5 {
            heads.push(forger.bytes.len());
            forger.batch(generation, &[(3, 2), (8, 1 | batch::ZERO), (9, 2)], 4, nothing);
            heads.push(forger.bytes.len());
            forger.batch(generation, &[(1, 1), (8, 16 | batch::ZERO)], 1, nothing);
            heads.push(forger.bytes.len());
            forger.commit(generation, generation - 1, [2, 5, 17], nothing);
        }
        for (head, at, value, len) in changes {
            let head = heads[head];
            let block = &mut forger.bytes[head..head + PAGE];
            // Small numbers are the ones that get far.
            let value = if value & 1 == 0 { value >> 1 & 7 } else { value >> 1 };
            put(block, at, &value.to_le_bytes()[..len.min(8)]);
            seal(block, head);
        }
        let (disk, lineage) = forger.lineage();
        let mut lineage = lineage.unwrap();
        let known = lineage.generations();
        for known in known.iter().filter(|known| known.restorable) {
            let files = lineage.restore_files(known.stamp.generation).unwrap();
            let plan = Restore::plan(None, files.segments, known.stamp.generation).unwrap();
            restored(&plan, None::<&File>).unwrap();
        }
        if let Some(target) = lineage.migration_target(0) {
            lineage.migrate(&Migration { target, running: 0, writing: u64::MAX, description: b"" }, &mut quiet).unwrap();
            lineage.verify_image(&mut quiet).unwrap();
        }
        drop(disk);
    }
}

fn import_from(input: &mut dyn Read) -> Error {
    let disk = Disk::new();
    let limits = ImportLimits { memory_size_max: 1 << 30 };
    let mut describe = |text: &[u8]| Ok(text.to_vec());
    import(input, &disk.folder("images"), "copy", &limits, ID, &mut describe, &mut quiet).unwrap_err()
}

fn export_of(memory_size: u64) -> Forger {
    Forger::new(|block| {
        put(block, header::MAGIC, &header::EXPORT);
        put(block, header::MEMORY_SIZE, &memory_size.to_le_bytes());
        put(block, header::NUMBER, &0_u64.to_le_bytes());
    })
}

#[test]
fn an_export_that_breaks_the_rules_is_refused() {
    assert!(matches!(import_from(&mut export_of(2 << 30).bytes.as_slice()), Error::Limit { value: 0x8000_0000, .. }));
    let forge: [fn(&mut Forger); 6] = [
        // Without a description; a page twice; pages of zeros; a parent; two generations; a batch of nothing.
        |forger| forger.good(1, 0),
        |forger| {
            forger.record(record::DESCRIPTION, 1, &[], nothing);
            forger.running = 0;
            forger.batch(1, &[(3, 1)], 1, nothing);
            forger.batch(1, &[(3, 1)], 1, nothing);
        },
        |forger| {
            forger.record(record::DESCRIPTION, 1, &[], nothing);
            forger.batch(1, &[(3, 1 | batch::ZERO)], 0, nothing);
        },
        |forger| {
            forger.record(record::DESCRIPTION, 2, &[], nothing);
            forger.running = 0;
            forger.good(2, 1);
        },
        |forger| {
            forger.record(record::DESCRIPTION, 2, &[], nothing);
            forger.running = 0;
            forger.good(3, 0);
        },
        |forger| {
            forger.record(record::DESCRIPTION, 2, &[], nothing);
            forger.batch(2, &[], 0, nothing);
        },
    ];
    for (number, forge) in forge.into_iter().enumerate() {
        let mut forger = export_of(MEMORY);
        forge(&mut forger);
        // More follows than anybody reads.
        let error = import_from(&mut forger.bytes.as_slice().chain(io::repeat(0)));
        assert!(matches!(error, Error::Damaged(_)), "{number}: {error}");
    }
    // Pages of zeros that are said to have data can come again, but not for ever.
    let mut forger = export_of(MEMORY);
    forger.record(record::DESCRIPTION, 1, &[], nothing);
    for _ in 0..=PAGES {
        let body = vec![0; PAGE];
        forger.record(record::BATCH, 1, &body, |block| {
            put(block, batch::RUN_COUNT, &1_u32.to_le_bytes());
            put(block, batch::DATA_PAGES, &1_u32.to_le_bytes());
            put(block, batch::RUNS + 4, &1_u32.to_le_bytes());
        });
    }
    assert!(matches!(import_from(&mut forger.bytes.as_slice()), Error::Damaged(Damage::Malformed(_))));
}

#[test]
fn a_segment_with_records_is_not_gone_on_with() {
    let disk = Disk::new();
    let header = SegmentHeader { memory_size: MEMORY, lineage: ID, number: 1, salt: SALT, floor: 0 };
    let file = create_segment(&disk.folder("lineage"), &header).unwrap();
    let mut writer = SegmentWriter::open(file.clone()).unwrap();
    checkpoint(&mut writer, 1, 0, &BTreeMap::from([(3, 33)])).unwrap();
    assert!(matches!(SegmentWriter::open(file), Err(Error::Foreign { .. })));
    assert!(create_segment(&disk.folder("lineage"), &header).is_err());
}
