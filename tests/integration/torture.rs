//! Misbehaviour at random, several districts at a time, for as long as one likes: what `hostile` tries one by one.

use std::time::{Duration, Instant};

use district::api::info::State;

use crate::dice::{Dice, number};
use crate::hostile::{CROOKED, Neighbours, WAYS, flaky};
use crate::support::needs_kvm;

/// How long it goes on if `DISTRICT_TORTURE_SECONDS` does not say, and then not before there were so many rounds.
const SECONDS: u64 = 3;
const ROUNDS: u32 = 4;
/// Districts that misbehave at the same time.
const VICTIMS: usize = 4;
/// Rounds on one host, which is enough for a log that is read again and again.
const ROUNDS_OF_A_HOST: u32 = 30;
/// Ways of `flaky` that do not end, and what they have logged when they are at it.
const ENDLESS: [(&str, &str); 3] = [
    ("spin", "going to fail: spin"),
    ("doorbell", "going to fail: doorbell"),
    ("badqueue", "(from the host: the device needs a reset: "),
];

/// What a district does, and what must come of it.
enum Misbehaviour {
    /// It ends, with these parts in the report.
    Ends(&'static str, &'static str, &'static str),
    /// It does not, and has said this when it is at it.
    Endless(&'static str, &'static str),
    /// A group of broken rules of the queues, after which it ends well.
    Crooked(&'static str),
}

impl Misbehaviour {
    fn any(dice: &mut Dice) -> Misbehaviour {
        match dice.roll(4) {
            0 | 1 => {
                let (how, first, then) = WAYS[dice.roll(WAYS.len())];
                Misbehaviour::Ends(how, first, then)
            }
            2 => {
                let (how, said) = ENDLESS[dice.roll(ENDLESS.len())];
                Misbehaviour::Endless(how, said)
            }
            _ => Misbehaviour::Crooked(CROOKED[dice.roll(CROOKED.len())].0),
        }
    }

    fn manifest(&self, name: &str) -> String {
        match self {
            Misbehaviour::Ends(how, ..) | Misbehaviour::Endless(how, _) => flaky(name, &format!("'{how}'")),
            Misbehaviour::Crooked(group) => format!(
                "[districts.called-by-{name}]
                 image = 'pong'
                 publishes = ['pong']
                 {}",
                crate::hostile::crooked(name, group, &format!("called-by-{name}"))
            ),
        }
    }

    /// Waits until it has done what it should, and leaves nothing of it.
    fn check(&self, neighbours: &Neighbours, name: &str) {
        let host = &neighbours.host;
        match self {
            Misbehaviour::Ends(how, first, then) => {
                let end = host.over(name).last_end.unwrap().text;
                assert!(end.starts_with(first) && end.contains(then), "{how}: {end}");
            }
            Misbehaviour::Endless(how, said) => {
                host.line(name, said);
                assert_eq!(host.info(name).state, State::Running, "{how}");
                host.ok(&["stop", name]);
            }
            Misbehaviour::Crooked(group) => {
                assert_eq!(host.over(name).last_end.unwrap().text, "exited with code 0", "{group}");
                let called = format!("called-by-{name}");
                host.ok(&["stop", &called]);
                host.ok(&["remove", &called]);
            }
        }
        host.ok(&["remove", name]);
    }
}

#[test]
fn c41_only_the_districts_that_misbehave_end_however_long_it_goes_on() {
    needs_kvm!();
    let duration = Duration::from_secs(number("DISTRICT_TORTURE_SECONDS").unwrap_or(SECONDS));
    let mut dice = Dice::new();
    let (begin, mut rounds) = (Instant::now(), 0);
    while begin.elapsed() < duration || rounds < ROUNDS {
        let mut neighbours = Neighbours::new();
        for _ in 0..ROUNDS_OF_A_HOST {
            let victims: Vec<_> =
                (0..VICTIMS).map(|index| (format!("victim{index}"), Misbehaviour::any(&mut dice))).collect();
            let manifest: String = victims.iter().map(|(name, victim)| victim.manifest(name)).collect();
            neighbours.host.start(&manifest);
            neighbours.go_on(1);
            for (name, victim) in &victims {
                victim.check(&neighbours, name);
            }
            rounds += 1;
            if begin.elapsed() >= duration && rounds >= ROUNDS {
                break;
            }
        }
        neighbours.go_on(1);
    }
    println!("{rounds} rounds of {VICTIMS} in {:?}", begin.elapsed());
}
