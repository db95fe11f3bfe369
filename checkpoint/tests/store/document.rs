//! `docs/checkpoint-format.md` says the same as the crate: every table whose first column is a name or an offset.

use std::collections::BTreeMap;

use district_checkpoint::format::*;

const DOCUMENT: &str = include_str!("../../../docs/checkpoint-format.md");

/// A table by the last cell of its header: names, each with the numbers in its row.
type Tables = BTreeMap<String, BTreeMap<String, Vec<u64>>>;

fn cells(line: &str) -> Option<Vec<&str>> {
    let line = line.strip_prefix('|')?.strip_suffix('|')?;
    Some(line.split('|').map(str::trim).collect())
}

fn parse_number(text: &str) -> Option<u64> {
    text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok())
}

fn tables() -> Tables {
    let mut tables = Tables::new();
    let mut current = None;
    for line in DOCUMENT.lines() {
        match cells(line).as_deref() {
            None => current = None,
            Some(["name" | "offset", .., title]) => {
                assert!(tables.insert((*title).to_owned(), BTreeMap::new()).is_none(), "two tables {title}");
                current = Some((*title).to_owned());
            }
            Some([first, ..]) if first.starts_with("--") => {}
            Some(row) => {
                let rows = tables.get_mut(current.as_ref().unwrap()).unwrap();
                let name = row.iter().find_map(|cell| cell.strip_prefix('`')?.strip_suffix('`')).unwrap();
                let numbers = row[..row.len() - 1].iter().filter_map(|cell| parse_number(cell)).collect();
                assert!(rows.insert(name.to_owned(), numbers).is_none(), "{name} stands twice in one table");
            }
        }
    }
    tables
}

fn check<const N: usize>(tables: &mut Tables, title: &str, rows: [(&str, Vec<u64>); N]) {
    let expected = rows.into_iter().map(|(name, numbers)| (name.to_owned(), numbers)).collect();
    assert_eq!(tables.remove(title), Some(expected), "{title}; not checked yet: {:?}", tables.keys());
}

/// Offsets in a block, in order; the lengths are those up to the next one, or what is given.
macro_rules! fields {
    ($module:ident: $($name:ident $bytes:literal),+ $(,)?) => {
        [$((stringify!($name), vec![$module::$name as u64, $bytes])),+]
    };
}

macro_rules! numbers {
    ($($name:ident = $value:expr),+ $(,)?) => {
        [$((stringify!($name), vec![u64::from($value)])),+]
    };
}

/// No two fields overlap, and all lie in the block.
fn disjoint(rows: &[(&str, Vec<u64>)]) {
    for pair in rows.windows(2) {
        assert!(pair[0].1[0] + pair[0].1[1] <= pair[1].1[0], "{pair:?}");
    }
    assert!(rows.iter().all(|(_, place)| place[0] + place[1] <= 4096));
}

#[test]
fn every_table_says_what_the_crate_says() {
    let mut tables = tables();
    check(
        &mut tables,
        "what",
        numbers![
            VERSION = VERSION,
            BLOCK_SIZE = BLOCK_SIZE as u64,
            PAGE_SIZE = PAGE_SIZE as u64,
            MEMORY_SIZE_MAX = MEMORY_SIZE_MAX,
            STATE_MAX = STATE_MAX as u64,
            DESCRIPTION_MAX = DESCRIPTION_MAX as u64,
        ],
    );
    segments(&mut tables);
    images(&mut tables);
    assert!(tables.is_empty(), "tables that nobody has checked: {:?}", tables.keys());
}

fn segments(tables: &mut Tables) {
    let rows = fields![header: MAGIC 8, VERSION 4, PAGE_SIZE 4, MEMORY_SIZE 8, LINEAGE 16, NUMBER 8, SALT 8, FLOOR 8, CHECKSUM 8];
    disjoint(&rows);
    check(tables, "header of a segment", rows);
    let common = fields![record: MAGIC 4, KIND 4, GENERATION 8, SEQUENCE 8, BODY_LEN 8, BODY_CHECKSUM 8, CHECKSUM 8];
    disjoint(&common);
    let end = common[6].1[0] + 8;
    check(tables, "head of a record", common);
    let (batch_kind, commit_kind, description_kind) = (record::BATCH, record::COMMIT, record::DESCRIPTION);
    check(tables, "kind", numbers![BATCH = batch_kind, COMMIT = commit_kind, DESCRIPTION = description_kind]);
    let rows = fields![batch: RUN_COUNT 4, DATA_PAGES 4, RUNS 4032];
    disjoint(&rows);
    assert!(rows[0].1[0] >= end);
    check(tables, "head of a batch, after the common fields", rows);
    check(
        tables,
        "limit of a batch",
        numbers![
            RUNS_MAX = batch::RUNS_MAX as u64,
            PAGES_MAX = batch::PAGES_MAX as u64,
            RUN_SIZE = batch::RUN_SIZE as u64,
            ZERO = batch::ZERO,
        ],
    );
    let rows = fields![commit: PARENT 8, TIME 8, EPOCH 8, BATCHES 8, DATA_PAGES 8, ZERO_PAGES 8, RUNNING 8, STATE_LEN 4, STATE 3984];
    disjoint(&rows);
    assert!(rows[0].1[0] >= end);
    check(tables, "head of a commit, after the common fields", rows);
    check(tables, "head of a description, after the common fields", fields![description: LEN 4]);
}

fn images(tables: &mut Tables) {
    let [first, second] = image::SLOTS_AT;
    check(
        tables,
        "offset in the file",
        numbers![
            DESCRIPTION_AT = image::DESCRIPTION_AT,
            SLOT_0 = first,
            SLOT_1 = second,
            TABLE_AT = image::TABLE_AT,
            PAGES_ALIGN = image::PAGES_ALIGN,
        ],
    );
    let rows = fields![
        image: MAGIC 8, VERSION 4, PAGE_SIZE 4, MEMORY_SIZE 8, LINEAGE 16, DESCRIPTION_LEN 4, DESCRIPTION_CHECKSUM 8,
        PAGES_OFFSET 8, CHECKSUM 8,
    ];
    disjoint(&rows);
    check(tables, "first block of an image", rows);
    let rows = fields![
        slot: MAGIC 4, PHASE 4, SEQUENCE 8, GENERATION 8, TARGET 8, PARENT 8, TIME 8, EPOCH 8, TABLE_CHECKSUM 8, STATE_LEN 4,
        STATE_CHECKSUM 8, CHECKSUM 8,
    ];
    disjoint(&rows);
    check(tables, "block of a slot", rows);
    check(tables, "phase", numbers![AT = slot::AT, MIGRATING = slot::MIGRATING]);
}

#[test]
fn what_the_text_says_is_so() {
    for (magic, says) in [(header::SEGMENT, "DISTLOG"), (header::EXPORT, "DISTEXP"), (image::IMAGE, "DISTIMG")] {
        assert_eq!(magic, *format!("{says}\n").as_bytes());
        assert!(DOCUMENT.contains(&format!("`{says}` and a line feed")));
    }
    assert!(DOCUMENT.contains(&format!("Format version: **{VERSION}**")));
    assert_eq!((record::HEAD, slot::SLOT, slot::STATE), (*b"DREC", *b"DSLT", 4096));
    assert!(DOCUMENT.contains(&format!("as many as the longest record has ({})", batch::PAGES_MAX + 1)));
    assert!(DOCUMENT.contains(&format!("the state's first {} bytes", commit::STATE_IN_HEAD)));
}
