//! Crashes at random: vmm processes, the daemon, or both, under load, for as long as one likes; and what was committed
//! before each is there after it.

use district::api::info::State;
use rustix::process::Signal;

use crate::dice::{Dice, number};
use crate::durability::{ALWAYS, last_committed, noted, read};
use crate::memory::count_after;
use crate::signals::send;
use crate::support::{Host, is_slow, needs_kvm, wait};

/// Crashes where `DISTRICT_TORTURE_ROUNDS` does not say how many.
const ROUNDS: u64 = 10;
/// Crashes on one host, which is enough for a log that is read again and again.
const ROUNDS_OF_A_HOST: u64 = 25;
/// Notes that the writer has committed at a time.
const EVERY: u64 = 6;
/// What does not end by itself.
const VICTIMS: [&str; 5] = ["notes", "writer", "counter", "client", "ticker"];

/// Notes and their writer, a counter and its client, and one that computes: all are checkpointed, each at its own pace.
fn load() -> String {
    let notes = noted("{ every = '30ms' }", &format!("'1000000', '{EVERY}', '1'"));
    // The writer, too, remembers what it has written.
    let notes = notes.replacen(
        "restart = 'never'",
        "checkpoints = { every = '70ms' }
         restart = { policy = 'always', backoff = '1ms', backoff-max = '1ms', intensity = 100000 }",
        1,
    );
    format!(
        "{notes}
         [districts.counter]
         image = 'counter'
         publishes = ['counter']
         checkpoints = {{ every = '10ms' }}
         {ALWAYS}
         [districts.client]
         image = 'client'
         arguments = ['counter', '0', '1']
         checkpoints = {{ dirty-pages = 40 }}
         {ALWAYS}
         grants = {{ log = 'host/log', counter = 'counter/counter' }}
         [districts.ticker]
         image = 'ticker'
         arguments = ['50']
         checkpoints = {{ every = '5ms' }}
         {ALWAYS}
         grants = {{ log = 'host/log', clock = 'host/clock' }}"
    )
}

/// What has to be there whatever dies.
#[derive(Default)]
struct Model {
    /// All notes up to here.
    committed: u64,
    /// The counter's count that was in a durable checkpoint.
    count: u64,
    epochs: Vec<u64>,
}

impl Model {
    /// Takes in what has been promised by now.
    fn learn(&mut self, host: &Host, dice: &mut Dice) {
        self.committed = self.committed.max(last_committed(host));
        if dice.roll(3) == 0 {
            let count = count_after(host, host.lines("client").len());
            // What the counter has told is in the checkpoint that is begun now.
            if host.client().unwrap().checkpoint(&"counter".parse().unwrap()).is_ok() {
                self.count = count;
            }
        }
    }

    /// Compares all that there is with it.
    fn check(&mut self, host: &Host) {
        for victim in VICTIMS {
            host.running(victim);
        }
        let found = read(host);
        // The writer can be ahead of what it has logged by one commit that it was not told of, and by what it writes.
        let most = self.committed.max(last_committed(host)) + 3 * EVERY;
        assert!(found.whole >= self.committed && found.last <= most, "{found:?}, committed {}", self.committed);
        let count = count_after(host, host.lines("client").len());
        assert!(count >= self.count, "the counter is at {count} after {}", self.count);
        let epochs: Vec<u64> = VICTIMS.iter().map(|name| host.info(name).epoch).collect();
        assert!(self.epochs.iter().zip(&epochs).all(|(old, new)| old <= new), "{epochs:?} after {:?}", self.epochs);
        self.epochs = epochs;
        for victim in VICTIMS {
            let end = host.info(victim).last_end.map(|end| end.text).unwrap_or_default();
            // Nothing that checks itself has found anything, and nothing was wrong with any checkpoint.
            let wrong = ["exited", "checkpoint: ", "cannot be started", "vector"].iter().any(|part| end.contains(part));
            assert!(!wrong, "{victim}: {end}");
        }
    }
}

/// Kills something, and has everything running again or coming up.
fn crash(host: &mut Host, dice: &mut Dice) -> String {
    let victims: Vec<_> = (0..=dice.roll(3)).map(|_| VICTIMS[dice.roll(VICTIMS.len())]).collect();
    let pids: Vec<u32> = victims.iter().filter_map(|victim| host.info(victim).pid).collect();
    let how = dice.roll(6);
    if how < 3 {
        for pid in pids {
            send(pid, Signal::KILL);
        }
        return format!("{victims:?}");
    }
    host.end_daemon(Signal::KILL);
    if how > 3 {
        for pid in pids {
            send(pid, Signal::KILL);
        }
    }
    host.spawn_daemon();
    if how == 5 {
        // Before it has taken over, or begun again, whatever there is.
        pause(dice);
        host.end_daemon(Signal::KILL);
        host.spawn_daemon();
    }
    wait("the daemon answers", || host.client());
    match how {
        3 => "the daemon".to_owned(),
        4 => format!("the daemon and {victims:?}"),
        _ => format!("the daemon, {victims:?}, and the next daemon"),
    }
}

/// Lets some time pass of which nobody knows how much.
fn pause(dice: &mut Dice) {
    for spin in 0..dice.roll(30_000_000) {
        std::hint::black_box(spin);
    }
}

#[test]
fn whatever_is_killed_whenever_what_was_committed_is_there() {
    needs_kvm!();
    let rounds = number("DISTRICT_TORTURE_ROUNDS").unwrap_or(if is_slow() { 3 } else { ROUNDS });
    let mut dice = Dice::new();
    let mut done = 0;
    while done < rounds {
        let mut host = Host::with(&load());
        let mut model = Model::default();
        wait("something is committed", || (last_committed(&host) > 0).then_some(()));
        for _ in 0..ROUNDS_OF_A_HOST.min(rounds - done) {
            pause(&mut dice);
            model.learn(&host, &mut dice);
            let what = crash(&mut host, &mut dice);
            println!("round {done}: {what}; {} committed, count {}", model.committed, model.count);
            done += 1;
            // Some crashes come while the last one is being overcome.
            if dice.roll(3) > 0 {
                model.check(&host);
            }
        }
        model.check(&host);
        let before = last_committed(&host);
        wait("more is committed", || (last_committed(&host) > before).then_some(()));
        assert!(host.list().iter().all(|info| info.state != State::Failed), "{:?}", host.list());
    }
    println!("{done} rounds");
}
