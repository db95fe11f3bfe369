//! One district of a manifest.

use std::borrow::Cow;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::grant::{self, Reference};
use super::image::{Image, ImageSearch};
use super::reader::Reader;
use super::{checkpoints, field, policy};
use crate::api::name::Name;
use crate::api::rules::{self, Wrong};
use crate::api::spec::Spec;

const FIELDS: [&str; 10] =
    ["image", "memory", "window", "arguments", "restart", "checkpoints", "publishes", "bootstrap", "grants", "limits"];

/// A district that has been read, and what has still to be compared with others.
#[derive(Debug)]
pub struct Draft {
    /// The district; with defaults where something was wrong.
    pub spec: Spec,
    /// Grants that lead to other districts.
    pub references: Vec<Reference>,
    /// The bootstrap, if it is given.
    pub bootstrap: Option<Reference>,
}

/// Reads one entry of `districts`. Without a proper name there is no draft, but its other mistakes are noted all the
/// same.
pub fn read(
    reader: &mut Reader,
    key: &Spanned<Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
    folder: &Path,
    images: &ImageSearch,
) -> Option<Draft> {
    let text: &str = key.get_ref();
    let name = reader.checked(key.span(), Name::new(text));
    let table = reader.table(&format!("districts.{text}"), value)?;
    reader.unknown_fields(table, &FIELDS, &format!("district `{}`", text.escape_debug()));
    let image = read_image(reader, key, table, folder, images);

    // The name only stands in for a wrong one until the mistake that has been noted is reported.
    let stand_in = name.clone().or_else(|| Name::new("unnamed").ok())?;
    let path = image.as_ref().map(|image| image.path.clone()).unwrap_or_default();
    let mut draft = Draft { spec: Spec::new(stand_in, path), references: Vec::new(), bootstrap: None };
    read_program(reader, table, &mut draft.spec);
    if let Some(image) = image {
        // The memory is to blame if it is given, else the name: such a program must give it.
        let span = table.get("memory").map_or(key.span(), Spanned::span);
        reader.checked(span, image.check_memory(draft.spec.memory, draft.spec.window));
    }
    read_keys(reader, table, &mut draft);
    name.map(|_| draft)
}

fn read_image(
    reader: &mut Reader,
    key: &Spanned<Cow<'_, str>>,
    table: &DeTable<'_>,
    folder: &Path,
    images: &ImageSearch,
) -> Option<Image> {
    let Some(value) = table.get("image") else {
        let what = format!("district `{}` has no image", key.get_ref().escape_debug());
        reader.mistake(key.span(), Wrong::new(what, "add a line `image = \"FILE\"`, the program that it runs"));
        return None;
    };
    let image = reader.string("image", value, "FILE")?;
    reader.checked(value.span(), images.find(image, folder))
}

fn read_program(reader: &mut Reader, table: &DeTable<'_>, spec: &mut Spec) {
    if let Some(value) = table.get("memory")
        && let Some(size) = reader.size("memory", value)
    {
        reader.checked(value.span(), rules::memory(size));
        spec.memory = size;
    }
    if let Some(value) = table.get("window")
        && let Some(size) = reader.size("window", value)
    {
        reader.checked(value.span(), rules::window(size));
        spec.window = size;
    }
    if let Some(value) = table.get("arguments")
        && let Some(arguments) = reader.strings("arguments", value, "--verbose")
    {
        spec.arguments = arguments.into_iter().map(|(_, argument)| argument.to_owned()).collect();
        reader.checked(value.span(), rules::arguments(&spec.arguments));
    }
    if let Some(value) = table.get("restart") {
        spec.restart = policy::read(reader, value);
    }
    if let Some(value) = table.get("checkpoints") {
        spec.checkpoints = checkpoints::read(reader, value);
        if let Some(checkpoints) = spec.checkpoints {
            reader.checked(value.span(), checkpoints.check_fit(spec.memory, spec.restart.policy));
        }
    }
    if let Some(value) = table.get("limits")
        && let Some(limits) = reader.table("limits", value)
    {
        spec.limits = field::read_limits(reader, limits);
    }
}

fn read_keys(reader: &mut Reader, table: &DeTable<'_>, draft: &mut Draft) {
    if let Some(value) = table.get("publishes") {
        draft.spec.publishes = field::read_publishes(reader, value);
    }
    if let Some(value) = table.get("grants")
        && let Some(grants) = reader.table("grants", value)
    {
        draft.spec.grants = grant::read_all(reader, grants, &mut draft.references);
        reader.checked(value.span(), rules::names("grants", draft.spec.grants.len()));
    }
    if let Some(value) = table.get("bootstrap") {
        draft.bootstrap = grant::read_bootstrap(reader, value);
        draft.spec.bootstrap = draft.bootstrap.as_ref().map(|reference| reference.published.clone());
        if !draft.spec.grants.is_empty() {
            let what = format!("district `{}` has grants and a bootstrap", draft.spec.name);
            let remedy = "handle 1 is either the directory of the grants or the bootstrap; remove one of them";
            reader.mistake(value.span(), Wrong::new(what, remedy));
        }
    }
}
