//! The results: a table for people, and JSON for programs.

use std::fmt;
use std::io::{self, Write};

use serde_json::{Value, json};

use crate::samples::Samples;

/// What is promised about a benchmark. A time or size is better the smaller it is, a rate the larger.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// The median is at most this.
    AtMost(f64),
    /// The median is at least this.
    AtLeast(f64),
    /// The median is at most so many times that of the floor.
    Ratio(f64),
    /// The median is at most so much more than that of the floor.
    Above(f64),
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Goal::AtMost(most) => write!(f, "<= {most}"),
            Goal::AtLeast(least) => write!(f, ">= {least}"),
            Goal::Ratio(most) => write!(f, "ratio <= {most}"),
            Goal::Above(most) => write!(f, "<= floor + {most}"),
        }
    }
}

/// The result of one benchmark.
#[derive(Debug)]
pub struct Row {
    name: &'static str,
    unit: &'static str,
    samples: Samples,
    floor: Option<f64>,
    goals: Vec<Goal>,
}

impl Row {
    /// A result that is compared with nothing.
    pub fn new(name: &'static str, unit: &'static str, samples: Samples) -> Row {
        Row { name, unit, samples, floor: None, goals: Vec::new() }
    }

    /// Compares it with what was measured beside it.
    pub fn floor(self, floor: &Samples) -> Row {
        Row { floor: Some(floor.median()), ..self }
    }

    /// Holds it to a promise.
    pub fn goal(mut self, goal: Goal) -> Row {
        self.goals.push(goal);
        self
    }

    fn ratio(&self) -> Option<f64> {
        Some(self.samples.median() / self.floor?)
    }

    fn goal_text(&self) -> Option<String> {
        let all: Vec<_> = self.goals.iter().map(Goal::to_string).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }

    fn met(&self) -> Option<bool> {
        let median = self.samples.median();
        let holds = |goal: &Goal| match *goal {
            Goal::AtMost(most) => median <= most,
            Goal::AtLeast(least) => median >= least,
            Goal::Ratio(most) => self.ratio().is_some_and(|ratio| ratio <= most),
            Goal::Above(most) => self.floor.is_some_and(|floor| median <= floor + most),
        };
        (!self.goals.is_empty()).then(|| self.goals.iter().all(holds))
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "unit": self.unit,
            "median": self.samples.median(),
            "p99": self.samples.p99(),
            "floor_median": self.floor,
            "ratio": self.ratio(),
            "goal": self.goal_text(),
            "met": self.met(),
        })
    }

    fn cells(&self) -> [String; 8] {
        [
            self.name.to_owned(),
            self.unit.to_owned(),
            short(self.samples.median()),
            short(self.samples.p99()),
            self.floor.map(short).unwrap_or_default(),
            self.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            self.goal_text().unwrap_or_default(),
            self.met().map(|met| if met { "yes" } else { "no" }).unwrap_or_default().to_owned(),
        ]
    }
}

/// Three digits or more, without a fraction that says nothing.
fn short(number: f64) -> String {
    match number.abs() {
        size if size >= 100.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

const HEADINGS: [&str; 8] = ["name", "unit", "median", "p99", "floor", "ratio", "goal", "met"];

/// Writes all results as a table.
pub fn write_table(rows: &[Row], out: &mut impl Write) -> io::Result<()> {
    let lines: Vec<[String; 8]> =
        [HEADINGS.map(str::to_owned)].into_iter().chain(rows.iter().map(Row::cells)).collect();
    let width = |column: usize| lines.iter().map(|cells| cells[column].len()).max().unwrap_or_default();
    let widths: [usize; 8] = std::array::from_fn(width);
    for cells in &lines {
        let padded = cells.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
            // Numbers end below each other.
            2..=5 => format!("{cell:>width$}"),
            _ => format!("{cell:<width$}"),
        });
        writeln!(out, "{}", padded.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// All results as one JSON array.
pub fn json(rows: &[Row]) -> Value {
    rows.iter().map(Row::json).collect()
}
