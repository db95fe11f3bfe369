//! Real files in a real directory.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use district_checkpoint::{
    Access, Depth, Directory, Folder, Identity, Image, Lineage, Migration, SegmentWriter, Storage, write_image,
};

use super::support::*;

fn folder(path: &Path) -> Folder {
    Folder::new(File::open(path).unwrap().into())
}

fn open(path: &Path) -> Lineage<Folder> {
    Lineage::open(folder(path), ID, MEMORY, Depth::Data).unwrap()
}

fn migration(target: u64) -> Migration<'static> {
    Migration { target, running: 0, writing: u64::MAX, description: b"counter" }
}

#[test]
fn two_lives_a_migration_in_place_and_a_snapshot() {
    let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut model = Model::new();
    let mut memory = empty();
    let mut parent = 0;
    for life in 0..4 {
        let mut lineage = open(directory.path());
        assert_eq!(lineage.newest().unwrap(), model.last_key_value().map(|(newest, _)| *newest));
        let mut writer = SegmentWriter::open(lineage.create_segment(99 + life).unwrap()).unwrap();
        for step in 0..3 {
            let generation = lineage.next_generation().unwrap() + step;
            let pages = BTreeMap::from([(generation % PAGES, generation), (3, step), (4, step), (20, 0)]);
            checkpoint(&mut writer, generation, parent, &pages).unwrap();
            pages.iter().for_each(|(page, value)| memory[usize::try_from(*page).unwrap()] = *value);
            model.insert(generation, memory.clone());
            parent = generation;
        }
        let mut lineage = open(directory.path());
        check_all(&lineage, &model, "before the migration");
        let target = lineage.migration_target(parent).unwrap();
        assert_eq!(target, parent - 1);
        let mut last = (0, 0);
        lineage.migrate(&migration(target), &mut |done, total| last = (done, total)).unwrap();
        assert!(last.0 == last.1 && last.1 > 0, "{last:?}");
        assert_eq!(lineage.migration_target(parent), None);
        assert_eq!(lineage.segments().len(), 1);
        let lineage = open(directory.path());
        check_all(&lineage, &model, "after the migration");
        assert_eq!(lineage.newest().unwrap(), Some(parent));
        // The first is complete in itself, and its segment is still there.
        assert_eq!(lineage.restore(target - 1).is_ok(), life == 0);
        lineage.verify_image(&mut quiet).unwrap();
    }

    let lineage = open(directory.path());
    let identity = Identity { lineage: [9; 16], description: b"a snapshot" };
    let plan = lineage.restore(parent).unwrap();
    let image = write_image(&folder(other.path()), "snapshot", &plan, &identity, &mut quiet).unwrap();
    assert_eq!(image.description().unwrap(), b"a snapshot");
    image.verify(&|_| false, &mut quiet).unwrap();
    let mut found = vec![0; usize::try_from(MEMORY).unwrap()];
    let file = File::open(other.path().join("snapshot")).unwrap();
    file.read_at(image.info().pages_offset, &mut found).unwrap();
    assert_same(&found, &memory, "snapshot");
    let data_pages = memory.iter().filter(|value| **value != 0).count() as u64;
    let allocated = file.metadata().unwrap().blocks() * 512;
    assert!(allocated <= (data_pages + 12) * PAGE as u64, "{allocated} bytes for {data_pages} pages");
}

#[test]
fn a_file_that_is_none_is_not_opened() {
    let directory = tempfile::tempdir().unwrap();
    let here = folder(directory.path());
    std::os::unix::fs::symlink("/dev/zero", directory.path().join("home")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        directory.path().join("log.1"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    for name in ["home", "log.1", "..", "", "a/b"] {
        assert!(here.open(name, Access::Read).is_err(), "{name}");
    }
    assert!(Lineage::open(here, ID, MEMORY, Depth::Data).is_err());
}

#[test]
fn holes_and_many_slices() {
    let directory = tempfile::tempdir().unwrap();
    let file = folder(directory.path()).create_new("file").unwrap();
    let parts: Vec<[u8; 2]> = (0..3000).map(|number: u16| number.to_le_bytes()).collect();
    let slices: Vec<_> = parts.iter().map(|part| std::io::IoSlice::new(part)).collect();
    file.write_at(7, &slices).unwrap();
    let mut read = vec![0; 6000];
    file.read_at(7, &mut read).unwrap();
    assert_eq!(read, parts.concat());
    file.punch_hole(4096, 1000).unwrap();
    file.read_at(7, &mut read).unwrap();
    assert!(read[4089..5089].iter().all(|byte| *byte == 0) && read[5089] == parts.concat()[5089]);
    assert_eq!(file.size().unwrap(), 6007);
    assert!(Image::open(&file).is_err());
}
