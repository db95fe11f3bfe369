//! The computation of `ticker`: everything in it is there twice, in different ways, so that a memory, a register or a
//! stack that is not what it was shows at the next step.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hint::black_box;

/// Nodes of the list.
const NODES: u64 = 64;
/// Words of the table.
const WORDS: usize = 4096;
/// Sums in floating point begin anew after so many steps, and so are exact.
const ROUND: u64 = 1 << 20;
const LANES: usize = 4;
/// The stack gets up to so many frames deeper.
const DEPTH: u64 = 40;
/// Words in each of those frames.
const FRAME: usize = 16;

#[derive(Debug)]
struct Node {
    value: u64,
    next: Option<Box<Node>>,
}

/// Counts steps, in several ways.
#[derive(Debug)]
pub struct Tally {
    steps: u64,
    /// Sum of all step numbers, and its negative.
    sum: u64,
    mirror: u64,
    /// Sums of the step numbers of this round, each lane with its own number added.
    lanes: [f64; LANES],
    /// Values that grow by one with each step, one of them.
    list: Option<Box<Node>>,
    /// Each word says how often it was written.
    table: Vec<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Tally::new()
    }
}

impl Tally {
    /// At step 0.
    pub fn new() -> Tally {
        let list = (0..NODES).fold(None, |next, _| Some(Box::new(Node { value: 0, next })));
        let table = (0..WORDS).map(|at| word(at, 0)).collect();
        Tally { steps: 0, sum: 0, mirror: 0, lanes: [0.0; LANES], list, table }
    }

    /// How many steps were made.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One more, then a look at everything.
    ///
    /// # Errors
    /// What is not as it should be.
    pub fn step(&mut self) -> Result<(), &'static str> {
        self.steps += 1;
        self.sum = self.sum.wrapping_add(self.steps);
        self.mirror = self.mirror.wrapping_sub(self.steps);
        self.count_in_lanes();
        self.count_in_list();
        let at = place(self.steps - 1);
        self.table[at] = word(at, visits(at, self.steps));
        self.check()
    }

    fn count_in_lanes(&mut self) {
        let number = self.steps % ROUND;
        if number == 0 {
            self.lanes = [0.0; LANES];
            return;
        }
        for (lane, sum) in self.lanes.iter_mut().enumerate() {
            *sum += exact(number + lane as u64);
        }
    }

    /// A new node takes the first one's place, and sometimes the list turns round.
    fn count_in_list(&mut self) {
        let Some(first) = self.list.take() else { return };
        self.list = Some(Box::new(Node { value: first.value + 1, next: first.next }));
        if self.steps.is_multiple_of(5) {
            let (mut left, mut turned) = (self.list.take(), None);
            while let Some(mut node) = left {
                left = node.next.take();
                node.next = turned;
                turned = Some(node);
            }
            self.list = turned;
        }
    }

    fn check(&self) -> Result<(), &'static str> {
        let ensure = |holds: bool, what| if holds { Ok(()) } else { Err(what) };
        ensure(self.sum.wrapping_add(self.mirror) == 0, "the two sums differ")?;
        ensure(self.sum == triangle(self.steps), "the sum is not that of all steps")?;
        self.check_lanes()?;
        let nodes = core::iter::successors(self.list.as_deref(), |node| node.next.as_deref());
        let (count, total) = nodes.fold((0, 0), |(count, total), node| (count + 1, total + node.value));
        ensure(count == NODES, "the list has lost a node, or got one")?;
        ensure(total == self.steps, "the list counts differently")?;
        for at in [place(self.steps - 1), place(self.steps.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40)] {
            ensure(self.table[at] == word(at, visits(at, self.steps)), "a word of the table is wrong")?;
        }
        let depth = self.steps % DEPTH;
        ensure(descend(depth, self.steps) == Some(depth * (depth + 1) / 2), "the stack is not what it was")
    }

    fn check_lanes(&self) -> Result<(), &'static str> {
        let number = self.steps % ROUND;
        let sum = triangle(number);
        for (lane, value) in self.lanes.iter().enumerate() {
            // Whole numbers below 2^53, so that there is nothing to round.
            #[allow(clippy::float_cmp)]
            if *value != exact(sum + lane as u64 * number) {
                return Err("a sum in floating point is wrong");
            }
        }
        Ok(())
    }
}

/// Sum of the numbers up to `number`, modulo 2^64.
fn triangle(number: u64) -> u64 {
    let (even, odd) = if number.is_multiple_of(2) { (number / 2, number + 1) } else { (number, number / 2 + 1) };
    even.wrapping_mul(odd)
}

#[allow(clippy::cast_precision_loss)] // below 2^53
fn exact(number: u64) -> f64 {
    number as f64
}

#[allow(clippy::cast_possible_truncation)] // less than WORDS
fn place(number: u64) -> usize {
    (number % WORDS as u64) as usize
}

/// How often a word was written in so many steps.
fn visits(at: usize, steps: u64) -> u64 {
    steps / WORDS as u64 + u64::from((at as u64) < steps % WORDS as u64)
}

fn word(at: usize, visits: u64) -> u64 {
    (at as u64 ^ visits.rotate_left(20)).wrapping_mul(0xd129_0d3b_3b4e_0ca5)
}

/// Goes so deep, fills each frame with numbers, and finds them again on the way back. The sum of all depths.
#[inline(never)]
fn descend(depth: u64, seed: u64) -> Option<u64> {
    if depth == 0 {
        return Some(0);
    }
    let mut frame = [0; FRAME];
    for (at, slot) in frame.iter_mut().enumerate() {
        *slot = seed.wrapping_add(depth << 32 | at as u64);
    }
    let below = descend(depth - 1, black_box(seed))?;
    let kept = black_box(&frame).iter().zip(0..).all(|(slot, at)| *slot == seed.wrapping_add(depth << 32 | at));
    kept.then_some(below + depth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_steps_are_right() {
        let mut tally = Tally::new();
        for _ in 0..ROUND + 10_000 {
            tally.step().unwrap();
        }
        assert_eq!(tally.steps(), ROUND + 10_000);
    }

    #[test]
    fn whatever_changes_is_noticed() {
        type Spoil = fn(&mut Tally);
        let spoil: [(&str, Spoil); 7] = [
            ("sums differ", |tally| tally.sum ^= 1),
            ("not that of all steps", |tally| tally.steps += 1),
            ("floating point", |tally| tally.lanes[2] += 1.0),
            ("lost a node", |tally| tally.list = None),
            ("lost a node", |tally| {
                let list = tally.list.take();
                tally.list = Some(Box::new(Node { value: 0, next: list }));
            }),
            ("counts differently", |tally| tally.list.as_mut().unwrap().value += 1),
            ("a word", |tally| tally.table.iter_mut().for_each(|word| *word += 1)),
        ];
        for (what, spoil) in spoil {
            let mut tally = Tally::new();
            (0..1000).for_each(|_| tally.step().unwrap());
            spoil(&mut tally);
            let end = tally.check().unwrap_err();
            assert!(end.contains(what), "{what}: {end}");
        }
    }

    #[test]
    fn sums_are_right_when_they_wrap() {
        assert_eq!((triangle(0), triangle(1), triangle(4), triangle(5)), (0, 1, 10, 15));
        // (2^64 - 1) x 2^63, modulo 2^64.
        assert_eq!(triangle(u64::MAX), 1 << 63);
        assert_eq!(descend(DEPTH, 3), Some(DEPTH * (DEPTH + 1) / 2));
    }
}
