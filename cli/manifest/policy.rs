//! The `restart` of a district: the name of a policy, or a table with numbers.

use std::ops::Range;
use toml::Spanned;
use toml::de::DeValue;

use super::near;
use super::reader::Reader;
use crate::api::rules::Wrong;
use crate::api::spec::{Policy, Restart};

const FIELDS: [&str; 5] = ["policy", "backoff", "backoff-max", "intensity", "within"];

fn policy(reader: &mut Reader, span: Range<usize>, name: &str) -> Option<Policy> {
    let found = Policy::NAMES.iter().find(|(known, _)| *known == name);
    let known = Policy::NAMES.map(|(known, _)| known);
    let wrong = || Wrong::new(format!("unknown restart policy {name:?}"), near::suggestion(name, &known));
    reader.checked(span, found.map(|(_, policy)| *policy).ok_or_else(wrong))
}

/// Reads it; the default where something is wrong.
pub fn read(reader: &mut Reader, value: &Spanned<DeValue<'_>>) -> Restart {
    let mut restart = Restart::default();
    if let DeValue::String(name) = value.get_ref() {
        restart.policy = policy(reader, value.span(), name).unwrap_or(restart.policy);
        return restart;
    }
    let DeValue::Table(table) = value.get_ref() else {
        let wrong = Wrong::new(
            format!("`restart` is neither a string nor a table but: {}", value.get_ref().type_str()),
            "write `restart = \"on-failure\"` or `restart = { policy = \"on-failure\", backoff = \"100ms\" }`",
        );
        reader.mistake(value.span(), wrong);
        return restart;
    };
    reader.unknown_fields(table, &FIELDS, "`restart`");
    let mut sound = true;
    if let Some(value) = table.get("policy")
        && let Some(name) = reader.string("policy", value, "on-failure")
    {
        restart.policy = policy(reader, value.span(), name).unwrap_or(restart.policy);
    }
    for (name, place) in
        [("backoff", &mut restart.backoff), ("backoff-max", &mut restart.backoff_max), ("within", &mut restart.within)]
    {
        if let Some(value) = table.get(name) {
            match reader.duration(name, value) {
                Some(duration) => *place = duration,
                None => sound = false,
            }
        }
    }
    if let Some(value) = table.get("intensity") {
        match reader.number("intensity", value, u64::from(u32::MAX)).and_then(|number| u32::try_from(number).ok()) {
            Some(number) => restart.intensity = number,
            None => sound = false,
        }
    }
    // A long first wait alone is no contradiction to a default.
    if !table.contains_key("backoff-max") {
        restart.backoff_max = restart.backoff_max.max(restart.backoff);
    }
    if sound {
        reader.checked(value.span(), restart.check());
    }
    restart
}
