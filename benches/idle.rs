//! `memory/vmm`, `memory/daemon` and `idle/200`: districts that do nothing, their channels set up.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use district::api::event::EventKind;

use crate::process::{Mapping, cpu_time, mappings};
use crate::report::{Goal, Row};
use crate::samples::Samples;
use crate::world::{World, next, spec};

/// RAM of the districts, larger than any other writable mapping of a vmm process.
const RAM: u64 = 12 << 20;
/// Districts whose memory is looked at.
const MEASURED: usize = 100;
/// Until the last of them has parked and nothing is left to do.
const SETTLED: Duration = Duration::from_millis(500);

/// A daemon with `count` idle districts, and the processes of those.
fn idle_world(count: usize) -> Result<(World, Vec<u32>)> {
    let world = World::new()?;
    let mut events = world.client.events(&[], false)?;
    for index in 0..count {
        let mut district = spec(&format!("idle-{index}"), "idle", &["connected"])?;
        district.memory = RAM;
        world.client.start(vec![district])?;
        while next(&mut events)?.kind != EventKind::Started {}
    }
    drop(events);
    sleep(SETTLED);
    let processes: Vec<u32> = world.client.list()?.into_iter().filter_map(|info| info.pid).collect();
    ensure!(processes.len() == count, "only {} of {count} districts are alive", processes.len());
    Ok((world, processes))
}

/// Resident memory of a vmm process, with its share of what it shares (PSS), without its guest's RAM and the window: of
/// the only one there is, and of one of many.
pub fn vmm_memory(quick: bool) -> Result<Vec<Row>> {
    let outside = |process: u32| -> Result<f64> {
        let all = mappings(process)?;
        // The kernel may have joined it with a neighbour of the same kind.
        let is_ram = |mapping: &Mapping| mapping.name.is_empty() && mapping.writable && mapping.size >= RAM;
        ensure!(all.iter().any(is_ram), "process {process} has no RAM");
        let counted = all.iter().filter(|mapping| !is_ram(mapping) && !is_window(mapping));
        Ok(counted.map(|mapping| mapping.pss).sum::<u64>() as f64 / 1024.0)
    };
    let mut alone = Samples::default();
    for _ in 0..if quick { 1 } else { 5 } {
        let (_world, processes) = idle_world(1)?;
        alone.add(processes.into_iter().map(outside).sum::<Result<f64>>()?);
    }
    let (_world, processes) = idle_world(if quick { 5 } else { MEASURED })?;
    let of_many = processes.into_iter().map(outside).collect::<Result<Samples>>()?;
    Ok(vec![
        Row::new("memory/vmm", "KiB", alone).goal(Goal::AtMost(1536.0)),
        Row::new("memory/vmm-of-many", "KiB", of_many),
    ])
}

/// What each idle district adds to the daemon's own memory; windows, which are the districts', not counted.
pub fn daemon_memory(quick: bool) -> Result<Row> {
    // Not PSS: that of the program's text becomes smaller as others share it.
    let own = |world: &World| -> Result<f64> {
        let all = mappings(world.daemon())?;
        Ok(all.iter().filter(|mapping| !is_window(mapping)).map(|mapping| mapping.anonymous).sum::<u64>() as f64)
    };
    let count = if quick { 5 } else { MEASURED };
    let (without, _) = idle_world(1)?;
    let (with, _) = idle_world(count + 1)?;
    let growth = (own(&with)? - own(&without)?) / count as f64 / 1024.0;
    Ok(Row::new("memory/daemon", "KiB", Samples::from_iter([growth])).goal(Goal::AtMost(64.0)))
}

/// Processor time that 200 idle districts and their daemon use together.
pub fn idle_time(quick: bool) -> Result<Row> {
    let (count, seconds) = if quick { (10, 1) } else { (200, 10) };
    let (world, mut processes) = idle_world(count)?;
    processes.push(world.daemon());
    let used = || processes.iter().map(|&process| cpu_time(process)).sum::<Result<Duration>>();
    let (before, begin) = (used()?, Instant::now());
    sleep(Duration::from_secs(seconds));
    let (after, passed) = (used()?, begin.elapsed());
    let percent = (after - before).as_secs_f64() / passed.as_secs_f64() * 100.0;
    Ok(Row::new("idle/200", "% of a core", Samples::from_iter([percent])).goal(Goal::AtMost(1.0)))
}

fn is_window(mapping: &Mapping) -> bool {
    mapping.name.starts_with("/memfd:")
}
