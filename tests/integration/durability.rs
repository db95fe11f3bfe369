//! What survives: committed notes, every number that was counted, names, numbers of checkpoints; and how a district whose
//! memory makes it fail gets out of that.

use std::time::Duration;

use district::api::event::{Event, EventKind};
use district::api::info::{CheckpointInfo, State};
use rustix::process::Signal;

use crate::dice::{Dice, number};
use crate::memory::{count_after, count_after_loss, counting};
use crate::signals::is_alive;
use crate::support::{Host, at_most, is_slow, needs_kvm, wait};

/// A policy under which whatever ends is there again at once.
pub const ALWAYS: &str = "restart = { policy = 'always', backoff = '1ms', backoff-max = '1ms', intensity = 100000 }";
/// How often crashes are tried where nothing is said.
const ROUNDS: u64 = 30;

/// `notes`, a `writer` that holds it to its word, and a `reader` that looks at all of it once when it is started.
pub fn noted(checkpoints: &str, writer: &str) -> String {
    format!(
        "[districts.notes]
         image = 'notes'
         publishes = ['notes']
         checkpoints = {checkpoints}
         {ALWAYS}
         grants = {{ log = 'host/log', checkpoint = 'host/checkpoint' }}
         [districts.writer]
         image = 'writer'
         arguments = [{writer}]
         restart = 'never'
         grants = {{ log = 'host/log', notes = 'notes/notes', clock = 'host/clock' }}
         [districts.reader]
         image = 'reader'
         restart = 'never'
         grants = {{ log = 'host/log', notes = 'notes/notes', clock = 'host/clock' }}\n"
    )
}

/// What `reader` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    pub count: u64,
    /// No note up to this one is missing.
    pub whole: u64,
    pub last: u64,
}

/// Reads all notes, all of which are as they were written.
pub fn read(host: &Host) -> Read {
    host.over("reader");
    let line = host.run_again("reader");
    let numbers: Vec<u64> = line.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
    let [count, whole, last] = numbers[..] else { panic!("{line:?}") };
    Read { count, whole, last }
}

/// All commits that the writer was told of: the last note in each, and its generation.
pub fn committed(host: &Host) -> Vec<(u64, u64)> {
    let lines = host.lines("writer");
    let commits = lines.iter().filter_map(|line| line.strip_prefix("committed ")?.split_once(" at generation "));
    commits.map(|(note, generation)| (note.parse().unwrap(), generation.parse().unwrap())).collect()
}

/// The last note that the writer was ever told to be durable; one that is restored does not remember all of it.
pub fn last_committed(host: &Host) -> u64 {
    committed(host).into_iter().map(|(note, _)| note).max().unwrap_or(0)
}

fn rounds() -> u64 {
    number("DISTRICT_ROUNDS").unwrap_or(if is_slow() { 6 } else { ROUNDS })
}

/// Lets some time pass of which nobody knows how much.
fn spin(dice: &mut Dice) {
    let spins = dice.roll(20_000_000);
    for spin in 0..spins {
        std::hint::black_box(spin);
    }
}

#[test]
fn what_is_committed_is_there_after_every_crash() {
    needs_kvm!();
    const EVERY: u64 = 7;
    let mut dice = Dice::new();
    let host = Host::with(&noted("{ every = '50ms' }", &format!("'1000000', '{EVERY}', '1'")));
    for round in 0..rounds() {
        let before = last_committed(&host);
        wait("more is committed", || (last_committed(&host) > before).then_some(()));
        spin(&mut dice);
        let least = last_committed(&host);
        host.kill("notes");
        let found = read(&host);
        let most = last_committed(&host) + EVERY + EVERY;
        assert!(found.whole >= least, "round {round}: {found:?}, committed {least}");
        assert!(found.last <= most, "round {round}: {found:?}, nothing above {most} was written");
    }
    // It looks itself each time.
    assert_eq!(host.running("writer").epoch, 1);
    let commits = committed(&host);
    assert!(commits.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1), "{commits:?}");
    host.ok(&["stop", "writer"]);
    let (least, found) = (last_committed(&host), read(&host));
    assert!(found.count == found.last || found.last - least <= EVERY, "{found:?}, committed {least}");
}

#[test]
fn a_ticker_finds_nothing_changed_however_often_it_is_restored() {
    needs_kvm!();
    let mut dice = Dice::new();
    let host = Host::with(&format!(
        "[districts.ticker]
         image = 'ticker'
         arguments = ['20']
         checkpoints = {{ every = '5ms' }}
         {ALWAYS}
         grants = {{ log = 'host/log', clock = 'host/clock' }}"
    ));
    let steps = |line: &str| -> u64 { line.split_whitespace().rev().nth(1).unwrap().parse().unwrap() };
    let mut last = 0;
    for round in 0..rounds() {
        let taken = host.checkpoint("ticker");
        wait("more checkpoints", || (host.checkpoint("ticker").generation > taken.generation + 2).then_some(()));
        spin(&mut dice);
        let seen = host.lines("ticker").len();
        host.kill("ticker");
        let restored = steps(&host.line_after("ticker", seen, "restored: "));
        assert!(restored > last, "round {round}: {restored} steps after {last}");
        last = restored;
        let end = host.info("ticker").last_end.unwrap().text;
        assert!(end.contains("signal: 9"), "round {round}: {end}");
    }
}

#[test]
fn c37_calls_of_a_checkpointed_server_that_is_killed_end_as_those_of_any_other() {
    needs_kvm!();
    let host = Host::with_daemon();
    host.start(&format!(
        "[districts.keeper]
         image = 'hoard'
         arguments = ['keep', '100']
         window = '256KiB'
         publishes = ['hoard']
         checkpoints = {{ every = '2ms' }}
         {ALWAYS}
         grants = {{ log = 'host/log' }}
         [districts.caller]
         image = 'hoard'
         arguments = ['call', '200']
         restart = 'never'
         grants = {{ log = 'host/log', hoard = 'keeper/hoard' }}"
    ));
    host.line("caller", "made 200 calls");
    host.line("keeper", "keeps 100");
    // Now the calls that it keeps are in a checkpoint, too.
    host.checkpoint("keeper");
    host.kill("keeper");
    host.over("caller");
    let outcomes = host.line("caller", "outcomes: ");
    assert_eq!(outcomes, "outcomes: NotDelivered(PeerRestart)=100 Unknown(PeerRestart)=100");
    // It has gone on, with calls that nobody waits for any more.
    host.running("keeper");
    assert_eq!(host.lines("keeper").iter().filter(|line| line.as_str() == "keeps up to 100").count(), 1);
}

#[test]
fn c38_a_watch_of_a_restored_server_says_once_that_it_is_down() {
    needs_kvm!();
    let host = Host::with(&format!(
        "{}
         [districts.watcher]
         image = 'suite'
         arguments = ['c38', 'counter']
         restart = 'never'
         grants = {{ log = 'host/log', counter = 'counter/counter' }}",
        counting("{ every = '5ms' }")
    ));
    for cookie in 1..6 {
        host.line("watcher", &format!("watching {cookie}"));
        host.checkpoint("counter");
        host.kill("counter");
        host.line("watcher", &format!("down {cookie} (Some(PeerRestart))"));
    }
    host.line("watcher", "watching 6");
    let lines = host.lines("watcher");
    assert_eq!(lines.iter().filter(|line| line.starts_with("down ")).count(), 5, "{lines:?}");
}

#[test]
fn c39_a_client_finds_a_restored_counter_and_its_count() {
    needs_kvm!();
    let host = Host::with(&counting("{ every = '5ms' }"));
    for _ in 0..5 {
        let count = count_after(&host, host.lines("client").len());
        host.checkpoint("counter");
        let seen = host.lines("client").len();
        host.kill("counter");
        assert!(count_after_loss(&host, seen) > count);
    }
    assert_eq!(host.info("client").epoch, 1);
}

#[test]
fn c40_checkpoints_go_on_under_the_next_daemon() {
    needs_kvm!();
    let mut host = Host::with(&counting("{ every = '5ms' }"));
    host.ok(&["snapshot", "counter", "--tag", "kept"]);
    let before = host.list();
    let snapshots = host.ok(&["snapshots", "--json"]);
    let mut generation = 0;
    let mut dice = Dice::new();
    for round in 0..6 {
        let count = count_after(&host, host.lines("client").len());
        spin(&mut dice);
        // Some checkpoint is always under way, or almost.
        host.end_daemon(Signal::KILL);
        for info in &before {
            assert!(is_alive(info.pid.unwrap()), "{info:?}");
        }
        host.start_daemon();
        let seen = host.lines("client").len();
        assert!(count_after(&host, seen) > count);
        for (old, new) in before.iter().zip(host.list()) {
            assert_eq!((&old.id, old.pid, old.epoch, 0), (&new.id, new.pid, new.epoch, new.restarts), "round {round}");
        }
        let taken = host.checkpoint("counter");
        assert!(taken.generation > generation, "round {round}: {taken:?} after {generation}");
        generation = taken.generation;
        assert_eq!(host.ok(&["snapshots", "--json"]), snapshots);
        let all = host.checkpoints("counter");
        assert!(all.windows(2).all(|pair| pair[0].generation < pair[1].generation), "{all:?}");
        assert!(all.iter().all(|info| info.epoch == 1), "{all:?}");
    }
    // What the last daemon was told of is what the next life goes on from.
    let count = count_after(&host, host.lines("client").len());
    host.checkpoint("counter");
    let seen = host.lines("client").len();
    host.kill("counter");
    assert!(count_after_loss(&host, seen) > count);
    assert_eq!(host.info("counter").epoch, 2);
}

#[test]
fn c40_one_that_went_back_and_was_taken_over_keeps_its_memory() {
    needs_kvm!();
    let mut host = Host::with(&counting("'on-demand'"));
    for _ in 0..4 {
        let old = host.checkpoint("counter");
        let count = count_after(&host, host.lines("client").len()) + 200;
        wait("it has gone on", || (count_after(&host, host.lines("client").len()) > count).then_some(()));
        host.checkpoint("counter");
        host.ok(&["stop", "client"]);
        let seen = host.lines("client").len();
        host.ok(&["restart", "counter", "--from", &old.generation.to_string()]);
        // Before its program begins, before it has a checkpoint of its own, or after it.
        host.end_daemon(Signal::KILL);
        host.start_daemon();
        for _ in 0..2 {
            host.running("counter");
            host.kill("counter");
        }
        host.ok(&["start", "client"]);
        let now = count_after(&host, seen);
        assert!(now <= count, "{now}, and it had gone back from {count}");
    }
}

/// The longest time for which the district stood still.
fn longest_pause(checkpoints: &[CheckpointInfo]) -> Duration {
    Duration::from_micros(checkpoints.iter().filter_map(|info| info.pause_us).max().unwrap())
}

#[test]
fn c48_no_message_is_lost_or_doubled_when_both_sides_are_checkpointed() {
    needs_kvm!();
    let messages = if is_slow() { 5_000 } else { 200_000 };
    let host = Host::with(&format!(
        "[districts.sink]
         image = 'sink'
         publishes = ['sink']
         checkpoints = {{ every = '10ms' }}
         [districts.source]
         image = 'source'
         arguments = ['{messages}', '64']
         checkpoints = {{ every = '10ms' }}
         restart = 'never'
         grants = {{ log = 'host/log', sink = 'sink/sink', clock = 'host/clock' }}"
    ));
    let mut all = Vec::new();
    wait("checkpoints and the end of the source", || {
        all.extend(host.checkpoints("sink").into_iter().filter(|info| info.pause_us.is_some()));
        host.info("source").state.is_over().then_some(())
    });
    let line = host.line("source", "source messages=");
    assert!(line.starts_with(&format!("source messages={messages} bytes=64 ")), "{line}");
    all.dedup_by_key(|info| info.generation);
    assert!(!all.is_empty() && host.checkpoint("sink").generation > 3, "{all:?}");
    let pause = longest_pause(&all);
    println!("longest pause {pause:?}; {line}");
    assert!(pause < at_most(Duration::from_millis(500)), "{pause:?}");
}

#[test]
fn c48_a_counter_that_is_checkpointed_all_the_time_counts_every_call_once() {
    needs_kvm!();
    let host = Host::with(&counting("{ every = '10ms' }"));
    let wanted = if is_slow() { 50 } else { 400 };
    wait("it counts", || (count_after(&host, host.lines("client").len()) > wanted).then_some(()));
    let counts: Vec<u64> =
        host.lines("client").iter().map(|line| line.strip_prefix("counter is at ").unwrap().parse().unwrap()).collect();
    assert!(counts.iter().zip(1..).all(|(count, wanted)| *count == wanted), "{counts:?}");
    assert!(host.checkpoint("counter").generation > 5);
    assert_eq!(host.info("counter").epoch, 1);
    println!("longest pause {:?}", longest_pause(&host.checkpoints("counter")));
}

#[test]
fn checkpoints_are_taken_when_the_manifest_says_so() {
    needs_kvm!();
    let host = Host::with_daemon();
    let district = |name: &str, checkpoints: &str| {
        format!(
            "[districts.{name}]
             image = 'ticker'
             arguments = ['20']
             checkpoints = {checkpoints}
             grants = {{ log = 'host/log', clock = 'host/clock' }}\n"
        )
    };
    host.start(
        &[
            district("every", "{ every = '5ms' }"),
            district("pages", "{ dirty-pages = 1 }"),
            district("demand", "'on-demand'"),
            district("none", "'none'"),
        ]
        .concat(),
    );
    for name in ["every", "pages", "demand", "none"] {
        host.line(name, " steps");
    }
    for name in ["every", "pages"] {
        wait(&format!("checkpoints of {name}"), || (host.checkpoints(name).len() > 1).then_some(()));
        let first = host.checkpoints(name).last().unwrap().generation;
        wait("further ones", || (host.checkpoints(name).last()?.generation > first + 2).then_some(()));
    }
    for name in ["demand", "none"] {
        assert_eq!(host.checkpoints(name), [], "{name}");
    }
    host.ok(&["stop", "demand", "none"]);
    assert_eq!(host.checkpoints("demand").len(), 1);
    assert_eq!(host.checkpoints("none"), []);
}

#[test]
fn one_that_is_checkpointed_every_millisecond_lives_on() {
    needs_kvm!();
    let host = Host::with(&counting("{ every = '1ms' }"));
    wait("many checkpoints", || {
        host.checkpoint("counter");
        (host.checkpoint("counter").generation > 300).then_some(())
    });
    assert_eq!(host.info("counter").epoch, 1);
}

#[test]
fn an_idle_district_is_checkpointed_once() {
    needs_kvm!();
    let host = Host::with("[districts.idle]\nimage = 'idle'\ncheckpoints = { every = '1ms' }");
    wait("a checkpoint", || (!host.checkpoints("idle").is_empty()).then_some(()));
    let first = host.checkpoint("idle").generation;
    for _ in 0..20 {
        assert_eq!(host.checkpoint("idle").generation, first);
    }
}

/// One that takes a checkpoint of itself and then fails, in each life at once; and so does its copy with fresh memory.
fn doomed(extra: &str, intensity: u32) -> String {
    format!(
        "[districts.doomed]
         image = 'suite'
         arguments = ['doomed']
         checkpoints = {{ every = '24h'{extra} }}
         restart = {{ policy = 'always', backoff = '1ms', backoff-max = '1ms', intensity = {intensity} }}
         grants = {{ log = 'host/log', checkpoint = 'host/checkpoint' }}"
    )
}

/// Which generations the lives of a district began from, until it failed for good.
fn beginnings(events: impl Iterator<Item = Event>) -> Vec<u64> {
    let mut found = Vec::new();
    for event in events {
        match event.kind {
            EventKind::Failed => return found,
            EventKind::Started => {
                let from = event.text.split_once("from generation ").map(|(_, from)| from.trim_end_matches(')'));
                found.push(from.map_or(0, |from| from.parse().unwrap()));
            }
            _ => {}
        }
    }
    panic!("the daemon ended: {found:?}");
}

#[test]
fn one_whose_checkpoint_makes_it_fail_begins_with_the_one_before_and_then_anew() {
    needs_kvm!();
    for (extra, then) in [(", cold-restart = true", 0), ("", 1)] {
        let host = Host::with_daemon();
        let events = host.events();
        host.start(&doomed(extra, 4));
        // It takes two checkpoints in its first life, and fails. Then the newest, the one before, and what it says there.
        let lives = beginnings(events.iter());
        assert_eq!((lives.len(), &lives[..4]), (5, &[0, 2, 1, then][..]), "{extra:?}: {lives:?}");
        let info = host.info("doomed");
        assert_eq!((info.state, info.restarts), (State::Failed, 4));
    }
}

#[test]
fn a_doomed_district_costs_its_neighbours_nothing() {
    needs_kvm!();
    let host = Host::with(&format!("{}\n{}", doomed(", cold-restart = true", 100_000), counting("{ every = '20ms' }")));
    host.until("doomed", "has failed often", |info| info.restarts > 20);
    let count = count_after(&host, host.lines("client").len());
    host.until("doomed", "has failed more often", |info| info.restarts > 30);
    assert!(count_after(&host, host.lines("client").len()) > count);
    host.ok(&["stop", "doomed"]);
    assert_eq!(host.info("doomed").state, State::Stopped);
    assert_eq!(host.info("counter").epoch, 1);
}
