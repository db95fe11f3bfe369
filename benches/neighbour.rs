//! `neighbour/p99`: what two districts that call each other notice of a third that uses up all its quotas again and again.
//!
//! Batches with and without the third take turns. Beside it, the same with a third that only computes: what a district
//! costs others that takes its share of the processors and asks nothing of the broker.

use anyhow::{Context, Result, ensure};
use district::api::client::Events;
use district::api::event::{Event, EventKind};
use district::api::name::Name;
use district::api::spec::{Limits, Spec};

use crate::report::{Goal, Row};
use crate::samples::Samples;
use crate::world::{World, connect, next, spec, until_exit};

/// Calls of one batch, whose 99th percentile is one sample.
const CALLS: &str = "2000";
const BYTES: &str = "64";
/// All quotas that there are, as the third has to say that it met them.
const QUOTAS: [&str; 7] = ["Bindings", "Calls", "Exports", "Frames", "Handles", "QueuedBytes", "Watches"];

/// The two that are measured, and what has happened to all four.
struct Pair<'a> {
    world: &'a World,
    ping: Name,
    events: Events<'a>,
}

/// The 99th percentiles of so many batches.
pub fn run(batches: usize) -> Result<Vec<Row>> {
    let world = World::new()?;
    let (mut server, mut client) = (spec("pong", "pong", &[])?, spec("ping", "ping", &[CALLS, BYTES])?);
    connect(&mut server, &mut client, "pong");
    let (glutton, spinner) = (glutton()?, spec("spinner", "flaky", &["spin"])?);
    let [ping, quotas, spin] = [&client, &glutton, &spinner].map(|spec| spec.name.clone());
    let events = world.client.events(&[ping.clone(), quotas.clone(), spin.clone()], true)?;
    let mut pair = Pair { world: &world, ping, events };
    world.client.start(vec![server, client])?;
    until_exit(&pair.ping, &mut pair.events)?;
    for third in [glutton, spinner] {
        let name = third.name.clone();
        world.client.start(vec![third])?;
        world.client.stop(&name)?;
    }

    let [mut alone, mut beside_glutton, mut beside_spinner] = [(); 3].map(|()| Samples::default());
    for _ in 0..batches {
        alone.add(pair.p99()?);
        let said = pair.beside(&quotas, "met ", &mut beside_glutton)?;
        let missing: Vec<_> = QUOTAS.into_iter().filter(|quota| !said.contains(quota)).collect();
        ensure!(missing.is_empty(), "`glutton` says {said:?}, without {missing:?}");
        pair.beside(&spin, "going to fail", &mut beside_spinner)?;
    }
    Ok(vec![
        Row::new("neighbour/p99", "us", beside_glutton).floor(&alone).goal(Goal::Ratio(1.1)),
        Row::new("neighbour/p99-spin", "us", beside_spinner).floor(&alone),
    ])
}

impl Pair<'_> {
    /// The 99th percentile of a batch, in microseconds.
    fn p99(&mut self) -> Result<f64> {
        let (lines, _) = self.world.run(&self.ping, &mut self.events)?;
        let p99 = lines.iter().find_map(|line| line.split_once("p99_ns=")?.1.split_whitespace().next());
        Ok(p99.with_context(|| format!("`ping` says {lines:?}"))?.parse::<f64>()? / 1000.0)
    }

    /// Measures a batch while a third runs that has said this. The whole line.
    fn beside(&mut self, third: &Name, said: &str, samples: &mut Samples) -> Result<String> {
        // It may have said so in an earlier life, too.
        let epoch = self.world.client.start_existing(third)?.epoch;
        let line = loop {
            let Event { kind, district, epoch: of, text, .. } = next(&mut self.events)?;
            if kind == EventKind::Log && district.as_ref() == Some(third) && of == epoch && text.starts_with(said) {
                break text;
            }
        };
        samples.add(self.p99()?);
        self.world.client.stop(third)?;
        Ok(line)
    }
}

/// Limits that can be met quickly; bindings, of which there are none, at once.
fn glutton() -> Result<Spec> {
    let mut glutton = spec("glutton", "glutton", &[])?;
    glutton.publishes.push("glutton".to_owned());
    glutton.limits = Limits {
        handles: Some(300),
        exports: Some(50),
        queued_bytes: Some(32 << 10),
        watches: Some(50),
        bindings: Some(0),
        frames_per_second: Some(20_000),
        calls: Some(20),
    };
    Ok(glutton)
}
