//! Files of this format version as they must stay: they are in `tests/golden/`, and a missing one is a failure. The test
//! with `DISTRICT_WRITE_GOLDEN=1` writes them, which a change of the format needs, together with its version.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::PathBuf;

use district_checkpoint::simulated::{Disk, SimulatedFolder};
use district_checkpoint::{
    Access, Directory, Identity, Image, ImportLimits, Phase, Restore, SegmentHeader, SegmentWriter, Storage,
    create_segment, export, import, write_image,
};

use super::history::open;
use super::support::*;

/// Compares with the golden file, and returns its bytes.
fn golden(name: &str, found: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("DISTRICT_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let differs = golden.iter().zip(found).position(|(one, other)| one != other);
    assert!(differs.is_none() && golden.len() == found.len(), "{name}: other bytes, first at {differs:?}");
    golden
}

/// A file without its blocks of zeros: for each other block its offset, then its bytes. At last the length, and nothing.
fn compact(file: &impl Storage) -> Vec<u8> {
    let (len, mut out) = (file.size().unwrap(), Vec::new());
    for offset in (0..len).step_by(PAGE) {
        let mut block = vec![0; PAGE];
        file.read_at(offset, &mut block).unwrap();
        if block.iter().any(|byte| *byte != 0) {
            out.extend(offset.to_le_bytes());
            out.extend(block);
        }
    }
    out.extend(len.to_le_bytes());
    out
}

fn spread(bytes: &[u8], folder: &SimulatedFolder, name: &str) {
    let file = folder.create_new(name).unwrap();
    let (blocks, len) = bytes.split_last_chunk::<8>().unwrap();
    file.set_len(u64::from_le_bytes(*len)).unwrap();
    for block in blocks.chunks(8 + PAGE) {
        let (offset, block) = block.split_first_chunk::<8>().unwrap();
        file.write_at(u64::from_le_bytes(*offset), &[IoSlice::new(block)]).unwrap();
    }
}

fn memory() -> Memory {
    let mut memory = empty();
    (memory[2], memory[3], memory[9]) = (12, 23, 9);
    memory
}

fn segment() -> (Disk, Vec<u8>) {
    let disk = Disk::new();
    let header = SegmentHeader { memory_size: MEMORY, lineage: ID, number: 1, salt: 0x1122_3344_5566_7788, floor: 5 };
    let file = create_segment(&disk.folder("lineage"), &header).unwrap();
    let mut writer = SegmentWriter::open(file.clone()).unwrap();
    checkpoint(&mut writer, 7, 0, &BTreeMap::from([(1, 11), (2, 12), (3, 13)])).unwrap();
    checkpoint(&mut writer, 9, 7, &BTreeMap::from([(1, 0), (3, 23), (9, 9)])).unwrap();
    let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
    file.read_at(0, &mut bytes).unwrap();
    (disk, bytes)
}

#[test]
fn a_segment_is_as_it_always_was() {
    let (_, bytes) = segment();
    let golden = golden("segment.bin", &bytes);
    let disk = Disk::new();
    let file = disk.folder("lineage").create_new("log.1").unwrap();
    file.write_at(0, &[IoSlice::new(&golden)]).unwrap();
    let plan = Restore::plan(None, vec![file.clone()], 9).unwrap();
    assert_same(&restored(&plan, Some(&file)).unwrap(), &memory(), "golden segment");
    assert_eq!((plan.stamp().parent, plan.state()), (7, state(9).as_slice()));
}

#[test]
fn an_image_is_as_it_always_was() {
    let (disk, _) = segment();
    let folder = disk.folder("images");
    let identity = Identity { lineage: ID, description: b"a golden image" };
    write_image(&folder, "image", &open(&disk).unwrap().restore(9).unwrap(), &identity, &mut quiet).unwrap();
    let golden = golden("image.bin", &compact(&folder.open("image", Access::Read).unwrap()));
    spread(&golden, &folder, "golden");
    let file = folder.open("golden", Access::Read).unwrap();
    let image = Image::open(&file).unwrap();
    image.verify(&|_| false, &mut quiet).unwrap();
    assert_eq!((image.info().phase, image.info().lineage), (Phase::At(9), ID));
    assert_eq!(image.description().unwrap(), b"a golden image");
    let plan = Restore::plan(Some(file.clone()), vec![], 9).unwrap();
    assert_same(&restored(&plan, Some(&file)).unwrap(), &memory(), "golden image");
}

#[test]
fn an_export_is_as_it_always_was() {
    let (disk, _) = segment();
    let identity = Identity { lineage: ID, description: b"a golden export" };
    let mut bytes = Vec::new();
    export(&open(&disk).unwrap().restore(9).unwrap(), &identity, 0x99, &mut bytes, &mut quiet).unwrap();
    let golden = golden("export.bin", &bytes);
    let folder = disk.folder("images");
    let limits = ImportLimits { memory_size_max: MEMORY };
    let mut describe = |text: &[u8]| Ok(text.to_vec());
    let found = import(&mut golden.as_slice(), &folder, "imported", &limits, ID, &mut describe, &mut quiet).unwrap();
    assert_eq!(found.description, b"a golden export");
    let file = folder.open("imported", Access::Read).unwrap();
    let plan = Restore::plan(Some(file.clone()), vec![], 9).unwrap();
    assert_same(&restored(&plan, Some(&file)).unwrap(), &memory(), "golden export");
}
