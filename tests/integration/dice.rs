//! Choosing at random, so that it can be chosen again.

/// What a variable of the environment says, a number.
pub fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number")))
}

/// A generator that is good enough to choose by: `splitmix64`.
pub struct Dice(u64);

impl Dice {
    /// Dice that fall as `DISTRICT_SEED` says, or as they like; then they say how.
    pub fn new() -> Dice {
        let any =
            || u64::from(std::process::id()) << 32 | u64::from(std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos());
        let seed = number("DISTRICT_SEED").unwrap_or_else(any);
        println!("DISTRICT_SEED={seed}");
        Dice(seed)
    }

    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ z >> 31) % sides as u64).unwrap()
    }
}
