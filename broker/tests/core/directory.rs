//! Names.

use district_broker::{BindingRecord, DistrictId, GrantTarget, Limits};
use district_protocol::frame::{RequestHeader, RequestKind};
use district_protocol::handle::Handle;
use district_protocol::operation::{KeyKind, directory};
use district_protocol::rights::Rights;
use district_protocol::status::{Argument, Quota, Reason, Status};

use crate::world::*;

/// Binds the name `channel` of a district to a new export.
fn publish(world: &mut World, district: DistrictId, export: u64) -> (Handle, u64) {
    let publisher = world.lookup(district, "publish/channel").key();
    let entry = world.export(district, export);
    let version = world.ok(district, with_keys(call(publisher, directory::BIND), [slot(entry, true)]));
    world.ok(district, RequestHeader::new(RequestKind::Drop, publisher));
    (entry, version)
}

fn entries(data: &[u8]) -> Vec<(u8, String)> {
    let mut rest = data;
    let mut entries = Vec::new();
    while let [kind, length, tail @ ..] = rest {
        let (name, after) = tail.split_at(usize::from(*length));
        entries.push((*kind, String::from_utf8(name.to_vec()).unwrap()));
        rest = after;
    }
    entries
}

#[test]
fn c08_no_path_leads_outside() {
    let mut world = World::new();
    let grants = vec![grant("a", GrantTarget::Number(1)), grant("b", service(B, "channel"))];
    world.start(district_broker::Attach { grants, ..friend(A, &[]) });
    let long = "x".repeat(256);
    for bad in ["", "/", "/a", "a/", "a//a", ".", "..", "a/..", "publish/../a", "./a", "a\0", &long] {
        let status = world.lookup(A, bad).status();
        assert_eq!(status, Status::BadArgument(Argument::DATA), "{bad:?}");
    }
    for absent in ["A", "c", "a/b", "b/a", "publish/x", "publish/channel/x", "publish/a", &long[..255]] {
        assert_eq!(world.lookup(A, absent).status(), Status::NotFound, "{absent:?}");
    }
    let bytes = world.ask(A, call(Handle::BOOTSTRAP, directory::LOOKUP), &[b'a', 0xff]);
    assert_eq!(bytes.status(), Status::BadArgument(Argument::DATA));
    assert_eq!(world.view(A).keys.len(), 1);
}

#[test]
fn a_directory_lists_what_it_has_in_order() {
    let mut world = World::new();
    let grants = vec![
        grant("zebra", GrantTarget::Clock),
        grant("bound", service(B, "channel")),
        grant("absent", service(C, "channel")),
        grant("random", GrantTarget::Random),
        grant("log", GrantTarget::Log),
    ];
    world.start(district_broker::Attach { grants, ..friend(A, &[]) });
    world.start(friend(B, &[]));
    publish(&mut world, B, 1);
    let list = call(Handle::BOOTSTRAP, directory::LIST);
    let names: Vec<(u8, String)> = entries(&world.ask(A, list, b"").data);
    let expected = [
        (0, "absent"),
        (KeyKind::Entry as u8, "bound"),
        (KeyKind::Log as u8, "log"),
        (KeyKind::Directory as u8, "publish"),
        (KeyKind::Random as u8, "random"),
        (KeyKind::Clock as u8, "zebra"),
    ];
    assert_eq!(names, expected.map(|(kind, name)| (kind, String::from(name))));
    assert_eq!(entries(&world.ask(A, list, b"publish").data), [(1, String::from("channel"))]);
    assert_eq!(world.ask(A, list, b"zebra").status(), Status::NotFound);
    assert_eq!(world.ask(A, list, b"nothing").status(), Status::NotFound);
    world.capacity = Some(20);
    assert_eq!(world.ask(A, list, b"").status(), Status::TooBig);
}

#[test]
fn c43_bound_and_not_up_is_not_ready_and_waiting_helps() {
    let mut world = friends(&[A, B]);
    assert_eq!(world.lookup(A, "to-11").status(), Status::NotReady);
    assert_eq!(world.lookup(A, "to-12").status(), Status::NotFound);
    publish(&mut world, B, 1);
    assert_eq!(world.lookup(A, "to-11").status(), Status::Ok);
    world.crash(B, 0);
    assert_eq!(world.lookup(A, "to-11").status(), Status::NotReady);
    let wait = call(Handle::BOOTSTRAP, directory::LOOKUP_WAIT);
    let forever = world.submit(A, wait, b"to-11");
    let short = world.submit(A, RequestHeader { timeout: 10, ..wait }, b"to-11");
    let cancelled = world.submit(A, wait, b"to-11");
    assert_eq!(world.ask(A, wait, b"to-12").status(), Status::NotFound);
    world.pass(10);
    assert_eq!(world.done(short).status(), Status::NotReady);
    world.ok(A, argument(RequestKind::Cancel, Handle(0), cancelled.token));
    assert_eq!(world.done(cancelled).status(), Status::NotDelivered(Reason::Cancelled));
    world.start(friend(B, &[A, B]));
    assert!(world.pending(forever));
    let (_, version) = publish(&mut world, B, 2);
    let completion = world.done(forever);
    assert_eq!((completion.status(), completion.header.result), (Status::Ok, version));
    world.ok(A, send(completion.key(), 1));
    assert_eq!(world.take_message(B).header.export, 2);
    assert_eq!(world.ask(A, wait, b"to-11").status(), Status::Ok);
}

#[test]
fn c43_a_name_from_the_store_is_known_and_not_ready() {
    let mut world = World::new();
    world.core.restore_binding(BindingRecord { owner: B, name: "channel".into(), version: 7 });
    world.start(friend(A, &[B]));
    assert_eq!(world.lookup(A, "to-11").status(), Status::NotReady);
    world.start(friend(B, &[]));
    let (_, version) = publish(&mut world, B, 1);
    assert_eq!(version, 8);
    assert_eq!(world.bound[&(B, "channel".into())].version, 8);
}

#[test]
fn c44_a_name_cannot_be_bound_without_its_publish_key() {
    let mut world = friends(&[A, B]);
    let entry = world.export(A, 1);
    let bind = |handle| with_keys(call(handle, directory::BIND), [slot(entry, true)]);
    for up in [true, false] {
        if !up {
            world.crash(B, 0);
        }
        for name in ["to-11", "publish/channel", "publish", "x", ""] {
            let status = world.ask(A, bind(Handle::BOOTSTRAP), name.as_bytes()).status();
            assert_eq!(status, Status::Denied(Argument::TARGET));
        }
        let publish = world.lookup(A, "publish").key();
        assert_eq!(world.ask(A, bind(publish), b"channel").status(), Status::Denied(Argument::TARGET));
        // A's own publish key binds A's own name, and no other.
        let own = world.lookup(A, "publish/channel").key();
        assert_eq!(world.ask(A, bind(own), b"to-11").status(), Status::NotFound);
        assert_eq!(world.ask(A, bind(own), b"..").status(), Status::BadArgument(Argument::DATA));
        assert_eq!(world.lookup(A, "to-11").status(), Status::NotReady);
    }
    assert!(world.bound.is_empty());
}

#[test]
fn c44_the_publish_key_can_be_delegated() {
    let mut world = friends(&[A, B]);
    let publisher = world.lookup(B, "publish/channel").key();
    let delegate = world.give(B, publisher, A);
    let entry = world.export(A, 5);
    world.ok(A, with_keys(call(delegate, directory::BIND), [slot(entry, true)]));
    let key = world.lookup(B, "to-11").key();
    world.ok(B, send(key, 1));
    assert_eq!(world.take_message(A).header.export, 5);
    // The owner's name is ready as long as the key behind it is alive.
    world.crash(A, 0);
    assert_eq!(world.lookup(B, "to-11").status(), Status::NotReady);
}

#[test]
fn c45_another_kind_under_the_name_is_a_new_version() {
    let mut world = friends(&[A, B]);
    publish(&mut world, B, 1);
    let old = world.lookup(A, "to-11");
    let publisher = world.lookup(B, "publish/channel").key();
    let notifier = Handle(world.ok(B, argument(RequestKind::Notifier, Handle(0), 2)));
    let version = world.ok(B, with_keys(call(publisher, directory::BIND), [slot(notifier, true)]));
    let new = world.lookup(A, "to-11");
    assert_eq!((old.header.result + 1, version), (version, new.header.result));
    world.ok(A, request(RequestKind::Notify, new.key(), 1));
    // The old meaning is still what it was.
    world.ok(A, send(old.key(), 1));
    let list = world.ask(A, call(Handle::BOOTSTRAP, directory::LIST), b"").data;
    assert!(entries(&list).contains(&(KeyKind::Notify as u8, String::from("to-11"))));
}

#[test]
fn rebinding_needs_the_version_that_is_bound() {
    let mut world = friends(&[B]);
    let publisher = world.lookup(B, "publish/channel").key();
    let entry = world.export(B, 1);
    let rebind = with_keys(call(publisher, directory::REBIND), [slot(entry, true)]);
    assert_eq!(world.ask(B, rebind, &0_u64.to_le_bytes()).header.result, 1);
    let wrong = world.ask(B, rebind, &0_u64.to_le_bytes());
    assert_eq!((wrong.status(), wrong.header.result), (Status::BadArgument(Argument::DATA), 1));
    assert_eq!(world.ask(B, rebind, &1_u64.to_le_bytes()).header.result, 2);
    assert_eq!(world.ask(B, rebind, &[0; 7]).status(), Status::BadArgument(Argument::DATA));
    assert_eq!(world.status(B, call(publisher, directory::UNBIND)), Status::Ok);
    assert_eq!(world.lookup(B, "to-11").status(), Status::NotReady);
    assert_eq!(world.ask(B, rebind, &2_u64.to_le_bytes()).header.result, 3);
}

#[test]
fn what_cannot_be_bound() {
    let mut world = World::new();
    let grants = vec![grant("clock", GrantTarget::Clock), grant("self", service(A, "channel"))];
    world.start(district_broker::Attach { grants, ..friend(A, &[]) });
    let publisher = world.lookup(A, "publish/channel").key();
    let clock = world.lookup(A, "clock").key();
    let entry = world.export(A, 1);
    let own = world.delivered_call(A, entry, A).1.header.reply;
    let bind = call(publisher, directory::BIND);
    assert_eq!(world.status(A, bind), Status::BadArgument(Argument::key(0)));
    for bad in [clock, own] {
        assert_eq!(world.status(A, with_keys(bind, [slot(bad, false)])), Status::BadArgument(Argument::key(0)));
    }
    let two = with_keys(bind, [slot(entry, true), slot(entry, true)]);
    assert_eq!(world.status(A, two), Status::BadArgument(Argument::key(1)));
    world.ok(A, with_keys(bind, [slot(entry, true)]));
    // Revoking what it was made of takes the meaning away, and all keys that were fetched.
    let fetched = world.lookup(A, "self").key();
    world.ok(A, RequestHeader::new(RequestKind::Revoke, entry));
    assert_eq!(world.status(A, send(fetched, 1)), Status::Broken(Reason::Revoked));
    assert_eq!(world.lookup(A, "self").status(), Status::NotReady);
    assert_eq!(world.view(A).usage.bindings, 0);
}

#[test]
fn c15_a_grant_gives_no_more_rights_than_it_says() {
    let mut world = World::new();
    let granted = district_broker::Grant { rights: Rights::CALL, ..grant("b", service(B, "channel")) };
    world.start(district_broker::Attach { grants: vec![granted], ..plain(A) });
    world.start(friend(B, &[]));
    publish(&mut world, B, 1);
    let key = world.lookup(A, "b").key();
    let word = world.ok(A, RequestHeader::new(RequestKind::Identify, key));
    assert_eq!(word, u64::from(Rights::CALL.0) << 32 | KeyKind::Entry as u64);
}

#[test]
fn c46_five_hundred_clients_come_back_at_once() {
    let mut world = World::new();
    let clients: Vec<DistrictId> = (1..=500_u16)
        .map(|number| {
            let mut id = [0; 16];
            id[..2].copy_from_slice(&number.to_le_bytes());
            DistrictId(id)
        })
        .collect();
    let grants = vec![grant("server", service(B, "channel"))];
    for client in &clients {
        world.start(district_broker::Attach { grants: grants.clone(), ..plain(*client) });
    }
    let server = friend(B, &[]);
    world.start(server.clone());
    publish(&mut world, B, 1);
    let keys: Vec<Handle> = clients.iter().map(|client| world.lookup(*client, "server").key()).collect();
    world.crash(B, 0);
    let wait = RequestHeader { timeout: 1_000_000, ..call(Handle::BOOTSTRAP, directory::LOOKUP_WAIT) };
    let mut waiting = Vec::new();
    for (client, key) in clients.iter().zip(keys) {
        assert_eq!(world.status(*client, send(key, 1)), Status::Broken(Reason::PeerRestart));
        waiting.push(world.submit(*client, wait, b"server"));
    }
    world.start(server);
    publish(&mut world, B, 2);
    for token in &waiting {
        let key = world.done(*token).key();
        world.ok(token.district, send(key, 1));
    }
    for _ in &clients {
        assert_eq!(world.take_message(B).header.export, 2);
    }
    world.core.check_invariants().unwrap();
}

#[test]
fn a_destroyed_owner_leaves_nothing_in_the_store() {
    let mut world = friends(&[A, B]);
    publish(&mut world, B, 1);
    world.end(B, Reason::Destroyed, 0);
    assert!(world.bound.is_empty());
    assert_eq!(world.lookup(A, "to-11").status(), Status::NotReady);
}

#[test]
fn c47_names_are_limited() {
    let mut world = World::new();
    let limits = Limits { bindings: 1, ..Limits::default() };
    let publishes = vec!["one".into(), "two".into()];
    world.start(district_broker::Attach { limits, publishes, ..plain(A) });
    let [one, two] = ["publish/one", "publish/two"].map(|path| world.lookup(A, path).key());
    let entry = world.export(A, 1);
    let bind = |key| with_keys(call(key, directory::BIND), [slot(entry, true)]);
    world.ok(A, bind(one));
    assert_eq!(world.status(A, bind(two)), Status::Quota(Quota::Bindings));
    world.ok(A, bind(one));
    world.ok(A, call(one, directory::UNBIND));
    world.ok(A, bind(two));
}
