//! Processes that die without a word, and what becomes of the calls that they had to do with.

use district::api::info::State;
use rustix::process::Signal;

use crate::boot::suite;
use crate::dice::Dice;
use crate::hostile::NEIGHBOURS;
use crate::signals::{is_alive, send};
use crate::support::{Host, count_of, count_of_all, needs_kvm, wait};

/// One that keeps so many calls, with the smallest window, and callers who make so many each.
fn hoard(keep: u32, callers: u32, calls: u32) -> String {
    let mut manifest = format!(
        "[districts.keeper]
         image = 'hoard'
         arguments = ['keep', '{keep}']
         window = '256KiB'
         publishes = ['hoard']
         restart = 'never'
         grants = {{ log = 'host/log' }}\n"
    );
    for caller in 0..callers {
        manifest.push_str(&format!(
            "[districts.caller{caller}]
             image = 'hoard'
             arguments = ['call', '{calls}']
             restart = 'never'
             grants = {{ log = 'host/log', hoard = 'keeper/hoard' }}\n"
        ));
    }
    manifest
}

#[test]
fn c37_what_a_killed_server_had_not_seen_is_not_delivered_and_the_rest_unknown() {
    needs_kvm!();
    let host = Host::with_daemon();
    host.start(&hoard(100, 1, 200));
    host.line("caller0", "made 200 calls");
    host.line("keeper", "keeps 100");
    host.kill("keeper");
    host.over("caller0");
    let outcomes = host.line("caller0", "outcomes: ");
    assert_eq!(outcomes, "outcomes: NotDelivered(PeerRestart)=100 Unknown(PeerRestart)=100");
    assert_eq!(host.last_words("caller0"), "exited with code 0");
    assert!(host.over("keeper").last_end.unwrap().text.contains("signal: 9"), "{}", host.last_words("keeper"));
}

#[test]
fn c37_nothing_that_a_server_saw_is_reported_as_not_delivered() {
    needs_kvm!();
    let host = Host::with(
        "[districts.server]
         image = 'hoard'
         arguments = ['show', 'hoard', '200']
         window = '256KiB'
         publishes = ['hoard']
         restart = { policy = 'always', backoff = '1ms', backoff-max = '1ms', intensity = 1000 }
         grants = { log = 'host/log' }
         [districts.caller]
         image = 'hoard'
         arguments = ['rounds', '150']
         grants = { log = 'host/log', hoard = 'server/hoard' }",
    );
    for _ in 0..15 {
        let seen = host.lines("caller").len();
        host.line_after("caller", seen, "made 150 calls");
        host.kill("server");
        host.line_after("caller", seen, "round ");
    }
    let numbers = |district: &str, part: &str| -> Vec<u64> {
        let lines = host.lines(district);
        let lists = lines.iter().filter_map(|line| line.strip_prefix(part));
        lists
            .flat_map(|list| list.split_whitespace().map(|number| number.parse().unwrap()).collect::<Vec<_>>())
            .collect()
    };
    let (unseen, seen) = (numbers("caller", "unseen:"), numbers("server", "saw "));
    assert!(!unseen.is_empty() && !seen.is_empty());
    let wrong: Vec<_> = unseen.iter().filter(|operation| seen.contains(operation)).collect();
    assert!(wrong.is_empty(), "{wrong:?} were not delivered, and seen");
}

#[test]
fn c23_every_one_of_a_thousand_callers_ends_once() {
    needs_kvm!();
    for how in ["kill", "stop", "restart"] {
        let host = Host::with_daemon();
        host.start(&hoard(1000, 4, 250));
        host.line("keeper", "keeps 1000");
        match how {
            "kill" => host.kill("keeper"),
            request => _ = host.ok(&[request, "keeper"]),
        }
        for caller in 0..4 {
            let caller = format!("caller{caller}");
            host.over(&caller);
            assert_eq!(host.line(&caller, "outcomes: "), "outcomes: Unknown(PeerRestart)=250", "{how}");
        }
    }
}

#[test]
fn c22_what_a_server_keeps_ends_when_it_exits() {
    needs_kvm!();
    suite(&["c22"]);
    let host = Host::with_daemon();
    host.start(
        "[districts.flaky]
         image = 'flaky'
         arguments = ['exit', 'on', 'call']
         publishes = ['flaky']
         restart = 'never'
         [districts.caller]
         image = 'hoard'
         arguments = ['call', '1', 'flaky']
         restart = 'never'
         grants = { log = 'host/log', flaky = 'flaky/flaky' }",
    );
    host.over("caller");
    assert_eq!(host.line("caller", "outcomes: "), "outcomes: Unknown(PeerRestart)=1");
}

#[test]
fn calls_end_when_their_broker_dies() {
    needs_kvm!();
    let mut host = Host::with_daemon();
    host.start(&hoard(100, 1, 200));
    host.line("caller0", "made 200 calls");
    host.line("keeper", "keeps 100");
    host.end_daemon(Signal::KILL);
    // They need no new daemon to end; it is needed to say so.
    host.start_daemon();
    host.over("caller0");
    let outcomes = host.line("caller0", "outcomes: ");
    assert!(outcomes.contains("Unknown(Unreachable)=200"), "{outcomes}");
}

#[test]
fn c09_no_epoch_is_used_twice_whenever_the_daemon_dies() {
    needs_kvm!();
    let mut host = Host::with_daemon();
    host.start("[districts.a]\nimage = 'hello'\nrestart = 'always'\ngrants.log = 'host/log'");
    let mut last = 0;
    for round in 0..12u64 {
        let mut spins = 0u64;
        // Somewhere in the life of a district, or between two; nowhere that the daemon knows of.
        while spins < round * 3_000_000 {
            spins = std::hint::black_box(spins + 1);
        }
        host.end_daemon(Signal::KILL);
        host.start_daemon();
        let epoch = host.info("a").epoch;
        assert!(epoch >= last, "{epoch} after {last}");
        last = epoch;
        host.until("a", "is in a new life", |info| info.epoch > last);
    }
    host.ok(&["stop", "a"]);
    let said: Vec<u64> =
        host.lines("a").iter().filter_map(|line| line.strip_prefix("hello from epoch ")?.parse().ok()).collect();
    assert!(said.is_sorted_by(|a, b| a < b), "{said:?}");
}

#[test]
fn nothing_is_left_of_up_when_it_is_killed() {
    needs_kvm!();
    let mut host = Host::new();
    let path = host.manifest(&format!("{NEIGHBOURS}\n[districts.spin]\nimage = 'flaky'\narguments = ['spin']"));
    let up = host.spawn(&["up", &path]);
    let pids = wait("all run", || {
        let pids: Vec<u32> = host.client()?.list().ok()?.into_iter().filter_map(|info| info.pid).collect();
        Some(pids).filter(|pids| pids.len() == 3)
    });
    host.line("neighbour", "Replied=50");
    send(up, Signal::KILL);
    host.end_of(up);
    for pid in pids {
        wait("its vmm processes are gone", || (!is_alive(pid)).then_some(()));
    }
    // The directory can be used again at once, and nothing of before runs unasked.
    host.start_daemon();
    assert!(host.list().iter().all(|info| info.state.is_over() && info.epoch == 1), "{:?}", host.list());
}

#[test]
fn up_that_is_interrupted_stops_its_districts() {
    needs_kvm!();
    let mut host = Host::new();
    let path = host.manifest(NEIGHBOURS);
    let up = host.spawn(&["up", &path]);
    wait("they run", || Some(host.client()?.list().ok()?.len()).filter(|count| *count == 2));
    host.line("neighbour", "Replied=50");
    let pids: Vec<u32> = host.list().into_iter().filter_map(|info| info.pid).collect();
    send(up, Signal::INT);
    assert_eq!(host.end_of(up).code(), Some(130));
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "{pids:?}");
}

#[test]
fn nothing_is_left_of_a_life_in_the_daemon() {
    needs_kvm!();
    let host = Host::with(
        "[districts.a]
         image = 'pong'
         publishes = ['pong']
         restart = { policy = 'always', backoff = '1ms', backoff-max = '1ms', intensity = 1000 }",
    );
    let daemon = wait("the daemon's process", || host.client()?.version().ok()).pid;
    let open = || {
        let maps = std::fs::read_to_string(format!("/proc/{daemon}/maps")).unwrap();
        (std::fs::read_dir(format!("/proc/{daemon}/fd")).unwrap().count(), maps.matches("memfd").count())
    };
    let end_life = |epoch: u64| {
        if epoch.is_multiple_of(2) {
            host.kill("a")
        } else {
            _ = host.ok(&["restart", "a"])
        }
        host.until("a", "is in its next life", |info| info.epoch == epoch + 1 && info.state == State::Running);
        wait("it has bound its name", || (host.keys("a").len() == 2).then_some(()));
    };
    (1..4).for_each(&end_life);
    let before = open();
    (4..24).for_each(&end_life);
    // A client's connection may take a moment to go.
    wait("there are as many descriptors and windows as before", || (open() <= before).then_some(()));
}

#[test]
fn a_vmm_process_that_is_frozen_holds_up_nobody() {
    needs_kvm!();
    let host = Host::with(&format!(
        "{NEIGHBOURS}
         [districts.frozen]
         image = 'pong'
         publishes = ['pong']
         [districts.caller]
         image = 'hoard'
         arguments = ['call', '50', 'pong', '300']
         restart = 'never'
         grants = {{ log = 'host/log', pong = 'frozen/pong' }}"
    ));
    host.over("caller");
    let pid = host.info("frozen").pid.unwrap();
    send(pid, Signal::STOP);
    host.ok(&["start", "caller"]);
    host.until("caller", "is over again", |info| info.epoch == 2 && info.state.is_over());
    let outcomes = host.lines("caller").pop().unwrap();
    let ended = count_of(&outcomes, "Unknown(Deadline)") + count_of(&outcomes, "NotDelivered(Deadline)");
    assert_eq!(ended, 50, "{outcomes}");
    let seen = host.lines("neighbour").len();
    host.line_after("neighbour", seen + 2, "Replied=50");
    assert_eq!(host.ok(&["stop", "frozen"]), "frozen  stopped (epoch 1)\n");
    assert!(!is_alive(pid));
}

#[test]
fn a_stop_wins_over_a_restart_that_was_asked_for_before() {
    needs_kvm!();
    let host = Host::with("[districts.a]\nimage = 'idle'");
    // It takes a second until a frozen one is over.
    send(host.running("a").pid.unwrap(), Signal::STOP);
    std::thread::scope(|scope| {
        let restart = scope.spawn(|| host.ok(&["restart", "a"]));
        host.until("a", "is being restarted", |info| info.state == State::Stopping);
        assert_eq!(host.ok(&["stop", "a"]), "a  stopped (epoch 1)\n");
        assert_eq!(restart.join().unwrap(), "a  stopped (epoch 1)\n");
    });
    assert_eq!(host.info("a").state, State::Stopped);
}

/// Three servers, and callers with many calls under way to each.
fn load() -> String {
    let restart = "restart = { policy = 'always', backoff = '5ms', backoff-max = '20ms', intensity = 1000 }";
    let mut manifest = String::new();
    for (server, image, name) in [("pong", "pong", "pong"), ("counter", "counter", "counter"), ("echo", "echo", "echo")]
    {
        manifest.push_str(&format!("[districts.{server}]\nimage = '{image}'\npublishes = ['{name}']\n{restart}\n"));
    }
    for (caller, server) in [("alpha", "pong"), ("beta", "pong"), ("gamma", "echo")] {
        manifest.push_str(&format!(
            "[districts.{caller}]
             image = 'hoard'
             arguments = ['rounds', '40', '{server}']
             {restart}
             grants = {{ log = 'host/log', {server} = '{server}/{server}' }}\n"
        ));
    }
    manifest.push_str(&format!(
        "[districts.client]
         image = 'client'
         arguments = ['counter', '0', '2']
         {restart}
         grants = {{ log = 'host/log', counter = 'counter/counter' }}\n"
    ));
    manifest
}

#[test]
fn everything_recovers_whatever_is_killed() {
    needs_kvm!();
    let mut dice = Dice::new();
    let mut host = Host::with(&load());
    for round in 0..20 {
        let victims = host.list();
        match dice.roll(5) {
            0 => {
                println!("round {round}: the daemon");
                host.end_daemon(Signal::KILL);
                host.start_daemon();
            }
            1 => {
                let victim = &victims[dice.roll(victims.len())];
                println!("round {round}: the daemon and {}", victim.name);
                host.end_daemon(Signal::KILL);
                if let Some(pid) = victim.pid {
                    send(pid, Signal::KILL);
                }
                host.start_daemon();
            }
            2 => {
                println!("round {round}: the daemon, which ends all");
                host.stop_daemon();
                host.start_daemon();
            }
            _ => {
                for _ in 0..=dice.roll(3) {
                    let victim = &victims[dice.roll(victims.len())];
                    println!("round {round}: {}", victim.name);
                    if let Some(pid) = victim.pid {
                        send(pid, Signal::KILL);
                    }
                }
            }
        }
        // Some rounds begin when all is well again, others before.
        if dice.roll(2) == 0 {
            for info in &victims {
                host.running(info.name.as_str());
            }
        }
    }
    let seen = ["alpha", "beta", "gamma", "client"].map(|name| (name, host.lines(name).len()));
    for (name, seen) in seen {
        let part = if name == "client" { "counter is at " } else { "Replied=40" };
        host.line_after(name, seen, part);
    }
    for info in host.list() {
        host.running(info.name.as_str());
    }
    for (name, _) in &seen[..3] {
        for line in host.lines(name).iter().filter(|line| line.contains('=')) {
            assert_eq!(count_of_all(line), 40, "{name}: {line}");
            assert_eq!(count_of(line, "WrongReply"), 0, "{name}: {line}");
        }
    }
}
