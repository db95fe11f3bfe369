//! Measured numbers and what is said about them.

/// Numbers of one kind, in any order.
#[derive(Debug, Default)]
pub struct Samples {
    values: Vec<f64>,
}

impl Samples {
    /// Adds one.
    pub fn add(&mut self, value: f64) {
        self.values.push(value);
    }

    /// Adds many.
    pub fn extend(&mut self, values: impl IntoIterator<Item = f64>) {
        self.values.extend(values);
    }

    /// The one in the middle.
    pub fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// The one that 99 % do not exceed.
    pub fn p99(&self) -> f64 {
        self.at(0.99)
    }

    /// The sums of the samples of two kinds, taken in pairs.
    pub fn plus(&self, other: &Samples) -> Samples {
        self.values.iter().zip(&other.values).map(|(a, b)| a + b).collect()
    }

    /// All of them, in another unit.
    pub fn scaled(self, factor: f64) -> Samples {
        self.values.into_iter().map(|value| value * factor).collect()
    }

    fn at(&self, part: f64) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        #[expect(clippy::cast_possible_truncation, reason = "an index, rounded up")]
        let index = (last as f64 * part).ceil() as usize;
        sorted.get(index).copied().unwrap_or(f64::NAN)
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        Samples { values: values.into_iter().collect() }
    }
}
