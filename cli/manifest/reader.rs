//! Typed reading of TOML values: each function gives the value, or notes the mistake and gives nothing.

use std::ops::Range;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::Mistake;
use super::near;
use crate::api::rules::Wrong;
use crate::terminal::units;

/// The text of a manifest and the mistakes found in it so far.
#[derive(Debug)]
pub struct Reader<'t> {
    text: &'t str,
    mistakes: Vec<Mistake>,
}

fn article(kind: &str) -> &'static str {
    if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

impl<'t> Reader<'t> {
    /// A reader that has found nothing yet.
    pub fn new(text: &'t str) -> Self {
        Reader { text, mistakes: Vec::new() }
    }

    /// Success if nothing was wrong.
    pub fn finish(self) -> Result<(), Vec<Mistake>> {
        if self.mistakes.is_empty() { Ok(()) } else { Err(self.mistakes) }
    }

    /// Notes a mistake at this place of the text.
    pub fn mistake(&mut self, span: Range<usize>, wrong: Wrong) {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        self.mistakes.push(Mistake { line, wrong });
    }

    /// The value if the check that it went through liked it.
    pub fn checked<T>(&mut self, span: Range<usize>, result: Result<T, Wrong>) -> Option<T> {
        result.map_err(|wrong| self.mistake(span, wrong)).ok()
    }

    fn wrong_type(&mut self, what: &str, value: &Spanned<DeValue<'_>>, wanted: &str, example: &str) {
        let kind = value.get_ref().type_str();
        self.mistake(
            value.span(),
            Wrong::new(
                format!("`{what}` is {} {kind}, not {} {wanted}", article(kind), article(wanted)),
                format!("write it like this: {example}"),
            ),
        );
    }

    /// Notes the fields of a table that mean nothing.
    pub fn unknown_fields(&mut self, table: &DeTable<'_>, known: &[&str], place: &str) {
        for key in table.keys() {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                let what = format!("unknown field `{}` in {place}", name.escape_debug());
                self.mistake(key.span(), Wrong::new(what, near::suggestion(name, known)));
            }
        }
    }

    /// A table.
    pub fn table<'v, 'i>(&mut self, what: &str, value: &'v Spanned<DeValue<'i>>) -> Option<&'v DeTable<'i>> {
        if let DeValue::Table(table) = value.get_ref() {
            return Some(table);
        }
        self.wrong_type(what, value, "table", &format!("[{what}]"));
        None
    }

    /// A string.
    pub fn string<'v>(&mut self, what: &str, value: &'v Spanned<DeValue<'_>>, example: &str) -> Option<&'v str> {
        if let DeValue::String(text) = value.get_ref() {
            return Some(text);
        }
        self.wrong_type(what, value, "string", &format!("{what} = \"{example}\""));
        None
    }

    /// A list of strings, each with its place.
    pub fn strings<'v>(
        &mut self,
        what: &str,
        value: &'v Spanned<DeValue<'_>>,
        example: &str,
    ) -> Option<Vec<(Range<usize>, &'v str)>> {
        let DeValue::Array(array) = value.get_ref() else {
            self.wrong_type(what, value, "array", &format!("{what} = [\"{example}\"]"));
            return None;
        };
        let mut all = Vec::with_capacity(array.len());
        for element in array.iter() {
            match element.get_ref() {
                DeValue::String(text) => all.push((element.span(), text.as_ref())),
                _ => self.wrong_type(what, element, "string", &format!("{what} = [\"{example}\"]")),
            }
        }
        (all.len() == array.len()).then_some(all)
    }

    /// A number from 0 to `most`.
    pub fn number(&mut self, what: &str, value: &Spanned<DeValue<'_>>, most: u64) -> Option<u64> {
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong_type(what, value, "integer", &format!("{what} = 42"));
            return None;
        };
        match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if number <= most => Some(number),
            _ => {
                let wrong = Wrong::new(
                    format!("`{what}` of {} is out of range", integer.as_str()),
                    format!("`{what}` is 0 to {most}"),
                );
                self.mistake(value.span(), wrong);
                None
            }
        }
    }

    /// A number that a `u32` holds, not 0.
    pub fn count(&mut self, what: &str, value: &Spanned<DeValue<'_>>) -> Option<u32> {
        let number = self.number(what, value, u64::from(u32::MAX))?;
        if number == 0 {
            self.mistake(value.span(), Wrong::new(format!("`{what}` is 0"), "use at least 1, or leave it out"));
        }
        u32::try_from(number).ok()
    }

    /// A size in bytes.
    pub fn size(&mut self, what: &str, value: &Spanned<DeValue<'_>>) -> Option<u64> {
        let text = self.string(what, value, "8MiB")?;
        let wrong = || {
            Wrong::new(format!("`{what}` of {text:?} is no size"), "write a whole number and KiB, MiB or GiB: \"8MiB\"")
        };
        let size = units::parse_size(text).ok_or_else(wrong);
        self.checked(value.span(), size)
    }

    /// A duration.
    pub fn duration(&mut self, what: &str, value: &Spanned<DeValue<'_>>) -> Option<Duration> {
        let text = self.string(what, value, "100ms")?;
        let wrong = || {
            Wrong::new(
                format!("`{what}` of {text:?} is no duration"),
                "write a whole number and ms, s, min or h: \"100ms\"",
            )
        };
        let duration = units::parse_duration(text).ok_or_else(wrong);
        self.checked(value.span(), duration)
    }
}
