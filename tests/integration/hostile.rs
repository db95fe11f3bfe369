//! Programs that do what they must not. Only their own district ends, and whoever is beside them notices nothing.

use std::time::Duration;

use district::api::info::State;
use rustix::process::Signal;

use crate::signals::send;
use crate::support::{Host, at_most, count_of, needs_kvm};

/// Two districts that call each other all the time, fifty calls a round.
pub const NEIGHBOURS: &str = "
    [districts.pong]
    image = 'pong'
    publishes = ['pong']
    [districts.neighbour]
    image = 'hoard'
    arguments = ['rounds', '50', 'pong']
    grants = { log = 'host/log', pong = 'pong/pong' }
";

/// Neighbours, and what they were like.
pub struct Neighbours {
    pub host: Host,
    pids: Vec<Option<u32>>,
}

impl Neighbours {
    pub fn new() -> Neighbours {
        let host = Host::with(NEIGHBOURS);
        host.line("neighbour", "Replied=50");
        let pids = ["pong", "neighbour"].map(|name| host.info(name).pid).to_vec();
        Neighbours { host, pids }
    }

    /// They go on, in the same life, and every call was answered.
    pub fn go_on(&mut self, rounds: usize) {
        let seen = self.host.lines("neighbour").len();
        for round in 0..rounds {
            self.host.line_after("neighbour", seen + 2 * round, "Replied=50");
        }
        let lines = self.host.lines("neighbour");
        let wrong: Vec<_> =
            lines.iter().filter(|line| line.contains("round") && !line.ends_with(": Replied=50")).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(["pong", "neighbour"].map(|name| self.host.info(name).pid).to_vec(), self.pids);
        assert!(self.host.daemon_lives());
    }
}

/// A district that fails.
pub fn flaky(name: &str, how: &str) -> String {
    format!(
        "[districts.{name}]
         image = 'flaky'
         arguments = [{how}]
         memory = '4MiB'
         restart = 'never'
         grants = {{ log = 'host/log', clock = 'host/clock' }}\n"
    )
}

/// What ends a `flaky`: how it is told to fail, and two parts of the report.
pub const WAYS: [(&str, &str, &str); 15] = [
    ("null", "page fault (vector 14, error code 0x4) at rip 0x4", ", address 0x0"),
    ("fault", "page fault (vector 14, error code 0x6) at rip 0x4", ", address 0xdead000"),
    ("wild", "page fault (vector 14, error code 0x7) at rip 0x4", ", address 0x4000"),
    ("read-system", "page fault (vector 14, error code 0x5) at rip 0x4", ", address 0x40000000"),
    ("write-code", "page fault (vector 14, error code 0x7) at rip 0x4", ", address 0x400"),
    ("run-data", "page fault (vector 14, error code 0x15) at rip 0x4", ", address 0x4"),
    ("stack", "page fault (vector 14, error code 0x6) at rip 0x4", ", address 0x4"),
    ("ud2", "invalid instruction (vector 6, error code 0x0) at rip 0x4", ", rsp 0x4"),
    ("div0", "division error (vector 0, error code 0x0) at rip 0x4", ", rsp 0x4"),
    ("hlt", "general protection fault (vector 13, error code 0x0) at rip 0x4", ", rsp 0x4"),
    ("shim", "unknown shim call (vector 3, error code 0x0) at rip 0x4", ", rsp 0x4"),
    ("heap", "exited with code 101: memory allocation of ", " bytes failed at "),
    ("panic", "exited with code 101: as asked at ", "flaky.rs:"),
    ("error", "exited with code 1: ", "no such operation"),
    ("exit", "exited with code 1: ", "as asked"),
];

#[test]
fn c41_whatever_a_program_does_only_its_district_ends() {
    needs_kvm!();
    let mut neighbours = Neighbours::new();
    neighbours.host.start(&WAYS.map(|(how, ..)| flaky(how, &format!("'{how}'"))).concat());
    for (how, first, then) in WAYS {
        let info = neighbours.host.over(how);
        let said = info.last_end.unwrap().text;
        assert!(said.starts_with(first) && said.contains(then), "{how}: {said}");
        assert_eq!((info.state, info.epoch, info.pid), (State::Exited, 1, None), "{how}");
    }
    neighbours.go_on(3);
}

#[test]
fn c41_a_caller_of_one_that_faults_learns_of_it_at_once() {
    needs_kvm!();
    let host = Host::with_daemon();
    let mut manifest = flaky("flaky", "'null', 'on', 'call'");
    manifest.push_str("publishes = ['flaky']");
    manifest = manifest.replace("grants", "\ngrants").replace("publishes", "\npublishes");
    host.start(&format!(
        "{manifest}
         [districts.caller]
         image = 'hoard'
         arguments = ['call', '10', 'flaky']
         restart = 'never'
         grants = {{ log = 'host/log', flaky = 'flaky/flaky' }}"
    ));
    host.over("caller");
    let outcomes = host.line("caller", "outcomes: ");
    // It consumed one call and saw none of the others; some of them may have come too late to be sent at all.
    assert_eq!(count_of(&outcomes, "Unknown(PeerRestart)"), 1, "{outcomes}");
    let unseen = count_of(&outcomes, "NotDelivered(PeerRestart)") + count_of(&outcomes, "Broken(PeerRestart)");
    assert_eq!(unseen, 9, "{outcomes}");
    assert!(host.over("flaky").last_end.unwrap().text.contains("address 0x0"));
}

#[test]
fn c41_an_endless_loop_is_stopped_within_a_second() {
    needs_kvm!();
    let mut neighbours = Neighbours::new();
    neighbours.host.start(&flaky("spin", "'spin'"));
    neighbours.host.line("spin", "going to fail: spin");
    neighbours.go_on(3);
    let quickest = neighbours.host.quickest_stop("spin");
    assert!(quickest < at_most(Duration::from_secs(1)), "{quickest:?}");
    assert_eq!(neighbours.host.last_words("spin"), "stopped");
    neighbours.go_on(1);
}

#[test]
fn c42_garbage_in_its_queues_is_its_own_trouble() {
    needs_kvm!();
    let mut neighbours = Neighbours::new();
    neighbours.host.start(&flaky("garbage", "'badqueue'"));
    // It gets one connection after another, and other garbage in each life.
    for epoch in 2..6 {
        let seen = neighbours.host.lines("garbage").len();
        neighbours.host.line_after("garbage", seen, "(from the host: the device needs a reset: ");
        neighbours.host.line_after("garbage", seen, "connection ");
        neighbours.go_on(3);
        neighbours.host.ok(&["restart", "garbage"]);
        neighbours.host.until("garbage", "runs again", |info| info.epoch == epoch && info.state == State::Running);
    }
    neighbours.go_on(3);
    assert_eq!(neighbours.host.ok(&["stop", "garbage"]), "garbage  stopped (epoch 5)\n");
    neighbours.go_on(1);
}

/// What the host says of each case of a group of `crooked`, in this order. It says nothing of the group `places`.
pub const CROOKED: [(&str, &[&str]); 7] = [
    (
        "loops",
        &[
            "queue 0: descriptor 0 is already in use",
            "queue 0: descriptor 1 is already in use",
            "queue 0: descriptor 0 is already in use",
            "queue 0: descriptor 0 is already in use",
            "queue 0: descriptor 1023 is already in use",
        ],
    ),
    (
        "addresses",
        &[
            "queue 0: descriptor 1: 64 bytes at 0x0 are outside the window",
            "queue 0: descriptor 1: 64 bytes at 0x40010000 are outside the window",
            "queue 0: descriptor 0: 128 bytes at 0x10000000 are outside the window",
            "queue 0: descriptor 0: 128 bytes at 0x1fffffff are outside the window",
            "queue 0: descriptor 1: 65 bytes at 0x207fffc0 are outside the window",
            "queue 0: descriptor 0: 0 bytes at 0x20800001 are outside the window",
            "queue 0: descriptor 1: 64 bytes at 0xffffffffffffffc1 are outside the window",
        ],
    ),
    (
        "overlaps",
        &["queue 0: available index jumped", "queue 0: descriptor 0: 64 bytes at 0x10000 are outside the window"],
    ),
    (
        "lengths",
        &[
            "queue 0: descriptor 0: 4294967295 bytes at 0x20000000 are outside the window",
            "queue 0: chain 0 is longer than 4 GiB",
            "queue 0: request of 65665 bytes",
            "queue 0: room of 63 bytes for a completion",
            "queue 0: room of 0 bytes for a completion",
            "queue 0: descriptor 1 is readable and follows a writable one",
            "queue 0: descriptor 1 has flags 0x4",
        ],
    ),
    (
        "entries",
        &[
            "queue 0: descriptor 1024 is out of range",
            "queue 0: descriptor 65535 is out of range",
            "queue 0: descriptor 1024 is out of range",
            "queue 0: available index jumped",
            "queue 0: available index jumped",
            "queue 0: available index jumped",
            "queue 0: available index jumped",
        ],
    ),
    (
        "deliveries",
        &[
            "queue 1: delivery buffer of 255 writable and 0 readable bytes",
            "queue 1: delivery buffer of 0 writable and 0 readable bytes",
            "queue 1: delivery buffer of 0 writable and 256 readable bytes",
            "queue 1: descriptor 0 is already in use",
            "queue 1: descriptor 0: 256 bytes at 0x207ffff8 are outside the window",
        ],
    ),
    ("places", &[]),
];

/// A district that breaks the rules of its queues in all ways of a group, and calls another one when it is done. 1,024
/// descriptors as long as its window are more than 4 GiB.
pub fn crooked(name: &str, group: &str, called: &str) -> String {
    format!(
        "[districts.{name}]
         image = 'crooked'
         arguments = ['{group}']
         memory = '4MiB'
         window = '8MiB'
         restart = 'never'
         grants = {{ log = 'host/log', pong = '{called}/pong' }}\n"
    )
}

#[test]
fn c42_every_broken_rule_of_the_queues_is_that_districts_device_error() {
    needs_kvm!();
    let mut neighbours = Neighbours::new();
    let mut manifest = String::from("[districts.called]\nimage = 'pong'\npublishes = ['pong']\n");
    manifest.extend(CROOKED.map(|(group, _)| crooked(group, group, "called")));
    neighbours.host.start(&manifest);
    neighbours.go_on(3);
    for (group, expected) in CROOKED {
        let info = neighbours.host.over(group);
        let end = info.last_end.unwrap().text;
        // It saw each error itself, and then used the channel as everybody does, all in one life.
        assert_eq!((end.as_str(), info.epoch), ("exited with code 0", 1), "{group}");
        let cases = if group == "places" { 8 } else { expected.len() };
        let last = neighbours.host.lines(group).pop();
        assert_eq!(last, Some(format!("{cases} cases refused, 50 calls answered")), "{group}");
        let said: Vec<String> = neighbours.host.lines(group).into_iter().filter_map(device_error).collect();
        assert_eq!(said, expected, "{group}");
    }
    neighbours.go_on(3);
}

/// What the host says of a device, if this line of a log is about that.
fn device_error(line: String) -> Option<String> {
    Some(line.strip_prefix("(from the host: the device needs a reset: ")?.strip_suffix(')')?.to_owned())
}

#[test]
fn c42_a_storm_of_doorbells_delays_nobody_for_long() {
    needs_kvm!();
    let mut neighbours = Neighbours::new();
    neighbours.host.start(&flaky("storm", "'doorbell'"));
    neighbours.host.line("storm", "going to fail: doorbell");
    neighbours.go_on(20);
    assert_eq!(neighbours.host.ok(&["stop", "storm"]), "storm  stopped (epoch 1)\n");
    neighbours.go_on(1);
}

#[test]
fn a_reader_of_the_log_who_does_not_read_holds_up_nobody() {
    needs_kvm!();
    let mut neighbours = Neighbours::new();
    let reader = neighbours.host.spawn(&["logs", "--follow"]);
    send(reader, Signal::STOP);
    neighbours.host.start(
        "[districts.talker]
         image = 'hoard'
         arguments = ['show']
         publishes = ['hoard']
         grants = { log = 'host/log' }
         [districts.caller]
         image = 'hoard'
         arguments = ['rounds', '400']
         grants = { log = 'host/log', hoard = 'talker/hoard' }",
    );
    neighbours.host.line("caller", "round 50: Replied=400");
    neighbours.go_on(5);
    send(reader, Signal::CONT);
}
