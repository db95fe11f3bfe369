//! `start/fresh`: from a request to a running daemon until the first instruction of a program in a vmm process that has
//! had no district before: the one that the daemon keeps in stock, which it has had time to make.
//!
//! The clock starts before the connection to the API's socket is made. It stops with what the guest's clock shows when
//! the program `first` looks at it, before it does anything else; that includes the SDK's way to the program's main
//! function. Guest and host read the same counter, so no message has to come back for it.
//!
//! `start/unprepared` is the same without a process in stock.
//!
//! The floor is what no start can do without: one virtual machine, with memory and a vCPU, that executes an instruction,
//! and one process that is made, executes a program that does nothing, and is waited for.

use std::fs::{read_dir, read_to_string};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use district::api::client::Events;
use district::api::event::EventKind;
use district::api::name::Name;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::bare_machine::BareMachine;
use crate::bare_process::BareProcess;
use crate::report::{Goal, Row};
use crate::samples::Samples;
use crate::world::{World, name, next, spec, until_exit};

/// What the daemon and the system have left to do after the end of a district is done by then; it is part of no time.
const PAUSE: Duration = Duration::from_millis(10);

pub fn run(rounds: usize) -> Result<Vec<Row>> {
    let machine = BareMachine::new()?;
    let process = BareProcess::new()?;
    let world = World::new()?;
    let district = name("first")?;
    let mut events = world.client.events(std::slice::from_ref(&district), false)?;
    world.client.start(vec![spec("first", "first", &[])?])?;
    until_exit(&district, &mut events)?;

    let [mut first, mut answer, mut started, mut machines, mut processes] = [(); 5].map(|()| Samples::default());
    let mut unprepared = Samples::default();
    for _ in 0..rounds {
        empty_stock(&world)?;
        sleep(PAUSE);
        let asked = now();
        world.client.start_existing(&district)?;
        unprepared.add(first_instruction(&district, &mut events)?.saturating_sub(asked) as f64 / 1000.0);
        sleep(PAUSE);

        let (asked, begin) = (now(), Instant::now());
        world.client.start_existing(&district)?;
        answer.add(microseconds(begin));
        while next(&mut events)?.kind != EventKind::Started {}
        started.add(microseconds(begin));
        first.add(first_instruction(&district, &mut events)?.saturating_sub(asked) as f64 / 1000.0);
        sleep(PAUSE);

        let begin = Instant::now();
        let ended = machine.run()?;
        machines.add(microseconds(begin));
        drop(ended);
        let begin = Instant::now();
        process.run()?;
        processes.add(microseconds(begin));
    }
    let floor = machines.plus(&processes);
    Ok(vec![
        Row::new("start/fresh", "us", first).floor(&floor).goal(Goal::Ratio(1.5)).goal(Goal::AtMost(3000.0)),
        Row::new("start/unprepared", "us", unprepared).floor(&floor),
        Row::new("start/answer", "us", answer),
        Row::new("start/event", "us", started),
        Row::new("start/floor-machine", "us", machines),
        Row::new("start/floor-process", "us", processes),
    ])
}

/// When the program `first` began, in nanoseconds since 1970, after it has ended.
fn first_instruction(district: &Name, events: &mut Events<'_>) -> Result<u64> {
    let (_, message) = until_exit(district, events)?;
    message.parse().with_context(|| format!("`first` says {message:?}"))
}

/// Ends the vmm process that the daemon has in stock, so that the next start has to make one. No district runs.
fn empty_stock(world: &World) -> Result<()> {
    let path = format!("/proc/{0}/task", world.daemon());
    for thread in read_dir(&path).context(path)? {
        let children = read_to_string(thread?.path().join("children"))?;
        for pid in children.split_whitespace() {
            let pid = pid.parse().ok().and_then(Pid::from_raw).context("a process number")?;
            let spare = pidfd_open(pid, PidfdFlags::empty())?;
            pidfd_send_signal(&spare, Signal::KILL)?;
            poll(&mut [PollFd::new(&spare, PollFlags::IN)], None)?;
        }
    }
    Ok(())
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn microseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}
