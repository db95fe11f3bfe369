//! What a restored district finds: one key, ended calls, and nothing that another life has had.

use std::collections::HashSet;
use std::time::{Duration, UNIX_EPOCH};

use district::api::event::EventKind;
use district::api::info::State;
use rustix::process::Signal;

use crate::signals::{is_alive, send};
use crate::support::{Host, at_most, needs_kvm};

/// How far the clock of a district that was just restored may be from the host's, in nanoseconds.
const CLOCK_ERROR: u64 = 50_000_000;

/// A district that tries one thing in each of its lives, and is checkpointed when somebody asks for it.
fn subject(arguments: &str) -> String {
    format!(
        "[districts.subject]
         image = 'suite'
         arguments = [{arguments}]
         checkpoints = 'on-demand'
         restart = {{ policy = 'always', backoff = '1ms', backoff-max = '1ms', intensity = 1000 }}
         grants = {{ log = 'host/log', clock = 'host/clock' }}\n"
    )
}

/// What follows `name=` in a line.
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let value = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {name} in {line:?}"))
}

fn number(line: &str, name: &str) -> u64 {
    field(line, name).parse().unwrap()
}

fn now() -> u64 {
    u64::try_from(UNIX_EPOCH.elapsed().unwrap().as_nanos()).unwrap()
}

#[test]
fn c02_all_keys_of_before_a_restore_are_broken() {
    needs_kvm!();
    let host = Host::with(&subject("'c02'"));
    host.line("subject", "holding 1000 keys");
    host.checkpoint("subject");
    for epoch in 2..5 {
        host.kill("subject");
        let line = host.line("subject", &format!("in epoch {epoch}: "));
        let wanted = "{\"Some(Broken(SelfRestart))\": 1000}, never issued: Some(\"NoKey(";
        assert!(line.contains(wanted), "{line}");
    }
}

#[test]
fn c02_a_restored_district_has_one_live_key() {
    needs_kvm!();
    let host = Host::with(&subject("'c02', 'quiet'"));
    host.line("subject", "holding 1000 keys");
    assert!(host.keys("subject").len() > 1000);
    host.checkpoint("subject");
    for epoch in 2..5 {
        host.kill("subject");
        host.until("subject", "is restored", |info| info.epoch == epoch && info.state == State::Running);
        let keys = host.keys("subject");
        let live: Vec<_> = keys.iter().filter(|key| key.broken.is_none()).collect();
        assert_eq!(live.len(), 1, "{live:?}");
        assert_eq!((live[0].handle, live[0].kind.as_str()), (1, "directory"));
    }
}

#[test]
fn c03_a_call_of_before_a_restore_ends_at_once_in_each_of_ten_lives() {
    needs_kvm!();
    let host = Host::with(&subject("'c03-again'"));
    // The log, the clock, and handle 1; then it sleeps, by a call.
    crate::support::wait("it has looked the clock up", || {
        host.keys("subject").iter().any(|key| key.kind == "clock").then_some(())
    });
    let taken = host.checkpoint("subject").generation;
    let events = host.events();
    let mut times = Vec::new();
    for epoch in 2..12 {
        host.kill("subject");
        let started = events.iter().find(|event| event.kind == EventKind::Started).unwrap();
        assert_eq!(
            (started.epoch, &*started.text),
            (epoch, &*format!("started (epoch {epoch}, from generation {taken})"))
        );
        let line = host.line("subject", &format!("woken in epoch {epoch} at "));
        let woken: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        times.push(Duration::from_nanos(woken.saturating_sub(started.time_ms * 1_000_000)));
    }
    // A busy host may delay some of them.
    times.sort();
    assert!(times[4] < at_most(Duration::from_millis(100)), "{times:?}");
    assert!(times[9] < at_most(Duration::from_secs(3)), "{times:?}");
}

#[test]
fn c04_no_two_restores_of_a_checkpoint_have_anything_in_common() {
    needs_kvm!();
    let host = Host::with(&subject("'c05'"));
    let first = host.line("subject", "life epoch=1 ");
    host.ok(&["snapshot", "subject", "--tag", "then"]);
    let generation = host.checkpoint("subject").generation.to_string();
    let mut lives = vec![first];
    for (epoch, from) in [(2, Some(&*generation)), (3, None), (4, Some("then")), (5, Some("then")), (6, None)] {
        match from {
            Some(from) => _ = host.ok(&["restart", "subject", "--from", from]),
            None => host.kill("subject"),
        }
        lives.push(host.line("subject", &format!("life epoch={epoch} ")));
    }
    for clone in ["twin", "triplet"] {
        host.ok(&["clone", "subject", clone, "--from", "then"]);
        lives.push(host.line(clone, "life epoch=2 reason=Some(Clone) "));
    }
    let entropies: HashSet<&str> = lives.iter().map(|life| field(life, "entropy")).collect();
    assert_eq!(entropies.len(), lives.len(), "{lives:#?}");
    // A clone is a district of its own, and has numbers of its own; but none that its memory knows from before.
    let (own, clones) = lives.split_at(6);
    let handles: HashSet<&str> = own.iter().map(|life| field(life, "handle")).collect();
    assert_eq!(handles.len(), own.len(), "{own:#?}");
    assert!(clones.iter().all(|life| field(life, "handle") != field(&own[0], "handle")), "{lives:#?}");
    assert_ne!(host.info("twin").id, host.info("triplet").id);
}

#[test]
fn c05_a_restored_district_knows_why_from_where_and_what_time_it_is() {
    needs_kvm!();
    let host = Host::with(&subject("'c05'"));
    let cold = host.line("subject", "life epoch=1 ");
    assert!(cold.contains("reason=Some(Cold) generation=0 taken=0 "), "{cold}");
    let taken = host.checkpoint("subject");
    for epoch in 2..8 {
        let before = now();
        let reason = match epoch % 2 {
            0 => {
                host.kill("subject");
                "Crash"
            }
            _ => {
                host.ok(&["restart", "subject", "--from", &taken.generation.to_string()]);
                "RollBack"
            }
        };
        let life = host.line("subject", &format!("life epoch={epoch} "));
        let after = now();
        assert_eq!(field(&life, "reason"), format!("Some({reason})"));
        assert!(number(&life, "generation") >= taken.generation, "{life}");
        if reason == "RollBack" {
            assert_eq!(number(&life, "generation"), taken.generation);
            assert_eq!(number(&life, "taken") / 1_000_000, taken.time_ms);
        }
        assert!(number(&life, "taken") < number(&life, "now"), "{life}");
        // It neither stands where it stood at the checkpoint nor runs ahead.
        let there = number(&life, "now");
        assert!(there + CLOCK_ERROR > before && there < after + CLOCK_ERROR, "{life}: {before} to {after}");
        assert_eq!(field(&life, "clock"), "right", "{life}");
    }
}

/// A counter that goes on from its checkpoints, and three that look it up and wait for it.
fn looked_up() -> String {
    let mut manifest = String::from(
        "[districts.counter]
         image = 'counter'
         publishes = ['counter']
         checkpoints = 'on-demand'
         restart = { policy = 'always', backoff = '1ms', backoff-max = '1ms', intensity = 1000 }\n",
    );
    for witness in 0..3 {
        manifest.push_str(&format!(
            "[districts.witness{witness}]
             image = 'witness'
             checkpoints = 'on-demand'
             restart = {{ policy = 'always', backoff = '1ms', backoff-max = '1ms', intensity = 1000 }}
             grants = {{ log = 'host/log', counter = 'counter/counter' }}\n"
        ));
    }
    manifest
}

#[test]
fn c07_look_ups_in_flight_end_and_succeed_when_their_server_is_restored() {
    needs_kvm!();
    let host = Host::with(&looked_up());
    let witnesses = ["witness0", "witness1", "witness2"];
    for name in witnesses {
        host.line(name, "counter has version ");
    }
    for round in 0..4 {
        host.ok(&["stop", "counter"]);
        let seen = witnesses.map(|name| host.lines(name).len());
        for name in witnesses {
            // Their look-ups wait from now on, in the second case in a district that was restored meanwhile.
            match round % 2 {
                0 => _ = host.ok(&["restart", name, "--cold"]),
                _ => host.kill(name),
            }
            host.running(name);
        }
        host.ok(&["start", "counter"]);
        for _ in 0..3 {
            host.kill("counter");
        }
        for (name, seen) in witnesses.into_iter().zip(seen) {
            host.line_after(name, seen, "counter has version ");
            let lines = host.lines(name);
            // Handle 1 has worked all the time.
            let broken = lines.iter().find(|line| line.starts_with("handle 1: ") && *line != "handle 1: None");
            assert_eq!(broken, None, "{name}: {lines:?}");
        }
        // What they were told last holds.
        host.running("counter");
    }
}

#[test]
fn c07_a_look_up_that_a_checkpoint_caught_in_flight_is_made_again() {
    needs_kvm!();
    let host = Host::with_daemon();
    host.start(&looked_up());
    host.line("witness0", "counter has version ");
    host.ok(&["stop", "counter"]);
    let seen = host.lines("witness0").len();
    // It has lost the counter and waits for it.
    host.ok(&["restart", "witness0", "--cold"]);
    host.line_after("witness0", seen, "counter is not to be had: NotReady");
    let taken = host.checkpoint("witness0").generation;
    for _ in 0..3 {
        let seen = host.lines("witness0").len();
        host.ok(&["restart", "witness0", "--from", &taken.to_string()]);
        host.line_after("witness0", seen, "counter is not to be had: ");
    }
    let seen = host.lines("witness0").len();
    host.ok(&["start", "counter"]);
    host.line_after("witness0", seen, "counter has version ");
}

#[test]
fn c09_no_epoch_is_used_twice_whenever_host_and_district_die() {
    needs_kvm!();
    let mut host = Host::with(&subject("'c05'"));
    host.line("subject", "life epoch=1 ");
    host.checkpoint("subject");
    let mut last = 1;
    for round in 0..10u64 {
        let pid = host.info("subject").pid;
        host.end_daemon(Signal::KILL);
        if let Some(pid) = pid.filter(|pid| is_alive(*pid)) {
            send(pid, Signal::KILL);
        }
        host.spawn_daemon();
        // Somewhere in the restore of a district, or before or after it; nowhere that the daemon knows of.
        let mut spins = 0u64;
        while spins < round * 2_000_000 {
            spins = std::hint::black_box(spins + 1);
        }
        host.end_daemon(Signal::KILL);
        host.start_daemon();
        let epoch = host.running("subject").epoch;
        assert!(epoch > last, "{epoch} after {last}");
        last = epoch;
    }
    host.line("subject", &format!("life epoch={last} "));
    let said: Vec<u64> = host
        .lines("subject")
        .iter()
        .filter(|line| line.starts_with("life "))
        .map(|line| number(line, "epoch"))
        .collect();
    assert!(said.is_sorted_by(|a, b| a < b), "{said:?}");
}
