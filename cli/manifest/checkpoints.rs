//! The `checkpoints` of a district: `"none"`, `"on-demand"`, or a table with numbers.

use toml::Spanned;
use toml::de::DeValue;

use super::near;
use super::reader::Reader;
use crate::api::rules::Wrong;
use crate::api::spec::Checkpoints;

const FIELDS: [&str; 3] = ["every", "dirty-pages", "cold-restart"];
const NAMES: [&str; 2] = ["none", "on-demand"];

/// Reads it; none where something is wrong.
pub fn read(reader: &mut Reader, value: &Spanned<DeValue<'_>>) -> Option<Checkpoints> {
    let table = match value.get_ref() {
        DeValue::String(name) if name == "none" => return None,
        DeValue::String(name) if name == "on-demand" => return Some(Checkpoints::default()),
        DeValue::String(name) => {
            let wrong = Wrong::new(format!("unknown `checkpoints` {name:?}"), near::suggestion(name, &NAMES));
            reader.mistake(value.span(), wrong);
            return None;
        }
        DeValue::Table(table) => table,
        other => {
            let wrong = Wrong::new(
                format!("`checkpoints` is neither a string nor a table but: {}", other.type_str()),
                "write `checkpoints = { every = \"1s\" }`, `checkpoints = \"on-demand\"` or `checkpoints = \"none\"`",
            );
            reader.mistake(value.span(), wrong);
            return None;
        }
    };
    if table.is_empty() {
        let remedy = "write `checkpoints = \"on-demand\"`, or say when: `checkpoints = { every = \"1s\" }`";
        reader.mistake(value.span(), Wrong::new("`checkpoints` is an empty table", remedy));
        return None;
    }
    reader.unknown_fields(table, &FIELDS, "`checkpoints`");
    let mut checkpoints = Checkpoints::default();
    if let Some(value) = table.get("every") {
        checkpoints.every = reader.duration("every", value);
    }
    if let Some(value) = table.get("dirty-pages") {
        checkpoints.dirty_pages = reader.number("dirty-pages", value, u64::from(u32::MAX));
    }
    if let Some(value) = table.get("cold-restart") {
        match value.get_ref() {
            DeValue::Boolean(cold) => checkpoints.cold_restart = *cold,
            other => {
                let wrong = Wrong::new(
                    format!("`cold-restart` is no boolean but: {}", other.type_str()),
                    "write `cold-restart = true`",
                );
                reader.mistake(value.span(), wrong);
            }
        }
    }
    reader.checked(value.span(), checkpoints.check())?;
    Some(checkpoints)
}
