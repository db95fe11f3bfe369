//! Memory as its model has it: a number a page, from which the page's bytes follow. 0 is a page of zeros.

use std::collections::BTreeMap;
use std::io;

use district_checkpoint::{
    CommitInfo, Content, Directory, Error, Lineage, Restore, Run, SegmentWriter, Storage, WriteError, Written, runs,
};

pub const PAGE: usize = district_checkpoint::format::PAGE_SIZE;
pub const PAGES: u64 = 24;
pub const MEMORY: u64 = PAGES * PAGE as u64;
pub const ID: [u8; 16] = [7; 16];

/// The memory of a generation.
pub type Memory = Vec<u64>;

/// What was committed, or was going to be, by generation.
pub type Model = BTreeMap<u64, Memory>;

pub fn empty() -> Memory {
    vec![0; usize::try_from(PAGES).unwrap()]
}

/// The bytes of a page: each of its words is another.
pub fn bytes(value: u64) -> Vec<u8> {
    if value == 0 {
        return vec![0; PAGE];
    }
    (0..PAGE as u64 / 8).flat_map(|word| (value << 20 | word).to_le_bytes()).collect()
}

pub fn state(generation: u64) -> Vec<u8> {
    // Longer and shorter than what fits into the first block of a commit.
    let len = if generation.is_multiple_of(3) { 5000 } else { 40 };
    vec![u8::try_from(generation & 0xff).unwrap(); len]
}

pub fn info(generation: u64) -> CommitInfo {
    CommitInfo { time: 1_000_000 + generation, epoch: generation / 2 }
}

/// Pages, sorted, as runs and their data.
pub fn pack(pages: &BTreeMap<u64, u64>) -> (Vec<Run>, Vec<u8>) {
    let data = pages.values().filter(|value| **value != 0).flat_map(|value| bytes(*value)).collect();
    (runs(pages.iter().map(|(page, value)| (*page, *value == 0))).collect(), data)
}

/// A checkpoint of these pages in one go.
pub fn checkpoint<F: Storage>(
    writer: &mut SegmentWriter<F>,
    generation: u64,
    parent: u64,
    pages: &BTreeMap<u64, u64>,
) -> Result<Written, WriteError> {
    let (runs, data) = pack(pages);
    writer.begin(generation, parent)?.put_and_commit(&runs, &data, &info(generation), &state(generation))
}

/// The pages of a plan, put together as a vmm process does it: the image below, what `apply` hands out above.
pub fn restored<F: Storage>(restore: &Restore<F>, image: Option<&impl Storage>) -> Result<Vec<u8>, Error> {
    let mut memory = vec![0; usize::try_from(restore.memory_size()).unwrap()];
    if let Some(offset) = restore.pages_offset() {
        let read = image.unwrap().read_at(offset, &mut memory);
        read.map_err(|source| Error::Storage { doing: "cannot map", source })?;
    }
    let mut touched = vec![false; memory.len() / PAGE];
    restore.apply(&mut |first, content| {
        let first = usize::try_from(first).unwrap();
        let count = match content {
            Content::Zero(count) => usize::try_from(count).unwrap(),
            Content::Data(data) => data.len() / PAGE,
        };
        for page in &mut touched[first..first + count] {
            assert!(!*page, "a page is handed out twice");
            *page = true;
        }
        let place = &mut memory[first * PAGE..(first + count) * PAGE];
        match content {
            Content::Zero(_) => place.fill(0),
            Content::Data(data) => place.copy_from_slice(data),
        }
        Ok(())
    })?;
    Ok(memory)
}

/// Restores through descriptors, as another process does.
pub fn restore<D: Directory>(lineage: &Lineage<D>, generation: u64) -> Result<Vec<u8>, Error> {
    let files = lineage.restore_files(generation)?;
    let image = lineage.restore_files(generation)?.image;
    let plan = Restore::plan(files.image, files.segments, generation)?;
    assert_eq!(plan.stamp().generation, generation);
    assert_eq!(plan.state(), state(generation));
    assert_eq!((plan.stamp().time, plan.stamp().epoch), (info(generation).time, info(generation).epoch));
    restored(&plan, image.as_ref())
}

/// Says which pages differ, not their bytes.
pub fn assert_same(found: &[u8], expected: &[u64], what: &str) {
    let differing: Vec<usize> =
        (0..expected.len()).filter(|page| found[page * PAGE..(page + 1) * PAGE] != bytes(expected[*page])).collect();
    assert!(differing.is_empty(), "{what}: pages {differing:?} are not as they were");
    assert_eq!(found.len(), expected.len() * PAGE);
}

/// Every generation that is said to be restorable is what the model says.
pub fn check_all<D: Directory>(lineage: &Lineage<D>, model: &Model, what: &str) {
    for known in lineage.generations().iter().filter(|known| known.restorable) {
        let generation = known.stamp.generation;
        let found = restore(lineage, generation).unwrap_or_else(|error| panic!("{what}: {generation}: {error}"));
        assert_same(&found, &model[&generation], &format!("{what}, generation {generation}"));
    }
}

/// Nobody wants to know how far it is.
pub fn quiet(_: u64, _: u64) {}

/// The kind of an error that storage has given.
pub fn kind_of(error: &WriteError) -> Option<io::ErrorKind> {
    match error {
        WriteError::Storage { source, .. } => Some(source.kind()),
        _ => None,
    }
}
