//! `disk/100-clones` and `memory/restored`: what copies of one district of 64 MiB take, on the disk and in memory.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use district::api::snapshot::CloneRequest;

use crate::disk::{self, bytes_below};
use crate::pages::{now, restored};
use crate::process::{Mapping, mappings};
use crate::report::Row;
use crate::restore;
use crate::samples::Samples;
use crate::world::name;

/// Until nothing is left to do after the last one.
const SETTLED: Duration = Duration::from_millis(500);

/// What so many copies add, that have been restored, have said so, and have parked.
pub fn run(count: usize) -> Result<Vec<Row>> {
    let world = disk::world()?;
    let mut events = world.client.events(&[], true)?;
    let (template, tag) = restore::template(&world, &mut events)?;
    let before = bytes_below(world.folder())?;
    let mut processes = Vec::new();
    for number in 0..count {
        let copy = name(&format!("copy-{number}"))?;
        let asked = now();
        let request = CloneRequest { name: copy.clone(), from: Some(tag.clone()) };
        processes.extend(world.client.clone_district(&template, &request)?.pid);
        restored(&mut events, &copy, asked)?;
    }
    ensure!(processes.len() == count, "only {} of {count} copies are alive", processes.len());
    sleep(SETTLED);
    let after = bytes_below(world.folder())?;
    let each = (after - before) as f64 / count as f64 / 1024.0;
    let mut rows = vec![
        Row::new("disk/100-clones", "MiB", Samples::from_iter([after as f64 / f64::from(1 << 20)])),
        Row::new("disk/100-clones-each", "KiB", Samples::from_iter([each])),
    ];
    let (mut outside, mut own) = (Samples::default(), Samples::default());
    for process in processes {
        let all = mappings(process)?;
        let (ram, rest): (Vec<&Mapping>, Vec<&Mapping>) = all
            .iter()
            .filter(|mapping| !mapping.name.starts_with("/memfd:"))
            .partition(|mapping| mapping.name.starts_with(&*world.folder().to_string_lossy()));
        ensure!(!ram.is_empty(), "process {process} has not mapped its image");
        outside.add(rest.iter().map(|mapping| mapping.pss).sum::<u64>() as f64 / 1024.0);
        own.add(ram.iter().map(|mapping| mapping.anonymous).sum::<u64>() as f64 / 1024.0);
    }
    rows.push(Row::new("memory/restored", "KiB", outside));
    rows.push(Row::new("memory/restored-ram", "KiB", own));
    Ok(rows)
}
