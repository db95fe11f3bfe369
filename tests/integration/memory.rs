//! Districts that go on from their checkpoints.

use district::api::event::{Event, EventKind};
use district::api::info::State;

use crate::support::{Host, needs_kvm, wait};

/// A counter that is checkpointed as said, and a client that makes it count.
pub fn counting(checkpoints: &str) -> String {
    format!(
        "[districts.counter]
         image = 'counter'
         publishes = ['counter']
         checkpoints = {checkpoints}
         restart = {{ policy = 'always', backoff = '1ms', backoff-max = '1ms', intensity = 1000 }}
         grants = {{ log = 'host/log' }}
         [districts.client]
         image = 'client'
         arguments = ['counter', '0', '1']
         grants = {{ log = 'host/log', counter = 'counter/counter', clock = 'host/clock' }}"
    )
}

/// What the client was told first, beyond the first `skip` lines of its log.
pub fn count_after(host: &Host, skip: usize) -> u64 {
    number_of(&host.line_after("client", skip, "counter is at "))
}

/// What the client was told first after it had to look the counter up again, beyond the first `skip` lines of its log.
pub fn count_after_loss(host: &Host, skip: usize) -> u64 {
    number_of(&host.lines_after("client", skip, &["looking it up again", "counter is at "]))
}

/// What the client was told first in this epoch of its own.
fn first_count_in(host: &Host, epoch: u64) -> u64 {
    let first = |event: &Event| event.epoch == epoch && event.text.contains("counter is at ");
    number_of(&wait("the client's next life", || host.log("client").into_iter().find(first)).text)
}

fn number_of(line: &str) -> u64 {
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Waits until the counter has been checkpointed with at least this count, as its client knows it.
fn until_checkpointed(host: &Host) -> u64 {
    let count = count_after(host, host.lines("client").len());
    let before = host.client().unwrap().checkpoint(&"counter".parse().unwrap()).unwrap();
    assert!(before.generation > 0);
    count
}

#[test]
fn a_district_that_is_killed_goes_on_from_its_checkpoint() {
    needs_kvm!();
    let host = Host::with(&counting("{ every = '20ms' }"));
    for _ in 0..5 {
        let count = until_checkpointed(&host);
        let seen = host.lines("client").len();
        host.kill("counter");
        let now = count_after_loss(&host, seen);
        assert!(now >= count, "{now} after {count}");
    }
    assert!(host.info("counter").epoch >= 6);
}

#[test]
fn without_checkpoints_memory_is_fresh() {
    needs_kvm!();
    let host = Host::with(&counting("'none'"));
    wait("it counts", || (count_after(&host, host.lines("client").len()) > 20).then_some(()));
    let seen = host.lines("client").len();
    host.kill("counter");
    wait("it counts from 1", || {
        host.lines("client").iter().skip(seen).any(|line| line == "counter is at 1").then_some(())
    });
}

#[test]
fn stopped_restarted_and_outlived_by_its_daemon_a_district_loses_nothing() {
    needs_kvm!();
    let mut host = Host::with(&counting("'on-demand'"));
    wait("it counts", || (count_after(&host, host.lines("client").len()) > 20).then_some(()));
    let mut least = 20;
    for step in 0..3 {
        let seen = host.lines("client").len();
        match step {
            0 => drop(host.ok(&["restart", "counter"])),
            1 => {
                host.ok(&["stop", "counter"]);
                assert_eq!(host.info("counter").state, State::Stopped);
                host.ok(&["start", "counter"]);
            }
            _ => {
                host.stop_daemon();
                host.start_daemon();
            }
        }
        let count = match step {
            0 | 1 => count_after_loss(&host, seen),
            _ => first_count_in(&host, 2),
        };
        assert!(count > least, "step {step}: {count} after {least}");
        least = count;
    }
}

/// The checkpoint before a stop is taken while the program runs. Nobody is told what it has done after that.
#[test]
fn what_was_answered_before_a_restart_is_not_forgotten() {
    needs_kvm!();
    let host = Host::with(&counting("'on-demand'"));
    for _ in 0..20 {
        count_after(&host, host.lines("client").len());
        host.ok(&["restart", "counter"]);
        host.running("counter");
    }
    let lines = host.lines("client");
    let counts: Vec<u64> = lines.iter().filter_map(|line| line.strip_prefix("counter is at ")?.parse().ok()).collect();
    let forgotten = counts.windows(2).find(|pair| pair[0] >= pair[1]);
    assert_eq!(forgotten, None);
}

/// A district that is only ever stopped and started takes its one checkpoint when it is stopped. What is in the log then is
/// read by each start, until it is in the image.
/// It begins anew each time, after which a checkpoint is taken as soon as it runs, and it may be over by then.
#[test]
fn that_a_district_has_ended_is_no_failure_of_its_checkpoint() {
    needs_kvm!();
    let host = Host::with_daemon();
    let events = host.events();
    host.start(
        "[districts.a]
         image = 'hello'
         restart = 'never'
         checkpoints = 'on-demand'
         grants = { log = 'host/log' }",
    );
    host.over("a");
    for _ in 0..50 {
        host.run_again("a");
    }
    let failed = events.try_iter().filter(|event| event.kind == EventKind::CheckpointFailed);
    assert_eq!(failed.map(|event| event.text).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn a_long_log_goes_to_the_image_though_the_district_is_only_stopped_and_started() {
    needs_kvm!();
    const MANIFEST: &str = "[districts.pages]
        image = 'pages'
        arguments = ['1024', '0']
        checkpoints = 'on-demand'
        grants = { log = 'host/log' }";
    for by_name in [true, false] {
        let host = Host::with(MANIFEST);
        host.line("pages", "filled");
        let memory = host.path().join("districts").join(host.info("pages").id).join("memory");
        let in_log = || {
            let files = std::fs::read_dir(&memory).unwrap().map(|file| file.unwrap());
            let logs = files.filter(|file| file.file_name().to_string_lossy().starts_with("log."));
            logs.map(|file| file.metadata().map_or(0, |metadata| metadata.len())).sum::<u64>()
        };
        let what = if by_name { "pages".to_owned() } else { host.manifest(MANIFEST) };
        for epoch in 2..5 {
            host.ok(&["stop", "pages"]);
            // A job reads so long a log first; the answer is about the life that has begun then.
            assert_eq!(host.ok(&["start", &what]), format!("pages  starting (epoch {epoch})\n"));
            host.running("pages");
        }
        wait("the log is in the image", || (memory.join("home").exists() && in_log() < 1 << 20).then_some(()));
    }
}
