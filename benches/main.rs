//! The benchmarks, each beside what the same work costs with nothing around it (the floor), measured in the same run, in
//! turns. `scripts/bench` runs them; `docs/performance.md` says what they mean and what came out.
//!
//! A benchmark that misses its goal says so and is no error; an error is when something breaks.

mod bare_machine;
mod bare_process;
mod bare_sockets;
mod checkpoint;
mod copies;
mod disk;
mod idle;
mod messages;
mod neighbour;
mod pages;
mod process;
mod report;
mod restore;
mod samples;
mod slow_down;
mod start;
mod world;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use report::Row;

/// Measures districts.
#[derive(Debug, Parser)]
#[command(name = "scripts/bench")]
struct Arguments {
    /// Which benchmarks: beginnings of names, like `call` or `send/64B`; none given: all
    names: Vec<String>,
    /// Write the results to this file, too, as one JSON array
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Take few samples, to see that everything runs
    #[arg(long)]
    quick: bool,
    /// Cargo says this to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let result = match bare_sockets::role() {
        Some(role) => bare_sockets::play(&role),
        None => measure(&Arguments::parse()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done about a closed standard error.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A name, and what takes its samples, few or many.
type Benchmark = (&'static str, fn(bool) -> Result<Vec<Row>>);

const BENCHMARKS: [Benchmark; 16] = [
    ("start/fresh", |quick| start::run(if quick { 10 } else { 300 })),
    ("call/round-trip", |quick| Ok(vec![messages::calls(if quick { 2 } else { 20 })?])),
    ("send/64B", |quick| {
        let (batches, count) = if quick { (2, 5_000) } else { (20, 100_000) };
        Ok(vec![messages::small_sends(batches, count)?])
    }),
    ("send/64KiB", |quick| {
        let (batches, count) = if quick { (2, 200) } else { (20, 5_000) };
        Ok(vec![messages::large_sends(batches, count)?])
    }),
    ("neighbour/p99", |quick| neighbour::run(if quick { 2 } else { 30 })),
    ("memory/vmm", idle::vmm_memory),
    ("memory/daemon", |quick| Ok(vec![idle::daemon_memory(quick)?])),
    ("idle/200", |quick| Ok(vec![idle::idle_time(quick)?])),
    ("checkpoint/64-pages", |quick| checkpoint::small(if quick { 3 } else { 100 })),
    ("checkpoint/10000-pages", |quick| checkpoint::large(if quick { 1 } else { 12 })),
    ("checkpoint/nothing-dirty", |quick| checkpoint::nothing(if quick { 3 } else { 200 })),
    ("restore/256MiB", |quick| restore::run(restore::SMALL, 256 << 20, if quick { 2 } else { 25 })),
    ("restore/1GiB", |quick| restore::run(restore::LARGE, 1 << 30, if quick { 1 } else { 25 })),
    ("clone/64MiB", |quick| restore::clones(if quick { 2 } else { 40 })),
    ("slow-down/10-per-s", |quick| {
        let rounds = if quick { 1 } else { 5 };
        let names = ["slow-down/10-per-s", "slow-down/100-per-s"];
        let mut rows = slow_down::run(names, 64, Some([5.0, 30.0]), rounds)?;
        let names = ["slow-down/10-per-s-1024-pages", "slow-down/100-per-s-1024-pages"];
        rows.extend(slow_down::run(names, 1024, None, rounds.div_ceil(2))?);
        Ok(rows)
    }),
    ("disk/100-clones", |quick| copies::run(if quick { 3 } else { 100 })),
];

fn measure(arguments: &Arguments) -> Result<()> {
    let names = &arguments.names;
    for name in names {
        let known = BENCHMARKS.iter().any(|(benchmark, _)| benchmark.starts_with(name.as_str()));
        let all = BENCHMARKS.map(|(benchmark, _)| benchmark).join(", ");
        ensure!(known, "no benchmark begins with `{name}`; there are {all}");
    }
    let mut rows = Vec::new();
    for (benchmark, run) in BENCHMARKS {
        if names.is_empty() || names.iter().any(|name| benchmark.starts_with(name.as_str())) {
            // To see how far it is; nobody need be there.
            let _ = writeln!(std::io::stderr(), "measuring {benchmark}");
            rows.extend(run(arguments.quick).with_context(|| benchmark.to_owned())?);
        }
    }
    report::write_table(&rows, &mut std::io::stdout())?;
    if let Some(path) = &arguments.json {
        let text = format!("{:#}\n", report::json(&rows));
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}
