//! What follows when a district or the daemon ends: policies, requests, epochs, and who finds whom again.

use std::time::Duration;

use district::api::event::{Event, EventKind};
use district::api::info::State;
use rustix::process::Signal;

use crate::signals::{handles_term, is_alive, send};
use crate::support::{Host, at_most, image, needs_kvm, text, wait};

/// A counter and its client, who calls every few milliseconds and logs what it is told.
pub const COUNTING: &str = "
    [districts.counter]
    image = 'counter'
    publishes = ['counter']
    grants = { log = 'host/log' }
    restart = { policy = 'on-failure', backoff = '10ms' }
    [districts.client]
    image = 'client'
    arguments = ['counter', '0', '5']
    grants = { log = 'host/log', counter = 'counter/counter' }
";

fn program(image: &str, arguments: &str, restart: &str) -> String {
    format!(
        "[districts.a]
         image = '{image}'
         arguments = [{arguments}]
         restart = {restart}
         grants = {{ log = 'host/log' }}"
    )
}

/// The count that the client logged last.
fn count(host: &Host) -> u64 {
    counts(host).pop().unwrap_or(0)
}

fn counts(host: &Host) -> Vec<u64> {
    let lines = host.lines("client");
    lines.iter().filter_map(|line| line.strip_prefix("counter is at ")?.parse().ok()).collect()
}

pub fn counted_beyond(host: &Host, least: u64) -> u64 {
    wait(&format!("the count is beyond {least}"), || Some(count(host)).filter(|count| *count > least))
}

#[test]
fn always_means_after_an_exit_with_0_too() {
    needs_kvm!();
    let host = Host::with_daemon();
    host.start(&program("hello", "", "{ policy = 'always', backoff = '1ms', backoff-max = '1ms', intensity = 1000 }"));
    let info = host.until("a", "is in its fourth life", |info| info.epoch >= 4);
    assert!(info.restarts >= 3, "{info:?}");
    host.line("a", "hello from epoch 3");
    host.ok(&["stop", "a"]);
    let end = host.info("a");
    assert_eq!((end.state, end.pid), (State::Stopped, None));
}

#[test]
fn on_failure_means_not_after_an_exit_with_0() {
    needs_kvm!();
    let policy = "{ policy = 'on-failure', backoff = '1ms', intensity = 2 }";
    for (arguments, epochs, state) in
        [("'exit', '0'", 1, State::Exited), ("'exit', '1'", 3, State::Failed), ("'ud2'", 3, State::Failed)]
    {
        let host = Host::with_daemon();
        host.start(&program("flaky", arguments, policy));
        let info = host.over("a");
        assert_eq!((info.epoch, info.state), (epochs, state), "{arguments}");
    }
}

#[test]
fn never_means_after_nothing() {
    needs_kvm!();
    for arguments in ["'exit', '0'", "'exit', '1'", "'ud2'"] {
        let host = Host::with_daemon();
        host.start(&program("flaky", arguments, "'never'"));
        let info = host.over("a");
        assert_eq!((info.epoch, info.state, info.restarts), (1, State::Exited, 0), "{arguments}");
    }
}

#[test]
fn the_back_off_grows_and_then_the_district_has_failed_until_somebody_starts_it() {
    needs_kvm!();
    let host = Host::with_daemon();
    let events = host.events();
    let policy = "{ policy = 'on-failure', backoff = '20ms', backoff-max = '70ms', intensity = 4, within = '1h' }";
    host.start(&program("flaky", "'exit', '3'", policy));
    for epoch in 1..=2u64 {
        let life: Vec<Event> = events.iter().take(15).collect();
        let kinds: Vec<EventKind> = life.iter().map(|event| event.kind).collect();
        let mut wanted = [EventKind::Started, EventKind::Exited, EventKind::Restarting].repeat(5);
        wanted[14] = EventKind::Failed;
        assert_eq!(kinds, wanted);
        let waits: Vec<&str> = life.iter().skip(2).step_by(3).take(4).map(|event| event.text.as_str()).collect();
        let wanted = [20, 40, 70, 70].map(|wait| format!("restarting in {wait} ms"));
        assert_eq!(waits, wanted);
        assert_eq!(life[14].text, "failed: 4 restarts within 3600 s were not enough; `district start a` tries again");
        let info = host.info("a");
        assert_eq!((info.state, info.epoch, info.restarts), (State::Failed, epoch * 5, 4));
        host.ok(&["start", "a"]);
    }
}

#[test]
fn up_ends_with_1_when_a_district_has_failed() {
    needs_kvm!();
    let host = Host::new();
    let path = host.manifest(&program("flaky", "'exit', '3'", "{ policy = 'always', backoff = '1ms', intensity = 1 }"));
    let ran = host.run(&["up", &path]);
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    assert!(ran.err.ends_with("failed for good: a\n"), "{}", ran.err);
    assert_eq!(ran.out.matches("exited with code 3: as asked").count(), 2, "{}", ran.out);
}

#[test]
fn a_restart_on_request_is_a_new_epoch_of_the_same_district() {
    needs_kvm!();
    let host = Host::with("[districts.a]\nimage = 'idle'\nrestart = 'never'");
    let first = host.info("a");
    assert_eq!(host.ok(&["restart", "a"]), "a  starting (epoch 2)\n");
    let second = host.running("a");
    assert_eq!((second.id.as_str(), second.epoch, second.restarts), (first.id.as_str(), 2, 0));
    assert_ne!(first.pid, second.pid);
    wait("the first process is gone", || (!is_alive(first.pid?)).then_some(()));
}

#[test]
fn c39_a_client_finds_the_counter_again() {
    needs_kvm!();
    let host = Host::with(COUNTING);
    counted_beyond(&host, 3);
    let client = host.info("client");
    for epoch in 2..5 {
        let seen = host.lines("client").len();
        host.kill("counter");
        // A new life, a new count.
        let line = host.lines_after("client", seen, &["looking it up again", "counter is at "]);
        assert_eq!(line, "counter is at 1");
        let counter = host.running("counter");
        assert_eq!(counter.epoch, epoch);
    }
    let now = host.info("client");
    assert_eq!((now.pid, now.epoch), (client.pid, client.epoch));
}

#[test]
fn c40_districts_live_on_when_the_daemon_dies() {
    needs_kvm!();
    let mut host = Host::with(&format!(
        "{COUNTING}
         [districts.witness]
         image = 'witness'
         grants = {{ log = 'host/log', counter = 'counter/counter' }}"
    ));
    host.line("witness", "counter has version 1 and handle ");
    let mut reached = counted_beyond(&host, 3);
    let before = host.list();
    for session in 2..5 {
        host.end_daemon(Signal::KILL);
        for info in &before {
            assert!(is_alive(info.pid.unwrap()), "{info:?}");
        }
        host.start_daemon();
        // The counter's memory, and so its count, is that of before.
        reached = counted_beyond(&host, reached + 3);
        host.line("witness", &format!("lost (Unreachable) in epoch 1 session {session} for Some(BrokerRestart)"));
        host.line("witness", &format!("counter has version {session} and handle "));
        for (old, new) in before.iter().zip(host.list()) {
            assert_eq!((&old.id, old.pid, old.epoch), (&new.id, new.pid, new.epoch));
            assert_eq!((new.state, new.restarts), (State::Running, 0), "{new:?}");
        }
    }
    let counts = counts(&host);
    assert!(counts.is_sorted_by(|a, b| a < b), "{counts:?}");
    let witness = host.lines("witness");
    let said = |part: &str| witness.iter().filter(|line| line.as_str() == part).count();
    assert_eq!(said("handle 1: None"), 3, "{witness:?}");
    assert_eq!(
        said("old handle: Some(Broken(Unreachable))") + said("old handle: Some(Broken(SelfRestart))"),
        3,
        "{witness:?}"
    );
    // No handle was issued twice.
    let mut handles: Vec<&String> = witness.iter().filter(|line| line.contains(" and handle ")).collect();
    handles.sort();
    handles.dedup_by_key(|line| line.rsplit(' ').next().unwrap().to_owned());
    assert_eq!(handles.len(), 4, "{witness:?}");
}

#[test]
fn a_daemon_that_ends_can_leave_its_districts_running() {
    needs_kvm!();
    let mut host = Host::new();
    let first = host.spawn(&["daemon", "--leave-running"]);
    wait("the daemon answers", || host.client());
    host.start(COUNTING);
    let reached = counted_beyond(&host, 3);
    let pid = host.info("counter").pid.unwrap();
    send(first, Signal::TERM);
    assert_eq!(host.end_of(first).code(), Some(0));
    assert!(is_alive(pid));
    host.start_daemon();
    counted_beyond(&host, reached + 3);
    assert_eq!(host.info("counter").pid, Some(pid));
}

/// Whether the first thread of this process waits for something (proc(5), `/proc/PID/stat`, field 3).
fn sleeps(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('S')
}

#[test]
fn what_ended_while_no_daemon_was_there_is_known_to_the_next_one() {
    needs_kvm!();
    let mut host = Host::with_daemon();
    host.start(&format!(
        "{}
         [districts.b]
         image = 'idle'
         [districts.c]
         image = 'idle'
         restart = 'never'",
        // Time enough to end the daemon before.
        program("flaky", &format!("'ud2', 'after', '{}'", at_most(Duration::from_secs(2)).as_millis()), "'never'")
    ));
    let pids = ["a", "b", "c"].map(|name| host.running(name).pid.unwrap());
    host.line("a", "going to fail");
    host.end_daemon(Signal::KILL);
    for pid in &pids[1..] {
        send(*pid, Signal::KILL);
    }
    // The one that ends by itself keeps its report until somebody takes it.
    let guest_runs = || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", pids[0])).unwrap();
        let mut names = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok());
        names.any(|name| name == "vcpu\n")
    };
    assert!(guest_runs());
    wait("its guest has ended", || (!guest_runs()).then_some(()));
    // It waits without computing.
    wait("it sleeps", || (0..20).all(|_| sleeps(pids[0])).then_some(()));
    host.start_daemon();
    let a = host.over("a");
    assert!(a.last_end.unwrap().text.starts_with("invalid instruction (vector 6"));
    assert_eq!((a.state, a.epoch), (State::Exited, 1));
    assert_eq!(host.running("b").epoch, 2);
    let c = host.over("c");
    assert_eq!((c.state, c.epoch), (State::Exited, 1));
}

#[test]
fn c43_a_look_up_waits_for_an_owner_that_is_down() {
    needs_kvm!();
    let host = Host::with(
        "[districts.counter]
         image = 'counter'
         publishes = ['counter']
         grants = { log = 'host/log' }
         [districts.witness]
         image = 'witness'
         grants = { log = 'host/log', counter = 'counter/counter' }",
    );
    host.line("witness", "counter has version 1 ");
    host.ok(&["stop", "witness", "counter"]);
    let seen = host.lines("witness").len();
    host.ok(&["start", "witness"]);
    assert_eq!(host.line_after("witness", seen, "counter"), "counter is not to be had: NotReady");
    host.ok(&["start", "counter"]);
    host.line_after("witness", seen, "counter has version 2 ");
}

#[test]
fn a_daemon_that_is_asked_to_end_stops_all_and_the_next_one_starts_them_again() {
    needs_kvm!();
    let mut host = Host::with(
        "[districts.a]
         image = 'idle'
         [districts.b]
         image = 'idle'
         restart = 'never'
         [districts.c]
         image = 'idle'
         [districts.spin]
         image = 'flaky'
         arguments = ['spin']",
    );
    host.ok(&["stop", "c"]);
    let pids: Vec<u32> = host.list().into_iter().filter_map(|info| info.pid).collect();
    assert_eq!(pids.len(), 3);
    assert_eq!(host.end_daemon(Signal::TERM).code(), Some(0));
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "{pids:?}");
    host.start_daemon();
    for name in ["a", "spin"] {
        assert_eq!(host.running(name).epoch, 2);
    }
    let (b, c) = (host.info("b"), host.info("c"));
    assert_eq!((c.state, c.epoch), (State::Stopped, 1));
    // Its policy says that only a person starts it.
    assert_eq!((b.state, b.epoch), (State::Exited, 1));
}

#[test]
fn two_daemons_on_one_directory_are_refused() {
    needs_kvm!();
    let mut host = Host::with_daemon();
    let second = host.run(&["daemon"]);
    assert_eq!(second.code(), Some(1));
    let wanted = format!("error: a daemon is running at {} already\n", host.path().display());
    assert_eq!(second.err, wanted);
    assert!(host.daemon_lives());
    // Ones that do not see each other yet: one of them gets the directory.
    host.end_daemon(Signal::KILL);
    let all: Vec<u32> = (0..3).map(|_| host.spawn(&["daemon"])).collect();
    wait("one of them answers", || host.client());
    let lives = |host: &mut Host| all.iter().filter(|pid| is_alive(**pid) && host.client().is_some()).count();
    wait("two have given up", || (lives(&mut host) == 1).then_some(()));
    host.start("[districts.a]\nimage = 'idle'");
    host.running("a");
}

#[test]
fn stopping_one_that_waits_for_its_restart_cancels_that() {
    needs_kvm!();
    let host = Host::with_daemon();
    host.start(&program("flaky", "'exit', '3'", "{ policy = 'always', backoff = '10min', backoff-max = '1h' }"));
    host.until("a", "waits", |info| info.state == State::BackingOff);
    assert_eq!(host.ok(&["stop", "a"]), "a  stopped (epoch 1)\n");
    host.ok(&["start", "a"]);
    host.until("a", "has had its second life", |info| info.state == State::BackingOff && info.epoch == 2);
    assert_eq!(host.ok(&["restart", "a"]), "a  starting (epoch 3)\n");
    host.until("a", "has had its third life", |info| info.state == State::BackingOff && info.epoch == 3);
    host.ok(&["stop", "a"]);
    host.ok(&["remove", "a"]);
    assert!(host.list().is_empty());
}

#[test]
fn a_stop_takes_no_longer_than_a_second() {
    needs_kvm!();
    let host = Host::with(COUNTING);
    counted_beyond(&host, 1);
    for name in ["client", "counter"] {
        let quickest = host.quickest_stop(name);
        assert!(quickest < at_most(Duration::from_secs(1)), "{name}: {quickest:?}");
        assert_eq!(host.last_words(name), "stopped");
    }
}

#[test]
fn run_at_a_daemon_leaves_nothing_there() {
    needs_kvm!();
    let mut host = Host::with_daemon();
    let program = image("hello");
    assert_eq!(host.ok(&["run", text(&program), "--", "x"]), "hello from epoch 1\nargument: x\n");
    assert!(host.list().is_empty());
    let program = image("idle");
    let run = host.spawn(&["run", text(&program)]);
    wait("it runs", || host.list().iter().any(|info| info.state == State::Running).then_some(()));
    send(run, Signal::INT);
    assert_eq!(host.end_of(run).code(), Some(130));
    assert!(host.list().is_empty());
}

#[test]
fn up_at_a_daemon_can_be_killed_and_its_districts_go_on() {
    needs_kvm!();
    let mut host = Host::with_daemon();
    let path = host.manifest(COUNTING);
    let up = host.spawn(&["up", &path]);
    wait("they are known", || (host.list().len() == 2).then_some(()));
    let reached = counted_beyond(&host, 1);
    send(up, Signal::KILL);
    host.end_of(up);
    counted_beyond(&host, reached + 5);
    let up = host.spawn(&["up", &path]);
    wait("it handles signals", || handles_term(up).then_some(()));
    counted_beyond(&host, count(&host) + 5);
    send(up, Signal::TERM);
    assert_eq!(host.end_of(up).code(), Some(130));
    assert!(host.list().iter().all(|info| info.state == State::Stopped && info.epoch == 1), "{:?}", host.list());
}

#[test]
fn a_removed_district_and_one_that_gets_its_name_have_nothing_in_common() {
    needs_kvm!();
    let manifest = "[districts.a]\nimage = 'idle'";
    let host = Host::with(manifest);
    let refused = host.run(&["remove", "a"]);
    assert!(refused.code() == Some(1) && refused.err.contains("stop it first"), "{refused:?}");
    host.ok(&["restart", "a"]);
    let first = host.running("a");
    host.ok(&["stop", "a"]);
    host.ok(&["remove", "a"]);
    host.start(manifest);
    let second = host.running("a");
    assert_eq!((first.epoch, second.epoch), (2, 1));
    assert_ne!(first.id, second.id);
}

#[test]
fn requests_that_contradict_each_other_are_all_answered() {
    needs_kvm!();
    let host = Host::with(COUNTING);
    let requests = ["stop", "start", "restart", "ps", "inspect", "logs", "restart", "stop", "start"];
    std::thread::scope(|scope| {
        for offset in 0..4 {
            let host = &host;
            scope.spawn(move || {
                for turn in 0..8 {
                    let request = requests[(turn * 4 + offset) % requests.len()];
                    let ran = if request == "ps" { host.run(&["ps"]) } else { host.run(&[request, "counter"]) };
                    assert!(ran.status.success(), "{request}: {ran:?}");
                }
            });
        }
    });
    host.run(&["start", "counter"]);
    host.running("counter");
    let seen = host.lines("client").len();
    host.line_after("client", seen, "counter is at ");
}
