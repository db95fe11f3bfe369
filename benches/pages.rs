//! A district that runs the program `pages`, and what it says.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use district::api::client::Events;
use district::api::event::{Event, EventKind};
use district::api::name::Name;
use district::api::spec::{Checkpoints, Spec};

use crate::world::{next, spec};

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// A checkpointed district that has `fill` pages and writes to `write` of them each `period`.
pub fn district(name: &str, memory: u64, fill: u64, write: u64, period: Duration) -> Result<Spec> {
    let arguments = [fill, write, u64::try_from(period.as_millis())?].map(|number| number.to_string());
    let mut spec = spec(name, "pages", &arguments.each_ref().map(String::as_str))?;
    spec.memory = memory;
    spec.checkpoints = Some(Checkpoints::default());
    Ok(spec)
}

/// The next log line of a district that begins so, without that.
pub fn said(events: &mut Events<'_>, district: &Name, prefix: &str) -> Result<String> {
    loop {
        let Event { kind, district: of, text, .. } = next(events)?;
        if of.as_ref() != Some(district) {
            continue;
        }
        if kind == EventKind::Log
            && let Some(rest) = text.strip_prefix(prefix)
        {
            return Ok(rest.trim().to_owned());
        }
        let ended = [EventKind::Exited, EventKind::Faulted, EventKind::Lost, EventKind::CheckpointFailed];
        ensure!(!ended.contains(&kind), "district {district}: {text}");
    }
}

/// When it was restored, in nanoseconds since 1970, after `asked`.
pub fn restored(events: &mut Events<'_>, district: &Name, asked: u64) -> Result<u64> {
    loop {
        let said = said(events, district, "restored")?;
        let time = said.parse().with_context(|| format!("`pages` says {said:?}"))?;
        if time >= asked {
            return Ok(time);
        }
    }
}

/// How often it has written, and when it said so, in nanoseconds since 1970.
pub fn wrote(events: &mut Events<'_>, district: &Name) -> Result<(u64, u64)> {
    let said = said(events, district, "wrote")?;
    let numbers = said.split_once(' ').and_then(|(count, time)| Some((count.parse().ok()?, time.parse().ok()?)));
    numbers.with_context(|| format!("`pages` says {said:?}"))
}

/// Nanoseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
