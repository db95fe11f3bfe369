//! What only all districts of a manifest together show: who refers to whom.

use std::collections::{BTreeMap, BTreeSet};

use super::district::Draft;
use super::grant::Reference;
use super::near;
use super::reader::Reader;
use crate::api::name::Name;
use crate::api::rules::Wrong;

/// Checks that everything that is referred to is published by a district of the same manifest, and that no district
/// waits for itself to begin.
pub fn check(reader: &mut Reader, drafts: &[Draft]) {
    let by_name: BTreeMap<&Name, &Draft> = drafts.iter().map(|draft| (&draft.spec.name, draft)).collect();
    for draft in drafts {
        for reference in draft.references.iter().chain(&draft.bootstrap) {
            let result = check_reference(reference, &by_name);
            reader.checked(reference.span.clone(), result);
        }
    }
    check_cycles(reader, drafts, &by_name);
}

fn check_reference(reference: &Reference, by_name: &BTreeMap<&Name, &Draft>) -> Result<(), Wrong> {
    let (district, name) = (&reference.published.district, &reference.published.name);
    let Some(owner) = by_name.get(district) else {
        let known: Vec<&str> = by_name.keys().map(|name| name.as_str()).collect();
        return Err(Wrong::new(format!("unknown district `{district}`"), near::suggestion(district.as_str(), &known)));
    };
    if owner.spec.publishes.contains(name) {
        return Ok(());
    }
    let known: Vec<&str> = owner.spec.publishes.iter().map(String::as_str).collect();
    let remedy = if known.is_empty() {
        format!("add `publishes = [{name:?}]` to district `{district}`")
    } else {
        format!("{}; or add it to `publishes` of district `{district}`", near::suggestion(name, &known))
    };
    Err(Wrong::new(format!("district `{district}` does not publish `{}`", name.escape_debug()), remedy))
}

/// Each district has at most one bootstrap, so from each there is one way to follow, which ends or comes back.
fn check_cycles(reader: &mut Reader, drafts: &[Draft], by_name: &BTreeMap<&Name, &Draft>) {
    let mut done: BTreeSet<&Name> = BTreeSet::new();
    for draft in drafts {
        let mut way: Vec<&Draft> = Vec::new();
        let mut here = draft;
        while done.insert(&here.spec.name) {
            way.push(here);
            let Some(next) = here.bootstrap.as_ref().and_then(|to| by_name.get(&to.published.district)) else { break };
            here = next;
            if let Some(start) = way.iter().position(|earlier| earlier.spec.name == here.spec.name) {
                report_cycle(reader, &way[start..]);
                break;
            }
        }
    }
}

fn report_cycle(reader: &mut Reader, cycle: &[&Draft]) {
    let Some(first) = cycle.first() else { return };
    let names: Vec<&str> = cycle.iter().chain(std::iter::once(first)).map(|draft| draft.spec.name.as_str()).collect();
    let wrong = Wrong::new(
        format!("bootstrap cycle: {}", names.join(" -> ")),
        "each of them needs the next to begin; give one of them `grants` in place of its `bootstrap`",
    );
    if let Some(bootstrap) = &first.bootstrap {
        reader.mistake(bootstrap.span.clone(), wrong);
    }
}
