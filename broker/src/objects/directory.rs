//! Directories: names and what they mean at present (semantics, section 9).
//!
//! A district's first directory has its grants, and under `publish` one directory for each name that it may publish,
//! which stands for that name alone. What a path leads to is decided by the directory that it is resolved on; there is
//! no name for anything outside of it.

use district_protocol::operation::{KeyKind, directory};
use district_protocol::rights::Rights;
use district_protocol::status::{Argument, Status};

use super::no_keys;
use crate::call::Stage;
use crate::core::Core;
use crate::core::binding::Binding;
use crate::core::keys::Used;
use crate::core::request::{Answer, Outcome, Request, done};
use crate::district::{District, DistrictIx, Granting};
use crate::effect::Data;
use crate::key::{Key, NOT_WEAK, Target, full_rights};
use crate::object::{ObjectId, View};
use crate::service::ServiceId;

/// What a path leads to.
#[derive(Debug, Clone, Copy)]
enum Found {
    Directory { object: ObjectId, view: View },
    Granted { source: Granting, rights: Rights },
}

pub(crate) fn invoke(
    core: &mut Core,
    d: DistrictIx,
    used: Used,
    object: ObjectId,
    view: View,
    request: Request,
) -> Outcome {
    let Some(owner) = core.objects[object].owner else { return Err(Status::NotFound) };
    let at = At { owner, view };
    match request.header.operation {
        directory::LOOKUP => lookup(core, d, used, at, &request, false),
        directory::LOOKUP_WAIT => lookup(core, d, used, at, &request, true),
        directory::LIST => list(core, used, at, &request),
        directory::BIND => bind(core, d, used, at, &request, None),
        directory::REBIND => rebind(core, d, used, at, &request),
        directory::UNBIND => unbind(core, used, at, &request),
        _ => Err(Status::NoSuchOperation),
    }
}

/// The directory that an operation is for.
#[derive(Debug, Clone, Copy)]
struct At {
    owner: DistrictIx,
    view: View,
}

/// Whether this can be one component of a path.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= directory::PATH_MAX && !matches!(name, "." | "..") && !name.contains(['/', '\0'])
}

fn path(data: &[u8]) -> Result<&str, Status> {
    let path = std::str::from_utf8(data).ok().filter(|path| path.len() <= directory::PATH_MAX);
    path.filter(|path| path.split('/').all(is_name)).ok_or(Status::BadArgument(Argument::DATA))
}

fn resolve(district: &District, at: At, path: &str) -> Option<Found> {
    match at.view {
        View::Root => {
            let (first, rest) = path.split_once('/').map_or((path, None), |(first, rest)| (first, Some(rest)));
            match (district.publish, rest) {
                (Some(object), None) if first == directory::PUBLISH => {
                    Some(Found::Directory { object, view: View::Publish })
                }
                (Some(_), Some(name)) if first == directory::PUBLISH => published(district, name),
                (_, None) => granted(district, first),
                (_, Some(_)) => None,
            }
        }
        View::Publish => published(district, path),
        View::Name(_) => None,
    }
}

fn published(district: &District, name: &str) -> Option<Found> {
    let number = district.published.binary_search_by(|published| (*published.name).cmp(name)).ok()?;
    Some(Found::Directory { object: district.published[number].directory, view: View::Name(number) })
}

fn granted(district: &District, name: &str) -> Option<Found> {
    let number = district.grants.binary_search_by(|granted| (*granted.name).cmp(name)).ok()?;
    let granted = &district.grants[number];
    Some(Found::Granted { source: granted.source, rights: granted.rights })
}

fn lookup(core: &mut Core, d: DistrictIx, used: Used, at: At, request: &Request, wait: bool) -> Outcome {
    used.require(Rights::LOOKUP)?;
    let weak = core.keys[used.key].weak;
    no_keys(request)?;
    let found = resolve(&core.districts[at.owner], at, path(request.data())?).ok_or(Status::NotFound)?;
    let key = match found {
        Found::Directory { view, object } => {
            Key::new(KeyKind::Directory, Target::Object(object), directory_rights(view))
        }
        Found::Granted { source: Granting::Service(service), rights } => {
            let outcome = core.fetch_service(d, service, rights, weak);
            if !(wait && matches!(outcome, Err(Status::NotReady))) {
                return outcome.map(Some);
            }
            core.room_for_call(d, 1)?;
            let call = core.open_call(d, request, 1);
            core.suspend(call, used.key, Stage::Waiting { service, rights, weak });
            core.services[service].waiters.push(call);
            return Ok(None);
        }
        Found::Granted { source, rights } => host_key(&core.districts[at.owner], source, rights),
    };
    let rights = if weak { key.rights.without(NOT_WEAK) } else { key.rights };
    let handle = core.give(d, Key { rights, weak, ..key }, None)?;
    Ok(Some(Answer { key: Some(handle), ..Answer::result(0) }))
}

fn directory_rights(view: View) -> Rights {
    let all = full_rights(KeyKind::Directory);
    match view {
        View::Root | View::Publish => all.without(Rights::BIND).without(Rights::SEND_KEYS),
        View::Name(_) => all.without(Rights::LOOKUP).without(Rights::LIST),
    }
}

fn host_key(owner: &District, source: Granting, rights: Rights) -> Key {
    let (kind, target) = match source {
        Granting::Log => (KeyKind::Log, owner.log.map_or(Target::Nothing, Target::Object)),
        Granting::Clock => (KeyKind::Clock, Target::Clock),
        Granting::Checkpoint => (KeyKind::Supervisor, owner.supervisor.map_or(Target::Nothing, Target::Object)),
        Granting::Random => (KeyKind::Random, Target::Random),
        Granting::Number(number) => (KeyKind::Number, Target::Number(number)),
        // Not the host's; see `Core::fetch_service`.
        Granting::Service(service) => (KeyKind::Entry, Target::Service(service)),
    };
    Key::new(kind, target, rights.intersection(full_rights(kind)))
}

fn list(core: &mut Core, used: Used, at: At, request: &Request) -> Outcome {
    used.require(Rights::LIST)?;
    no_keys(request)?;
    let district = &core.districts[at.owner];
    let view = if request.data().is_empty() {
        at.view
    } else {
        match resolve(district, at, path(request.data())?) {
            Some(Found::Directory { view, .. }) => view,
            Some(Found::Granted { .. }) | None => return Err(Status::NotFound),
        }
    };
    let data = entries(core, district, view);
    if data.len() > request.capacity as usize || data.len() > district_protocol::frame::DATA_MAX {
        return Err(Status::TooBig);
    }
    Ok(Some(Answer { data: Data::from(data), ..Answer::result(0) }))
}

fn entries(core: &Core, district: &District, view: View) -> Vec<u8> {
    let directory = KeyKind::Directory as u8;
    let mut names: Vec<(&str, u8)> = match view {
        View::Root => district.grants.iter().map(|grant| (&*grant.name, grant_kind(core, grant.source))).collect(),
        View::Publish => district.published.iter().map(|published| (&*published.name, directory)).collect(),
        View::Name(_) => Vec::new(),
    };
    if view == View::Root && district.publish.is_some() {
        names.push((directory::PUBLISH, directory));
        names.sort_unstable();
    }
    let mut data = Vec::new();
    for (name, kind) in names {
        // No name is longer than 255 bytes.
        data.extend([kind, u8::try_from(name.len()).unwrap_or(0)]);
        data.extend(name.as_bytes());
    }
    data
}

fn grant_kind(core: &Core, source: Granting) -> u8 {
    match source {
        Granting::Log => KeyKind::Log as u8,
        Granting::Clock => KeyKind::Clock as u8,
        Granting::Checkpoint => KeyKind::Supervisor as u8,
        Granting::Random => KeyKind::Random as u8,
        Granting::Number(_) => KeyKind::Number as u8,
        Granting::Service(service) => core.services[service].key.map_or(0, |key| core.keys[key].kind as u8),
    }
}

/// The name that a binding operation is about. Keys that may bind stand for one name, under which there is nothing.
fn bindable(core: &Core, used: Used, at: At, name: &[u8]) -> Result<ServiceId, Status> {
    used.require(Rights::BIND)?;
    if !name.is_empty() {
        path(name)?;
        return Err(Status::NotFound);
    }
    match at.view {
        View::Name(number) => core.districts[at.owner].published.get(number).map(|it| it.service),
        View::Root | View::Publish => None,
    }
    .ok_or(Status::NotFound)
}

fn bind(core: &mut Core, d: DistrictIx, used: Used, at: At, request: &Request, expected: Option<u64>) -> Outcome {
    let name = if expected.is_some() { &request.data()[8..] } else { request.data() };
    let service = bindable(core, used, at, name)?;
    used.require(Rights::SEND_KEYS)?;
    let version = core.services[service].version;
    if expected.is_some_and(|expected| expected != version) {
        // The answer to a wrong guess is the right version.
        return Ok(Some(Answer { status: Status::BadArgument(Argument::DATA), ..Answer::result(version) }));
    }
    let arguments = core.check_arguments(d, &request.header, None)?;
    let (Some(key), 1) = (arguments.keys[0], arguments.count) else {
        return Err(Status::BadArgument(Argument::key(if arguments.count == 0 { 0 } else { 1 })));
    };
    core.bind(Binding { from: d, owner: at.owner, service, key }).map(|version| Some(Answer::result(version)))
}

fn rebind(core: &mut Core, d: DistrictIx, used: Used, at: At, request: &Request) -> Outcome {
    let expected = request.data().first_chunk().ok_or(Status::BadArgument(Argument::DATA))?;
    let expected = u64::from_le_bytes(*expected);
    bind(core, d, used, at, request, Some(expected))
}

fn unbind(core: &mut Core, used: Used, at: At, request: &Request) -> Outcome {
    no_keys(request)?;
    let service = bindable(core, used, at, request.data())?;
    core.unbind(service);
    done()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c08_paths_that_are_none() {
        let long = "x".repeat(256);
        for bad in ["", ".", "..", "/", "a/", "/a", "a//b", "a/../b", "a/.", "a\0b", &long] {
            assert_eq!(path(bad.as_bytes()), Err(Status::BadArgument(Argument::DATA)), "{bad:?}");
        }
        assert_eq!(path(&[0xff]), Err(Status::BadArgument(Argument::DATA)));
        for good in ["a", "a/b", "...", "publish/über", &long[..255]] {
            assert_eq!(path(good.as_bytes()), Ok(good));
        }
    }
}
