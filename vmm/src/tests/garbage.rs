//! Programs that make no sense at all, one after the other for as long as one likes.

use std::collections::BTreeMap;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::random::{Case, Random};
use super::{Guest, Host, program};
use crate::report::Ended;

/// How long it goes on if `DISTRICT_TORTURE_SECONDS` does not say, and then not before there were so many programs.
const SECONDS: u64 = 4;
const PROGRAMS: u32 = 100;
/// How long a program may run before it is stopped. Nearly all end by themselves within a millisecond, or never.
const PATIENCE: Duration = Duration::from_millis(20);
/// The same for a program that must end, and for one that was stopped, on any host.
const LONG: Duration = Duration::from_secs(60);

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number")))
}

/// Runs a program until it ends, or stops it.
fn end_of(host: &Host, code: &[u8], patience: Duration) -> Ended {
    let (report, reports) = channel();
    let Guest { mut machine, handle, .. } = Guest::new(&host.start(), &program(code).file());
    let thread = std::thread::spawn(move || {
        // The receiver waits until the thread has ended.
        report.send(machine.run()).unwrap();
    });
    let ended = match reports.recv_timeout(patience) {
        Err(RecvTimeoutError::Timeout) => {
            // Gone already: the report is on its way.
            let _ = handle.stop(&thread);
            reports.recv_timeout(LONG).unwrap()
        }
        ended => ended.unwrap(),
    };
    thread.join().unwrap();
    ended
}

/// Wild memory and device accesses, attempts at triple faults, endless loops and plain noise, which no host should mind.
/// `DISTRICT_SEED` is the number of the first program, from which those of all others follow.
#[test]
fn c41_random_programs_end_in_a_report_or_are_stopped() {
    let Some(host) = Host::get() else { return };
    let time = || u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap();
    let mut seed = number("DISTRICT_SEED").unwrap_or_else(time);
    let duration = Duration::from_secs(number("DISTRICT_TORTURE_SECONDS").unwrap_or(SECONDS));
    println!("DISTRICT_SEED={seed}");
    let (begin, mut programs) = (Instant::now(), 0);
    let mut ends = BTreeMap::new();
    while begin.elapsed() < duration || programs < PROGRAMS {
        let Case { name, code, expected } = Case::new(host, seed);
        let ended = end_of(host, &code, if expected.is_certain_end() { LONG } else { PATIENCE });
        assert!(expected.allows(&ended), "DISTRICT_SEED={seed}: {name}: {ended:x?}, not {expected:x?}");
        let end = match ended {
            Ended::Fault(fault) => format!("vector {}", fault.vector),
            Ended::Exit { .. } => "exit".into(),
            Ended::Stopped | Ended::Failed { .. } => "stopped".into(),
        };
        *ends.entry((name, end)).or_insert(0u32) += 1;
        seed = Random(seed).next();
        programs += 1;
    }
    println!("{programs} programs in {:?}: {ends:?}", begin.elapsed());
}
