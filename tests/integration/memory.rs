//! Districts that go on from their checkpoints.

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

/// What the client was told last, beyond the first `skip` lines of its log.
pub fn count_after(host: &Host, skip: usize) -> u64 {
    let line = host.line_after("client", skip, "counter is at ");
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
        host.running("counter");
        let now = count_after(&host, seen);
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
    host.line_after("client", seen, "looking it up again");
    let lost = host.lines("client").iter().rposition(|line| line.contains("looking it up again")).unwrap();
    assert!(count_after(&host, lost) < 20);
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
        host.running("counter");
        let count = count_after(&host, seen);
        assert!(count > least, "step {step}: {count} after {least}");
        least = count;
    }
}
