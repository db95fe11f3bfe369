//! `call/round-trip`, `send/64B` and `send/64KiB`: messages between two districts through the broker.
//!
//! Districts and plain processes take turns, a batch each. The caller measures itself, by its own clock, and says so in
//! its log.

use anyhow::{Context, Result};
use district::api::spec::Spec;

use crate::bare_sockets::BareSockets;
use crate::report::{Goal, Row};
use crate::samples::Samples;
use crate::world::{World, connect, spec, until_exit};

/// Calls of one batch.
const CALLS: usize = 500;
/// Round trips between the plain processes before they count.
const WARM_UP: usize = 100;
const SMALL: usize = 64;
const LARGE: usize = 64 << 10;

/// Calls with 64 bytes of data, answered with as many; the floor makes the same four hops.
pub fn calls(batches: usize) -> Result<Row> {
    let server = spec("pong", "pong", &[])?;
    let client = spec("ping", "ping", &[&CALLS.to_string(), &SMALL.to_string(), "pong", "samples"])?;
    let bare = BareSockets::through_broker()?;
    let (mut districts, mut floor) = (Samples::default(), Samples::default());
    in_turns(server, client, "pong", batches, |lines| {
        let samples = lines.iter().filter_map(|line| line.strip_prefix("ping_ns "));
        for nanoseconds in samples.flat_map(str::split_whitespace) {
            districts.add(nanoseconds.parse::<f64>()? / 1000.0);
        }
        bare.round_trips(WARM_UP, SMALL)?;
        floor.extend(bare.round_trips(CALLS, SMALL)?.into_iter().map(|nanoseconds| nanoseconds / 1000.0));
        Ok(())
    })?;
    Ok(Row::new("call/round-trip", "us", districts).floor(&floor).goal(Goal::Ratio(2.0)))
}

/// One-way messages of 64 bytes; the floor makes the same two hops.
pub fn small_sends(batches: usize, messages: usize) -> Result<Row> {
    let bare = BareSockets::through_broker()?;
    let (districts, floor) = sends(&bare, batches, messages, SMALL)?;
    Ok(Row::new("send/64B", "1/s", districts).floor(&floor).goal(Goal::AtLeast(300_000.0)))
}

/// One-way messages of 64 KiB; the floor is one hop: each byte is copied into the kernel and out of it.
pub fn large_sends(batches: usize, messages: usize) -> Result<Row> {
    let bare = BareSockets::direct()?;
    let (districts, floor) = sends(&bare, batches, messages, LARGE)?;
    let gigabytes = |rates: Samples| rates.scaled(LARGE as f64 / 1e9);
    Ok(Row::new("send/64KiB", "GB/s", gigabytes(districts)).floor(&gigabytes(floor)))
}

/// Messages per second, of the districts and of the plain processes.
fn sends(bare: &BareSockets, batches: usize, messages: usize, bytes: usize) -> Result<(Samples, Samples)> {
    let server = spec("sink", "sink", &[])?;
    let client = spec("source", "source", &[&messages.to_string(), &bytes.to_string()])?;
    let (mut districts, mut floor) = (Samples::default(), Samples::default());
    in_turns(server, client, "sink", batches, |lines| {
        let rate = lines.iter().find_map(|line| line.split_once("messages_per_s=")?.1.split_whitespace().next());
        districts.add(rate.with_context(|| format!("`source` says {lines:?}"))?.parse()?);
        floor.add(bare.rate(messages, bytes)?);
        Ok(())
    })?;
    Ok((districts, floor))
}

/// Starts a client of a server again and again, and hands over each time what it has logged. The first time is not
/// counted.
fn in_turns(
    mut server: Spec,
    mut client: Spec,
    service: &str,
    batches: usize,
    mut measure: impl FnMut(Vec<String>) -> Result<()>,
) -> Result<()> {
    let world = World::new()?;
    connect(&mut server, &mut client, service);
    let name = client.name.clone();
    let mut events = world.client.events(std::slice::from_ref(&name), true)?;
    world.client.start(vec![server, client])?;
    until_exit(&name, &mut events)?;
    for _ in 0..batches {
        measure(world.run(&name, &mut events)?.0)?;
    }
    Ok(())
}
