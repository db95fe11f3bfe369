//! `slow-down/...`: what a program that does nothing but write to memory loses by checkpoints.
//!
//! One life of the program `pages`, which writes to its pages in turn, again and again; stretches without checkpoints and
//! with so many per second take turns. It says itself how often it has written. Checkpoints are asked for through the API.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use district::api::client::Events;
use district::api::name::Name;

use crate::disk;
use crate::pages::{self, now, said, wrote};
use crate::report::{Goal, Row};
use crate::samples::Samples;
use crate::world::World;

/// How long each stretch is.
const STRETCH: Duration = Duration::from_millis(1000);
/// After the change from one to the next nothing counts for so long.
const CHANGE: Duration = Duration::from_millis(50);

/// With so many pages: 10 and 100 checkpoints per second.
pub fn run(names: [&'static str; 2], pages: u64, goals: Option<[f64; 2]>, rounds: usize) -> Result<Vec<Row>> {
    let world = disk::world()?;
    let spec = pages::district("pages", 32 << 20, pages, pages, Duration::ZERO)?;
    let name = spec.name.clone();
    let mut events = world.client.events(std::slice::from_ref(&name), true)?;
    world.client.start(vec![spec])?;
    said(&mut events, &name, "filled")?;
    world.client.checkpoint(&name)?;
    let mut stretches = Stretches { world: &world, name: &name, events };
    let mut slow_downs = [Samples::default(), Samples::default()];
    for _ in 0..rounds {
        let before = stretches.writes_per_second(None)?;
        let with = [stretches.writes_per_second(Some(10))?, stretches.writes_per_second(Some(100))?];
        let after = stretches.writes_per_second(None)?;
        for (samples, with) in slow_downs.iter_mut().zip(with) {
            samples.add((1.0 - with / ((before + after) / 2.0)) * 100.0);
        }
    }
    let rows = names.into_iter().zip(slow_downs).map(|(name, samples)| Row::new(name, "%", samples));
    Ok(match goals {
        None => rows.collect(),
        Some(goals) => rows.zip(goals).map(|(row, goal)| row.goal(Goal::AtMost(goal))).collect(),
    })
}

struct Stretches<'a> {
    world: &'a World,
    name: &'a Name,
    events: Events<'a>,
}

impl Stretches<'_> {
    /// How many pages per second the program writes to, with so many checkpoints per second.
    fn writes_per_second(&mut self, rate: Option<u32>) -> Result<f64> {
        let begin = Instant::now();
        let from = now() + u64::try_from(CHANGE.as_nanos())?;
        match rate {
            None => sleep(STRETCH),
            Some(rate) => {
                for number in 0..rate * u32::try_from(STRETCH.as_millis())? / 1000 {
                    let due = begin + Duration::from_secs(1) * number / rate;
                    sleep(due.saturating_duration_since(Instant::now()));
                    self.world.client.checkpoint(self.name)?;
                }
                sleep((begin + STRETCH).saturating_duration_since(Instant::now()));
            }
        }
        let until = now();
        let (mut first, mut last) = (None, None);
        loop {
            let (count, time) = wrote(&mut self.events, self.name)?;
            if time > until {
                break;
            }
            if time >= from {
                first.get_or_insert((count, time));
                last = Some((count, time));
            }
        }
        let (Some((count, time)), Some((more, later))) = (first, last) else { return Ok(0.0) };
        ensure!(later > time, "`pages` has said nothing for a second");
        Ok((more - count) as f64 / (later - time) as f64 * 1e9)
    }
}
