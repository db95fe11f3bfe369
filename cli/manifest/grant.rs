//! The `grants` and the `bootstrap` of a district.

use district_protocol::rights::Rights;
use std::collections::BTreeMap;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::near;
use super::reader::Reader;
use crate::api::name::{HOST, Name};
use crate::api::right_names;
use crate::api::rules::{self, Wrong};
use crate::api::spec::{Grant, Published, Target};

/// A place that names what another district publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Where.
    pub span: Range<usize>,
    /// What.
    pub published: Published,
}

/// What the text `owner/name` leads to.
///
/// # Errors
/// It is not of that form, or the host serves no such thing.
pub fn parse_target(text: &str) -> Result<Target, Wrong> {
    let Some((owner, name)) = text.split_once('/') else {
        return Err(Wrong::new(
            format!("{text:?} does not say whose it is"),
            "write `host/log`, `host/clock`, `host/random`, `host/checkpoint` or `DISTRICT/NAME`",
        ));
    };
    if owner == HOST {
        let found = Target::HOST_NAMES.iter().find(|(known, _)| *known == name);
        let known = Target::HOST_NAMES.map(|(known, _)| known);
        let wrong = || Wrong::new(format!("the host serves no {name:?}"), near::suggestion(name, &known));
        return found.map(|(_, target)| target.clone()).ok_or_else(wrong);
    }
    parse_published(owner, name).map(Target::Published)
}

fn parse_published(owner: &str, name: &str) -> Result<Published, Wrong> {
    let district = Name::new(owner)?;
    rules::published_name(name)?;
    Ok(Published { district, name: name.to_owned() })
}

/// Reads all grants of a district, and notes which of them lead to other districts.
pub fn read_all(reader: &mut Reader, table: &DeTable<'_>, references: &mut Vec<Reference>) -> BTreeMap<String, Grant> {
    let mut grants = BTreeMap::new();
    for (key, value) in table {
        let name: &str = key.get_ref();
        reader.checked(key.span(), rules::grant_name(name));
        if let Some(grant) = read(reader, name, value, references) {
            grants.insert(name.to_owned(), grant);
        }
    }
    grants
}

fn read(
    reader: &mut Reader,
    name: &str,
    value: &Spanned<DeValue<'_>>,
    references: &mut Vec<Reference>,
) -> Option<Grant> {
    match value.get_ref() {
        DeValue::String(text) => target(reader, value.span(), text, references).map(Grant::to),
        DeValue::Table(table) => read_table(reader, name, value.span(), table, references),
        other => {
            let wrong = Wrong::new(
                format!("grant `{name}` is neither a string nor a table but: {}", other.type_str()),
                format!("write `{name} = \"host/log\"`, or `{name} = {{ number = 42 }}`"),
            );
            reader.mistake(value.span(), wrong);
            None
        }
    }
}

fn target(reader: &mut Reader, span: Range<usize>, text: &str, references: &mut Vec<Reference>) -> Option<Target> {
    let target = reader.checked(span.clone(), parse_target(text))?;
    if let Target::Published(published) = &target {
        references.push(Reference { span, published: published.clone() });
    }
    Some(target)
}

fn read_table(
    reader: &mut Reader,
    name: &str,
    span: Range<usize>,
    table: &DeTable<'_>,
    references: &mut Vec<Reference>,
) -> Option<Grant> {
    reader.unknown_fields(table, &["to", "number", "rights"], &format!("grant `{name}`"));
    let rights = table.get("rights").map(|value| read_rights(reader, value));
    let to = match (table.get("to"), table.get("number")) {
        (Some(to), None) => {
            let text = reader.string("to", to, "host/log")?;
            target(reader, to.span(), text, references)?
        }
        (None, Some(number)) => Target::Number(reader.number("number", number, u64::MAX)?),
        (to, _) => {
            let count = if to.is_some() { "both" } else { "neither" };
            let wrong = Wrong::new(
                format!("grant `{name}` has {count} `to` and `number`"),
                format!("write `{name} = {{ to = \"DISTRICT/NAME\" }}` or `{name} = {{ number = 42 }}`"),
            );
            reader.mistake(span, wrong);
            return None;
        }
    };
    Some(Grant { to, rights })
}

fn read_rights(reader: &mut Reader, value: &Spanned<DeValue<'_>>) -> Rights {
    let Some(names) = reader.strings("rights", value, "call") else { return Rights::NONE };
    if names.is_empty() {
        let remedy = "name at least one right, or leave `rights` out for all there are";
        reader.mistake(value.span(), Wrong::new("`rights` is empty", remedy));
    }
    let mut rights = Rights::NONE;
    for (span, name) in names {
        let wrong = || Wrong::new(format!("unknown right {name:?}"), near::suggestion(name, &Rights::NAMES));
        if let Some(right) = reader.checked(span.clone(), right_names::parse(name).ok_or_else(wrong)) {
            if rights.contains(right) {
                reader.mistake(span, Wrong::new(format!("right `{name}` is there twice"), "leave one of them out"));
            }
            rights = rights.union(right);
        }
    }
    rights
}

/// Reads the `bootstrap` of a district.
pub fn read_bootstrap(reader: &mut Reader, value: &Spanned<DeValue<'_>>) -> Option<Reference> {
    let text = reader.string("bootstrap", value, "DISTRICT/NAME")?;
    let target = reader.checked(value.span(), parse_target(text))?;
    if let Target::Published(published) = target {
        return Some(Reference { span: value.span(), published });
    }
    let wrong = Wrong::new(
        format!("bootstrap `{text}` is not a district's"),
        "leave `bootstrap` out, and grant it in `grants`; the directory of those is then handle 1",
    );
    reader.mistake(value.span(), wrong);
    None
}
