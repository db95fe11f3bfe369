//! `checkpoint/...`: what a checkpoint of a running district costs, and how long the district stands still for it.
//!
//! The program `pages` writes to so many pages and computes on; then a checkpoint is asked for. Pause and total are what the
//! vmm process reports: the time in which the guest could not run, and that until the checkpoint was durable. The floor is
//! the same number of bytes appended to another file of the same file system, and flushed, in turns.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use district::api::client::Events;
use district::api::info::CheckpointInfo;
use district::api::name::Name;
use district::api::spec::Checkpoints;

use crate::disk::{self, Appended, quiet, settle};
use crate::pages::{self, now, said, wrote};
use crate::report::{Goal, Row};
use crate::samples::Samples;
use crate::world::{World, spec};

/// Pages that a checkpoint may have beside those that are written to: stack, heap and the log's buffers.
const BESIDE: u64 = 32;
/// Within so long one must be as it should.
const PATIENCE: Duration = Duration::from_secs(20);

/// Few pages.
pub fn small(samples: usize) -> Result<Vec<Row>> {
    let run = Run { memory: 16 << 20, write: 64, period: Duration::from_millis(15), samples };
    let Taken { pause, total, answer, floor } = run.take()?;
    Ok(vec![
        Row::new("checkpoint/64-pages-pause", "us", pause).goal(Goal::AtMost(300.0)),
        Row::new("checkpoint/64-pages", "us", total).floor(&floor).goal(Goal::Ratio(2.0)),
        Row::new("checkpoint/64-pages-answer", "us", answer).floor(&floor),
    ])
}

/// Many pages.
pub fn large(samples: usize) -> Result<Vec<Row>> {
    let run = Run { memory: 256 << 20, write: 10_000, period: Duration::from_millis(400), samples };
    let Taken { pause, total, answer, floor } = run.take()?;
    Ok(vec![
        Row::new("checkpoint/10000-pages-pause", "us", pause).goal(Goal::AtMost(2000.0)),
        Row::new("checkpoint/10000-pages", "us", total).floor(&floor).goal(Goal::Ratio(1.3)),
        Row::new("checkpoint/10000-pages-answer", "us", answer).floor(&floor),
    ])
}

/// None: of a district that has not run since the last one, asked through the API, which is all that there is to do; and of
/// one that has, by what its vmm process reports.
pub fn nothing(samples: usize) -> Result<Vec<Row>> {
    let world = disk::world()?;
    let (mut idle, busy) = (spec("idle", "idle", &["connected"])?, pages::district("busy", 16 << 20, 64, 0, PERIOD)?);
    idle.checkpoints = Some(Checkpoints::default());
    let (idle_name, busy_name) = (idle.name.clone(), busy.name.clone());
    let mut events = world.client.events(std::slice::from_ref(&busy_name), true)?;
    world.client.start(vec![idle, busy])?;
    said(&mut events, &busy_name, "filled")?;
    let mut floor = Appended::new(&world)?;
    let [mut answer, mut total] = [(); 2].map(|()| Samples::default());
    for first in (0..=samples).map(|sample| sample == 0) {
        let begin = Instant::now();
        world.client.checkpoint(&idle_name)?;
        let took = begin.elapsed().as_secs_f64() * 1e6;
        let info = world.client.checkpoint(&busy_name)?;
        if !first {
            answer.add(took);
            total.add(micros(info.total_us)?);
            floor.append(info.bytes)?;
        }
    }
    Ok(vec![
        Row::new("checkpoint/nothing-dirty", "us", answer).goal(Goal::AtMost(300.0)),
        Row::new("checkpoint/no-page-dirty", "us", total).floor(&floor.times),
    ])
}

/// Of no meaning where nothing is written to.
const PERIOD: Duration = Duration::from_secs(1);

struct Run {
    memory: u64,
    write: u64,
    period: Duration,
    samples: usize,
}

struct Taken {
    pause: Samples,
    total: Samples,
    answer: Samples,
    floor: Samples,
}

impl Run {
    fn take(&self) -> Result<Taken> {
        let world = disk::world()?;
        let spec = pages::district("pages", self.memory, self.write, self.write, self.period)?;
        let name = spec.name.clone();
        let mut events = world.client.events(std::slice::from_ref(&name), true)?;
        world.client.start(vec![spec])?;
        said(&mut events, &name, "filled")?;
        world.client.checkpoint(&name)?;
        settle(&world, &name)?;
        quiet(&world)?;
        let mut floor = Appended::new(&world)?;
        let [mut pause, mut total, mut answer] = [(); 3].map(|()| Samples::default());
        for _ in 0..self.samples {
            let (info, took) = self.sample(&world, &name, &mut events)?;
            pause.add(micros(info.pause_us)?);
            total.add(micros(info.total_us)?);
            answer.add(took);
            // The log of a large one goes to the image at once, and that would be in the way of both.
            if self.write > 1000 {
                settle(&world, &name)?;
            }
            floor.append(info.bytes)?;
        }
        Ok(Taken { pause, total, answer, floor: floor.times })
    }

    /// A checkpoint just after the pages were written to, and how many microseconds its answer took.
    fn sample(&self, world: &World, name: &Name, events: &mut Events<'_>) -> Result<(CheckpointInfo, f64)> {
        let mut dirty = 0;
        let last = Instant::now() + PATIENCE;
        while Instant::now() < last {
            let (_, time) = wrote(events, name)?;
            // Not what was said long ago, nor when it is about to write again.
            if now().saturating_sub(time) > u64::try_from(self.period.as_nanos())? / 3 {
                continue;
            }
            let begin = Instant::now();
            let info = world.client.checkpoint(name)?;
            let took = begin.elapsed().as_secs_f64() * 1e6;
            dirty = info.data_pages + info.zero_pages;
            if (self.write..=self.write + BESIDE).contains(&dirty) {
                return Ok((info, took));
            }
        }
        bail!("no checkpoint has {} dirty pages; the last one has {dirty}", self.write)
    }
}

fn micros(reported: Option<u64>) -> Result<f64> {
    ensure!(reported.is_some(), "the vmm process has not said how long a checkpoint took");
    Ok(reported.unwrap_or_default() as f64)
}
