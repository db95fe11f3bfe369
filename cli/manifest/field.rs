//! The lists and numbers of a district: what it publishes, and its limits.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::reader::Reader;
use crate::api::rules::{self, Wrong};
use crate::api::spec::Limits;

const LIMITS: [&str; 7] = ["handles", "exports", "queued-bytes", "watches", "bindings", "frames-per-second", "calls"];

/// Reads `publishes`.
pub fn read_publishes(reader: &mut Reader, value: &Spanned<DeValue<'_>>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (span, name) in reader.strings("publishes", value, "count").unwrap_or_default() {
        reader.checked(span.clone(), rules::published_name(name));
        if names.iter().any(|known| known == name) {
            reader.mistake(span, Wrong::new(format!("`{name}` is published twice"), "leave one of them out"));
        }
        names.push(name.to_owned());
    }
    reader.checked(value.span(), rules::names("published names", names.len()));
    names
}

/// Reads `limits`.
pub fn read_limits(reader: &mut Reader, table: &DeTable<'_>) -> Limits {
    reader.unknown_fields(table, &LIMITS, "`limits`");
    let mut count = |name: &str| table.get(name).and_then(|value| reader.count(name, value));
    let mut limits = Limits {
        handles: count("handles"),
        exports: count("exports"),
        queued_bytes: None,
        watches: count("watches"),
        bindings: count("bindings"),
        frames_per_second: count("frames-per-second"),
        calls: count("calls"),
    };
    limits.queued_bytes = table.get("queued-bytes").and_then(|value| reader.size("queued-bytes", value));
    limits
}
