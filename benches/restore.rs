//! `restore/...` and `clone/64MiB`: from a request until a program that was checkpointed goes on, in a vmm process that has
//! had no district before.
//!
//! The program `pages` looks at its epoch all the time; the clock stops with the time that it reads as soon as that has
//! changed. Three quarters of its memory are not zero. Its image has been verified, and the log is as short as it gets,
//! except for `first-after-boot`: the first restore under a new daemon, which reads all of the image. That is still in the
//! page cache; `-cold`: it is not.
//!
//! The floor is a cold start of a district with as much memory: the program `first` with fresh memory, in turns. What the
//! size itself takes shows beside `start-16MiB`, which is `start/fresh`.

use std::fs::File;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use district::api::client::Events;
use district::api::name::Name;
use district::api::snapshot::{CloneRequest, Tag};
use district::api::spec::Checkpoints;
use rustix::fs::{Advice, fadvise};

use crate::disk::{self, quiet, settle};
use crate::pages::{self, PAGE, now, restored, said};
use crate::report::{Goal, Row};
use crate::samples::Samples;
use crate::world::{World, name, spec, until_exit};

/// What the daemon and the system have left to do after a start or an end is done by then.
const PAUSE: Duration = Duration::from_millis(20);
/// What a restore may take longer than a start: microseconds.
const MORE: f64 = 500.0;
/// Memory of a district that is cloned: bytes.
const COPIED: u64 = 64 << 20;
/// Lives until the image is as new as it becomes.
const WARM_UP: usize = 2;

/// What a row of each kind is called.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    pub restore: &'static str,
    pub cold_start: &'static str,
    pub small_start: &'static str,
    pub after_boot: &'static str,
    pub after_boot_cold: &'static str,
}

pub const SMALL: Names = Names {
    restore: "restore/256MiB",
    cold_start: "restore/256MiB-cold-start",
    small_start: "restore/256MiB-start-16MiB",
    after_boot: "restore/256MiB-first-after-boot",
    after_boot_cold: "restore/256MiB-first-after-boot-cold",
};
pub const LARGE: Names = Names {
    restore: "restore/1GiB",
    cold_start: "restore/1GiB-cold-start",
    small_start: "restore/1GiB-start-16MiB",
    after_boot: "restore/1GiB-first-after-boot",
    after_boot_cold: "restore/1GiB-first-after-boot-cold",
};

/// Restores of a district with so many bytes of memory.
pub fn run(names: Names, memory: u64, rounds: usize) -> Result<Vec<Row>> {
    let mut world = disk::world()?;
    let spec = pages::district("pages", memory, memory / PAGE * 3 / 4, 0, PAUSE)?;
    let district = spec.name.clone();
    let mut events = world.client.events(&[], true)?;
    world.client.start(vec![spec])?;
    said(&mut events, &district, "filled")?;
    world.client.checkpoint(&district)?;
    settle(&world, &district)?;
    world.client.stop(&district)?;
    for _ in 0..WARM_UP {
        restore(&world, &mut events, &district)?;
    }
    quiet(&world)?;
    let [mut restores, mut floor, mut cold, mut small] = [(); 4].map(|()| Samples::default());
    let mut fresh = |name, kept, memory| fresh(&world, &mut events, name, kept, memory);
    let first = fresh("first", false, Some(memory))?;
    let kept = fresh("kept", true, Some(memory))?;
    let usual = fresh("small", false, None)?;
    for _ in 0..rounds {
        restores.add(restore(&world, &mut events, &district)?);
        floor.add(start(&world, &mut events, &first)?);
        cold.add(start(&world, &mut events, &kept)?);
        small.add(start(&world, &mut events, &usual)?);
    }
    drop(events);
    let [mut after_boot, mut after_boot_cold] = [(); 2].map(|()| Samples::default());
    for from_disk in [false, true] {
        world.begin_again()?;
        if from_disk {
            forget_images(&world)?;
        }
        let mut events = world.client.events(&[], true)?;
        // So that there is a vmm process in stock.
        start(&world, &mut events, &first)?;
        let samples = if from_disk { &mut after_boot_cold } else { &mut after_boot };
        samples.add(restore(&world, &mut events, &district)?);
    }
    Ok(vec![
        Row::new(names.restore, "us", restores).floor(&floor).goal(Goal::Above(MORE)),
        Row::new(names.cold_start, "us", cold).floor(&floor),
        Row::new(names.small_start, "us", small).floor(&floor),
        Row::new(names.after_boot, "us", after_boot).floor(&floor),
        Row::new(names.after_boot_cold, "us", after_boot_cold).floor(&floor),
    ])
}

/// Clones of a snapshot of a district with 64 MiB of memory.
pub fn clones(rounds: usize) -> Result<Vec<Row>> {
    let world = disk::world()?;
    let mut events = world.client.events(&[], true)?;
    let (template, tag) = template(&world, &mut events)?;
    let first = fresh(&world, &mut events, "first", false, Some(COPIED))?;
    quiet(&world)?;
    let [mut clones, mut floor] = [(); 2].map(|()| Samples::default());
    for round in 0..rounds {
        let copy = name(&format!("copy-{round}"))?;
        let asked = now();
        world.client.clone_district(&template, &CloneRequest { name: copy.clone(), from: Some(tag.clone()) })?;
        clones.add(microseconds(asked, restored(&mut events, &copy, asked)?));
        // It has parked. Ending it would write its memory to an image of its own, beside the next one.
        sleep(PAUSE);
        floor.add(start(&world, &mut events, &first)?);
    }
    Ok(vec![Row::new("clone/64MiB", "us", clones).floor(&floor).goal(Goal::Above(MORE))])
}

/// A district of 64 MiB that is stopped, and a snapshot of it.
pub fn template(world: &World, events: &mut Events<'_>) -> Result<(Name, Tag)> {
    let spec = pages::district("template", COPIED, COPIED / PAGE * 3 / 4, 0, PAUSE)?;
    let template = spec.name.clone();
    world.client.start(vec![spec])?;
    said(events, &template, "filled")?;
    let tag = world.client.snapshot(&template, None)?.tag;
    settle(world, &template)?;
    world.client.stop(&template)?;
    sleep(PAUSE);
    Ok((template, tag))
}

/// Restores a district that is stopped, and stops it: microseconds until it went on.
fn restore(world: &World, events: &mut Events<'_>, district: &Name) -> Result<f64> {
    settle(world, district)?;
    let asked = now();
    world.client.start_existing(district)?;
    let time = microseconds(asked, restored(events, district, asked)?);
    world.client.stop(district)?;
    Ok(time)
}

/// A district of its own that says when it began, with checkpoints or without, and so much memory if not the usual. It
/// has run.
fn fresh(world: &World, events: &mut Events<'_>, name: &str, kept: bool, memory: Option<u64>) -> Result<Name> {
    let mut spec = spec(name, "first", &[])?;
    spec.checkpoints = kept.then(Checkpoints::default);
    spec.memory = memory.unwrap_or(spec.memory);
    let district = spec.name.clone();
    world.client.start(vec![spec])?;
    until_exit(&district, events)?;
    sleep(PAUSE);
    Ok(district)
}

/// Starts it: microseconds until its first instruction.
fn start(world: &World, events: &mut Events<'_>, district: &Name) -> Result<f64> {
    sleep(PAUSE);
    let asked = now();
    world.client.start_existing(district)?;
    let (_, message) = until_exit(district, events)?;
    sleep(PAUSE);
    Ok(microseconds(asked, message.parse().with_context(|| format!("`first` says {message:?}"))?))
}

fn microseconds(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1000.0
}

/// Has the kernel drop what it has cached of all images.
fn forget_images(world: &World) -> Result<()> {
    for district in std::fs::read_dir(world.folder().join("districts"))? {
        if let Ok(image) = File::open(district?.path().join("memory/home")) {
            image.sync_all()?;
            fadvise(&image, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}
