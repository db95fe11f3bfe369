//! What a district can and cannot do with keys.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use district_sdk::protocol::operation::directory;
use district_sdk::{Argument, Directory, Error, Event, Handle, Key, Reason, Rights, boot, export, log, next_event};

use crate::{Verdict, expect, works};

const WHILE: Duration = Duration::from_millis(200);
const DENIED: Error = Error::Denied(Argument::TARGET);

/// Handle 1 is a key and nothing else is.
pub(crate) fn c01_exactly_one_key(_: &str) -> Verdict {
    works("identify handle 1", Key::bootstrap().identify())?;
    let numbers = (0..2000).filter(|&number| number != 1).map(Handle);
    let serials = (1..2000).map(Handle::from_serial);
    for handle in numbers.chain(serials) {
        match Key::from_handle(handle).identify().err() {
            Some(Error::NoKey(Argument::TARGET)) => {}
            // What an earlier life may have had is told from what never was.
            Some(Error::Broken(Reason::SelfRestart)) if boot::epoch() > 1 && handle.serial().is_some() => {}
            other => return Err(format!("handle {:#x}: {other:?}", handle.0)),
        }
    }
    Ok(())
}

/// Handle 1 cannot be dropped, given away or revoked.
pub(crate) fn c06_handle_one_stays(_: &str) -> Verdict {
    expect("drop", Key::bootstrap().give_up(), Err(DENIED))?;
    expect("revoke", Key::bootstrap().revoke(), Err(DENIED))?;
    let own = works("export", export(1))?;
    let given = own.send(1, &[]).give(Key::bootstrap()).wait().err();
    expect("give away", given, Some(Error::Denied(Argument::key(0))))?;
    works("list after all that", Directory::bootstrap().list("")).map(drop)
}

/// Names that are none.
pub(crate) fn c08_odd_names(_: &str) -> Verdict {
    let long = vec![b'a'; directory::PATH_MAX + 1];
    let names: [&[u8]; 14] = [
        b"..",
        b".",
        b"",
        b"/",
        b"/clock",
        b"clock/",
        b"a//b",
        b"../clock",
        b"clock/..",
        b"a\0b",
        b"\xff\xfe",
        b"\0",
        &long,
        b"publish/../clock",
    ];
    for operation in [directory::LOOKUP, directory::LIST] {
        for name in names.into_iter().filter(|name| operation == directory::LOOKUP || !name.is_empty()) {
            let outcome = Key::bootstrap().call(operation, name).reply_capacity(65_536).wait();
            if !matches!(outcome, Err(Error::BadArgument(Argument::DATA) | Error::NotFound)) {
                return Err(format!("{:?}: {outcome:?}", name.escape_ascii()));
            }
        }
    }
    Ok(())
}

/// No random number is a key. The argument is how many are tried.
pub(crate) fn c10_random_handles(argument: &str) -> Verdict {
    let count: u32 = argument.parse().unwrap_or(20_000);
    let mut seed = u64::from_le_bytes(core::array::from_fn(|index| boot::entropy()[index])) | 1;
    let (mut none, mut refused) = (0, 0);
    for _ in 0..count / 100 {
        let mut tickets = Vec::new();
        for _ in 0..100 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let handle = if seed & 1 == 0 { Handle(seed) } else { Handle::from_serial(seed >> 21) };
            tickets.push(works("send", Key::from_handle(handle).call(1, &[]).reply_capacity(0).start())?);
        }
        for ticket in tickets {
            match ticket.wait() {
                Err(Error::NoKey(Argument::TARGET)) => none += 1,
                Err(Error::Quota(_)) => refused += 1,
                other => return Err(format!("a random handle: {other:?}")),
            }
        }
    }
    log!("{none} times no key, {refused} times out of quota");
    works("list after all that", Directory::bootstrap().list("")).map(drop)
}

/// A child never has more than its parent.
pub(crate) fn c12_no_more_rights(_: &str) -> Verdict {
    let own = works("export", export(1))?;
    let weak = works("derive", own.derive().rights(Rights::CALL.union(Rights::DERIVE)).make())?;
    let (_, rights) = works("identify", weak.identify())?;
    expect("rights", rights, Rights::CALL.union(Rights::DERIVE))?;
    let denied = Some(Error::Denied(Argument::OPERATION));
    expect("more", weak.derive().rights(Rights::CALL.union(Rights::TRANSFER)).make().err(), denied)?;
    expect("all", weak.derive().rights(Rights::ALL).make().err(), denied)?;
    let weaker = works("less", weak.derive().rights(Rights::CALL).make())?;
    expect("from one without", weaker.derive().rights(Rights::CALL).make().err(), Some(DENIED))?;
    works("send through the child", weaker.send(5, &[]).wait())?;
    works("send through the parent", own.send(5, &[]).wait()).map(drop)
}

/// A badge is set once and seen by the exporter.
pub(crate) fn c14_badges(_: &str) -> Verdict {
    let own = works("export", export(7))?;
    let badged = works("derive", own.derive().badge(42).make())?;
    let denied = Some(Error::Denied(Argument::HEADER));
    expect("second badge", badged.derive().badge(43).make().err(), denied)?;
    let child = works("derive", badged.derive().make())?;
    for (key, badge) in [(&own, 0), (&badged, 42), (&child, 42)] {
        works("send", key.send(1, &[]).wait())?;
        match next_event(Some(WHILE)) {
            Some(Event::Message(message)) => expect("badge", (message.export, message.badge), (7, badge))?,
            other => return Err(format!("{other:?} instead of a message")),
        }
    }
    Ok(())
}

/// A key without `TRANSFER` stays where it is, and with it the whole message.
pub(crate) fn c16_untransferable(_: &str) -> Verdict {
    let own = works("export", export(1))?;
    let stuck = works("derive", own.derive().rights(Rights::CALL.union(Rights::DUPLICATE)).make())?;
    let sent = own.send(1, &[]).key(&own).key(&stuck).wait().err();
    expect("send", sent, Some(Error::Denied(Argument::key(1))))?;
    expect("arrived", next_event(Some(WHILE)).is_none(), true)?;
    works("the other key", own.identify())?;
    works("the stuck key", stuck.identify()).map(drop)
}

/// Keys do not go through a key without `SEND_KEYS`, and are not left out either.
pub(crate) fn c17_no_keys_through(_: &str) -> Verdict {
    let own = works("export", export(1))?;
    let narrow = works("derive", own.derive().rights(Rights::CALL).make())?;
    expect("send", narrow.send(1, &[]).key(&own).wait().err(), Some(DENIED))?;
    expect("arrived", next_event(Some(WHILE)).is_none(), true)?;
    works("send without keys", narrow.send(1, &[]).wait()).map(drop)
}

/// An operation that an object does not have changes nothing.
pub(crate) fn c27_unknown_operation(_: &str) -> Verdict {
    let bootstrap = Directory::bootstrap();
    let before = works("list", bootstrap.list(""))?;
    for entry in before.iter().filter(|entry| entry.kind.is_some()) {
        let Ok(key) = bootstrap.lookup(&entry.name) else { continue };
        let (kind, _) = works("identify", key.identify())?;
        if kind != Some(district_sdk::KeyKind::Entry) {
            let outcome = key.call(u64::MAX - 1, &[]).wait().err();
            expect(&entry.name, outcome, Some(Error::NoSuchOperation))?;
        }
    }
    expect("bootstrap", bootstrap.0.call(99, &[]).wait().err(), Some(Error::NoSuchOperation))?;
    expect("list", works("list", bootstrap.list(""))?, before)
}

/// Revoking breaks everything below a key and nothing else.
pub(crate) fn c32_revoke(_: &str) -> Verdict {
    let own = works("export", export(1))?;
    let (root, sibling) = (works("derive", own.derive().make())?, works("derive", own.derive().make())?);
    let child = works("derive", root.derive().make())?;
    let grandchild = works("derive", child.derive().make())?;
    works("watch", grandchild.watch(77))?;
    works("revoke", root.revoke())?;
    for key in [&child, &grandchild] {
        expect("below", key.send(1, &[]).wait().err(), Some(Error::Broken(Reason::Revoked)))?;
    }
    match next_event(Some(WHILE)) {
        Some(Event::Down { cookie: 77, reason: Some(Reason::Revoked) }) => {}
        other => return Err(format!("{other:?} instead of the watch's Down")),
    }
    for key in [&own, &root, &sibling] {
        works("not below", key.send(1, &[]).wait())?;
    }
    Ok(())
}

/// The exporter is told once when nobody can reach its object.
pub(crate) fn c35_last_key(_: &str) -> Verdict {
    let own = works("export", export(5))?;
    let child = works("derive", own.derive().make())?;
    works("drop the first", own.give_up())?;
    expect("too early", next_event(Some(WHILE)).is_none(), true)?;
    works("drop the last", child.give_up())?;
    match next_event(Some(WHILE)) {
        Some(Event::Unreferenced { export: 5 }) => {}
        other => return Err(format!("{other:?} instead of Unreferenced")),
    }
    expect("twice", next_event(Some(WHILE)).is_none(), true)
}
