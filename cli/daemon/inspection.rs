//! The broker's keys, in the words of people.

use district_broker::{DistrictId, KeyState, KeyView, TargetView};
use district_protocol::operation::KeyKind;
use district_protocol::rights::Rights;
use district_protocol::status::Reason;

use super::event_loop::EventLoop;
use crate::api::info::KeyInfo;
use crate::api::name::Name;

/// The keys of one district, or of all that are running.
pub fn keys(event_loop: &EventLoop, only: Option<DistrictId>) -> Vec<KeyInfo> {
    let mut found = Vec::new();
    for district in event_loop.core.inspect().districts {
        if only.is_some_and(|id| id != district.id) {
            continue;
        }
        let Some(holder) = name_of(event_loop, district.id) else { continue };
        found.extend(district.keys.iter().map(|key| describe(event_loop, holder.clone(), key)));
    }
    found.sort_by(|a, b| (&a.holder, a.handle).cmp(&(&b.holder, b.handle)));
    found
}

fn describe(event_loop: &EventLoop, holder: Name, key: &KeyView) -> KeyInfo {
    KeyInfo {
        holder,
        handle: key.handle.0,
        kind: kind(key.kind).to_owned(),
        target: target(event_loop, &key.target),
        rights: rights(key.rights),
        badge: (key.badge != 0).then_some(key.badge),
        weak: key.weak,
        from: key.from.and_then(|id| name_of(event_loop, id)),
        broken: match key.state {
            KeyState::Live => None,
            KeyState::InTransit => Some("in transit".to_owned()),
            KeyState::Broken(why) => Some(reason(why).to_owned()),
        },
    }
}

fn name_of(event_loop: &EventLoop, id: DistrictId) -> Option<Name> {
    event_loop.slot_of(id).map(|slot| event_loop.slots[slot].name.clone())
}

fn target(event_loop: &EventLoop, target: &TargetView) -> String {
    let name = |id: &DistrictId| match name_of(event_loop, *id) {
        Some(name) => name.to_string(),
        None => id.to_string(),
    };
    match target {
        TargetView::Nothing => "nothing".to_owned(),
        TargetView::Export { owner, export } => format!("{} (export {export})", name(owner)),
        TargetView::Call { caller } => format!("a call of {}", name(caller)),
        TargetView::Directory { owner, publish: None } => format!("names of {}", name(owner)),
        TargetView::Directory { owner, publish: Some(published) } => format!("{}/publish/{published}", name(owner)),
        TargetView::Log { owner } => format!("log of {}", name(owner)),
        TargetView::Number(number) => number.to_string(),
        TargetView::Clock => "host/clock".to_owned(),
        TargetView::Random => "host/random".to_owned(),
        TargetView::Supervisor { owner } => format!("supervisor of {}", name(owner)),
        TargetView::Service { owner, name: service } => format!("{}/{service}", name(owner)),
    }
}

fn kind(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::Directory => "directory",
        KeyKind::Entry => "entry",
        KeyKind::Reply => "reply",
        KeyKind::Notify => "notify",
        KeyKind::Number => "number",
        KeyKind::Log => "log",
        KeyKind::Clock => "clock",
        KeyKind::Random => "random",
        KeyKind::Supervisor => "supervisor",
    }
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Revoked => "revoked",
        Reason::Destroyed => "destroyed",
        Reason::PeerRestart => "peer restarted",
        Reason::SelfRestart => "restarted",
        Reason::Unreachable => "unreachable",
        Reason::Used => "used",
        Reason::Deadline => "deadline",
        Reason::NoReply => "no reply",
        Reason::Cancelled => "cancelled",
    }
}

fn rights(rights: Rights) -> Vec<String> {
    let held = |bit: &usize| rights.0 >> bit & 1 == 1;
    (0..Rights::NAMES.len()).filter(held).map(|bit| Rights::NAMES[bit].to_owned()).collect()
}
