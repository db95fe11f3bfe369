//! Random numbers that no other life of the district has.

use core::cell::RefCell;
use core::sync::atomic::{Ordering, compiler_fence};

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng as _, SeedableRng};

use crate::boot;
use crate::one_thread::one_thread;

/// The district's generator of random numbers, fit for secrets. All values of this type stand for the same one.
///
/// It is seeded from the boot page's entropy, anew in each epoch: two lives that begin from one checkpoint draw different
/// numbers. That is looked after at each draw, so a number that was drawn is of the epoch in which the draw ended. What a
/// program has drawn and keeps is part of its memory, though, and so of the checkpoints that are taken after that: a secret
/// that must not be in two lives has to be drawn again after a restart ([`crate::restart::on_restart`]).
#[derive(Debug, Clone, Copy, Default)]
pub struct Rng;

struct Generator {
    epoch: u64,
    numbers: ChaCha20Rng,
}

one_thread! {
    static GENERATOR: RefCell<Option<Generator>> = RefCell::new(None);
}

impl Rng {
    /// Fills `bytes`.
    pub fn fill(self, bytes: &mut [u8]) {
        GENERATOR.with(|place| {
            let mut place = place.borrow_mut();
            loop {
                let generator = match &mut *place {
                    Some(generator) if generator.epoch == boot::epoch() => generator,
                    other => other.insert(Generator::new()),
                };
                generator.numbers.fill_bytes(bytes);
                // A restore since the first look may have had this very state before, and then these very bytes.
                compiler_fence(Ordering::SeqCst);
                if boot::epoch() == generator.epoch {
                    return;
                }
            }
        });
    }

    /// Any number.
    pub fn number(self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A number below `bound`, each equally likely to within one in 2^64; 0 if that is 0.
    pub fn below(self, bound: u64) -> u64 {
        let scaled = u128::from(self.number()) * u128::from(bound);
        u64::try_from(scaled >> 64).unwrap_or(0)
    }
}

impl Generator {
    fn new() -> Generator {
        let (epoch, entropy) = boot::life();
        // Half of the entropy is as much as the cipher takes.
        let seed = entropy.first_chunk().copied().unwrap_or_default();
        Generator { epoch, numbers: ChaCha20Rng::from_seed(seed) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::vec::Vec;

    use district_protocol::layout::WINDOW_SIZE_MIN;

    use super::*;
    use crate::machine::{Checkpoint, host, install, restore_at, steps};

    fn draw(count: usize) -> Vec<u64> {
        (0..count).map(|_| Rng.number()).collect()
    }

    #[test]
    fn numbers_are_spread_and_bounded() {
        install(WINDOW_SIZE_MIN, |_, _| {});
        assert_eq!(draw(1000).into_iter().collect::<BTreeSet<_>>().len(), 1000);
        let small: BTreeSet<u64> = (0..1000).map(|_| Rng.below(10)).collect();
        assert_eq!(small.into_iter().collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
        assert_eq!(Rng.below(0), 0);
        let mut long = [0; 1000];
        Rng.fill(&mut long);
        assert!(long.chunks(20).all(|part| part != [0; 20]));
    }

    /// The same memory, restored twice between any two looks at the boot page: what is drawn when the draw ends in the
    /// new life is nothing that the other life, or the one before, has drawn.
    #[test]
    fn c04_two_restores_of_one_checkpoint_draw_different_numbers() {
        install(WINDOW_SIZE_MIN, |_, _| {});
        let first = draw(1)[0];
        let before = steps();
        let unrestored = draw(1)[0];
        let count = steps() - before;
        for at in 0..=count {
            let mut seen = BTreeSet::from([first]);
            for entropy in [1, 2] {
                GENERATOR.with(RefCell::take);
                install(WINDOW_SIZE_MIN, |_, _| {});
                assert_eq!(draw(1)[0], first, "the same state");
                restore_at(steps() + at, Checkpoint { entropy });
                let drawn = draw(1)[0];
                let in_time = host(|host| host.restores) == 1;
                assert_eq!(drawn == unrestored, !in_time, "at {at}");
                assert!(!in_time || seen.insert(drawn), "at {at}");
                assert!(seen.insert(draw(1)[0]), "at {at}");
            }
        }
    }
}
