//! What people see: sizes and durations, tables, colours, and output that may be closed at any moment.

pub mod clock;
pub mod output;
pub mod style;
pub mod table;
pub mod text;
pub mod units;
