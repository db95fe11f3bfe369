//! Keys, rights, badges.

use district_broker::{GrantTarget, KeyState};
use district_protocol::frame::{FLAG_BADGE, FLAG_ONCE, FLAG_WEAK, RequestHeader, RequestKind};
use district_protocol::handle::Handle;
use district_protocol::operation::directory;
use district_protocol::rights::Rights;
use district_protocol::status::{Argument, Quota, Reason, Status};

use crate::world::*;

#[test]
fn c10_random_handles_lead_nowhere_and_cost() {
    let mut world = World::new();
    world.start(plain(B));
    world.start(plain(A));
    let before = world.view(B);
    let mut random: u64 = 1;
    let mut refused = 0;
    for _ in 0..1_000_000_u32 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bytes = RequestHeader::new(RequestKind::Identify, Handle(random | 2)).encode().to_vec();
        let raw = district_broker::RawRequest { chain: 0, capacity: 0, bytes };
        world.core.request(world.now, A, raw);
        for effect in world.core.drain_effects() {
            let district_broker::Effect::Complete { header, .. } = effect else { panic!("{effect:?}") };
            match header.status {
                Status::NoKey(Argument::TARGET) => {}
                Status::Quota(Quota::Frames) => refused += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    let view = world.view(A);
    assert_eq!(view.counters.bad_handles + refused, 1_000_000);
    assert_eq!(view.counters.refused, refused);
    // A hundred frames each, of a million per second.
    assert!((9_900..10_100).contains(&view.counters.bad_handles), "{}", view.counters.bad_handles);
    assert_eq!(world.view(B), before);
}

#[test]
fn c11_a_handle_of_another_district_is_no_key() {
    let mut world = World::with(&[B]);
    let handles: Vec<Handle> = (0..50).map(|name| world.export(B, name)).collect();
    world.start(plain(A));
    for handle in handles {
        let status = world.status(A, RequestHeader::new(RequestKind::Send, handle));
        assert_eq!(status, Status::NoKey(Argument::TARGET));
    }
    assert!(world.take(B).is_none());
}

#[test]
fn c12_no_child_gets_more_than_its_parent() {
    let mut world = World::with(&[A]);
    let entry = world.export(A, 1);
    let parent = world.derive(A, entry, Rights::CALL.union(Rights::DERIVE));
    let before = world.view(A);
    for bit in 0..13 {
        let rights = Rights(1 << bit);
        if !Rights::CALL.union(Rights::DERIVE).contains(rights) {
            let status = world.status(A, request(RequestKind::Derive, parent, u64::from(rights.0)));
            assert_eq!(status, Status::Denied(Argument::OPERATION));
        }
    }
    for nonsense in [1 << 13, 1 << 31, 1 << 32, u64::MAX] {
        let status = world.status(A, request(RequestKind::Derive, parent, nonsense));
        assert_eq!(status, Status::BadArgument(Argument::OPERATION));
    }
    let closed = world.derive(A, entry, Rights::CALL);
    assert_eq!(world.status(A, request(RequestKind::Derive, closed, 0)), Status::Denied(Argument::TARGET));
    world.ok(A, RequestHeader::new(RequestKind::Drop, closed));
    assert_eq!(world.view(A).keys, before.keys);
}

#[test]
fn c14_a_badge_is_set_once_and_seen_by_the_exporter() {
    let mut world = friends(&[A, B]);
    let entry = world.export(B, 7);
    let badge = |handle, badge| RequestHeader {
        operation: u64::from(ENTRY.0),
        argument: badge,
        flags: FLAG_BADGE,
        ..RequestHeader::new(RequestKind::Derive, handle)
    };
    let badged = Handle(world.ok(B, badge(entry, 99)));
    assert_eq!(world.status(B, badge(badged, 98)), Status::Denied(Argument::HEADER));
    assert_eq!(world.status(B, badge(entry, 0)), Status::BadArgument(Argument::HEADER));
    let unbadged = world.give(B, entry, A);
    let held = world.give(B, badged, A);
    assert_eq!(world.status(A, badge(held, 98)), Status::Denied(Argument::HEADER));
    assert_eq!(world.status(A, badge(unbadged, 98)), Status::Denied(Argument::HEADER), "not its exporter");
    let child = world.derive(A, held, Rights::CALL);
    for key in [held, child, unbadged] {
        world.ok(A, send(key, 5));
        let header = world.take_message(B).header;
        assert_eq!((header.export, header.badge), (7, if key == unbadged { 0 } else { 99 }));
    }
}

#[test]
fn c15_what_is_fetched_through_a_weak_directory_is_weak() {
    let mut world = friends(&[A, B]);
    let weak = RequestHeader {
        operation: u64::from(Rights::LOOKUP.0 | Rights::LIST.0 | Rights::DERIVE.0),
        flags: FLAG_WEAK,
        ..RequestHeader::new(RequestKind::Derive, Handle::BOOTSTRAP)
    };
    let weak = Handle(world.ok(A, weak));
    let publish = world.ask(A, call(weak, directory::LOOKUP), b"publish").key();
    let name = world.ask(A, call(publish, directory::LOOKUP), b"channel").key();
    let entry = world.export(A, 1);
    let bind = with_keys(call(name, directory::BIND), [slot(entry, true)]);
    assert_eq!(world.status(A, bind), Status::Denied(Argument::TARGET));
    let child = world.derive(A, publish, Rights::LOOKUP);
    let name = world.ask(A, call(child, directory::LOOKUP), b"channel").key();
    assert_eq!(world.status(A, call(name, directory::UNBIND)), Status::Denied(Argument::TARGET));
    // Nothing is weakened behind anybody's back.
    let strong = world.lookup(A, "publish/channel").key();
    let derive = RequestHeader {
        operation: u64::from(Rights::BIND.0),
        flags: FLAG_WEAK,
        ..RequestHeader::new(RequestKind::Derive, strong)
    };
    assert_eq!(world.status(A, derive), Status::Denied(Argument::OPERATION));
    let derive = RequestHeader { flags: FLAG_WEAK, ..RequestHeader::new(RequestKind::Derive, entry) };
    assert_eq!(world.status(A, derive), Status::BadArgument(Argument::HEADER));
}

#[test]
fn c16_a_key_without_transfer_stays_and_so_does_the_message() {
    let mut world = friends(&[A, B]);
    let (_, key) = world.connect(A, B, 1);
    let entry = world.export(A, 2);
    let fixed = world.derive(A, entry, Rights::CALL.union(Rights::DUPLICATE));
    let single = world.derive(A, entry, Rights::CALL.union(Rights::TRANSFER));
    let before = world.view(A).keys;
    for copy in [false, true] {
        let message = with_keys(send(key, 1), [slot(entry, false), slot(fixed, copy)]);
        assert_eq!(world.status(A, message), Status::Denied(Argument::key(1)));
    }
    let message = with_keys(send(key, 1), [slot(single, true)]);
    assert_eq!(world.status(A, message), Status::Denied(Argument::key(0)));
    let message = with_keys(send(key, 1), [slot(single, false), slot(Handle(77), false)]);
    assert_eq!(world.status(A, message), Status::NoKey(Argument::key(1)));
    for (first, second) in [(false, false), (false, true), (true, false)] {
        let message = with_keys(send(key, 1), [slot(entry, first), slot(entry, second)]);
        assert_eq!(world.status(A, message), Status::BadArgument(Argument::key(1)));
    }
    assert_eq!(world.view(A).keys, before);
    assert!(world.take(B).is_none());
}

#[test]
fn c17_keys_through_a_key_without_send_keys_are_refused() {
    let mut world = friends(&[A, B]);
    let (_, key) = world.connect(A, B, 1);
    let mute = world.derive(A, key, Rights::CALL);
    let entry = world.export(A, 2);
    let message = with_keys(call(mute, 1), [slot(entry, false)]);
    assert_eq!(world.status(A, message), Status::Denied(Argument::TARGET));
    assert!(world.take(B).is_none());
    world.ok(A, send(entry, 0));
    let deaf = world.derive(A, key, Rights::NONE);
    assert_eq!(world.status(A, send(deaf, 1)), Status::Denied(Argument::TARGET));
}

#[test]
fn c18_a_server_uses_the_clients_key_and_not_its_own() {
    // B may call C's object 1 without limit. A has a key to the same object that does not even allow calls, and asks B
    // to use "object 1" for it. All that B can use on A's behalf is A's key.
    let mut world = friends(&[A, B, C]);
    let (_, strong) = world.connect(B, C, 1);
    let object = world.give(B, strong, A);
    let weak = world.derive(A, object, Rights::TRANSFER);
    let (_, service) = world.connect(A, B, 2);
    world.ok(A, with_keys(send(service, 1), [slot(weak, false)]));
    let given = world.take_message(B).header.keys[0];
    assert_eq!(world.status(B, send(given, 1)), Status::Denied(Argument::TARGET));
    assert!(world.take(C).is_none());
    world.ok(B, send(strong, 1));
    assert!(world.take(C).is_some());
}

#[test]
fn a_moved_key_arrives_with_fewer_rights_and_leaves_its_children_behind() {
    let mut world = friends(&[A, B]);
    let (_, key) = world.connect(A, B, 1);
    let entry = world.export(A, 2);
    let moved = world.derive(A, entry, ENTRY);
    let child = world.derive(A, moved, ENTRY);
    let mut narrow = slot(moved, false);
    narrow.rights = Rights::CALL.0 | Rights::REVOKE.0;
    world.ok(A, with_keys(send(key, 1), [narrow]));
    assert_eq!(world.status(A, send(moved, 1)), Status::WouldBlock);
    assert_eq!(world.status(A, RequestHeader::new(RequestKind::Drop, moved)), Status::WouldBlock);
    let given = world.take_message(B).header.keys[0];
    assert_eq!(world.status(A, send(moved, 1)), Status::Broken(Reason::Used));
    let rights = world.ok(B, RequestHeader::new(RequestKind::Identify, given)) >> 32;
    assert_eq!(rights, u64::from(Rights::CALL.0 | Rights::REVOKE.0));
    world.ok(B, RequestHeader::new(RequestKind::Revoke, given));
    world.ok(A, send(child, 1));
    world.ok(A, RequestHeader::new(RequestKind::Revoke, entry));
    assert_eq!(world.status(A, send(child, 1)), Status::Broken(Reason::Revoked));
    assert_eq!(world.status(B, send(given, 1)), Status::Broken(Reason::Revoked));
}

#[test]
fn a_once_key_works_once() {
    let mut world = friends(&[A, B]);
    let entry = world.export(B, 1);
    let once = |rights: Rights| RequestHeader {
        operation: u64::from(rights.0),
        flags: FLAG_ONCE,
        ..RequestHeader::new(RequestKind::Derive, entry)
    };
    for rights in [Rights::DERIVE, Rights::DUPLICATE] {
        assert_eq!(world.status(B, once(rights)), Status::Denied(Argument::OPERATION));
    }
    let key = Handle(world.ok(B, once(Rights::CALL.union(Rights::TRANSFER).union(Rights::WATCH))));
    let key = world.pass_key(B, slot(key, false), A);
    world.ok(A, argument(RequestKind::Watch, key, 42));
    let token = world.submit(A, call(key, 1), b"x");
    assert_eq!(world.status(A, call(key, 1)), Status::Broken(Reason::Used));
    let down = world.take(A).unwrap().header;
    assert_eq!((down.badge, down.operation), (42, Reason::Used as u64));
    // The message is on its way through a key that nobody holds; a revocation still finds it.
    world.ok(B, RequestHeader::new(RequestKind::Revoke, entry));
    assert_eq!(world.done(token).status(), Status::NotDelivered(Reason::Revoked));
    assert!(world.take(B).is_none());
}

#[test]
fn a_key_with_a_lifetime_breaks_with_its_children() {
    let mut world = friends(&[A, B]);
    let entry = world.export(B, 1);
    let lease =
        RequestHeader { operation: u64::from(ENTRY.0), timeout: 500, ..RequestHeader::new(RequestKind::Derive, entry) };
    let lease = Handle(world.ok(B, lease));
    let key = world.give(B, lease, A);
    assert_eq!(world.core.next_deadline(), Some(world.now + 500));
    world.pass(499);
    world.ok(A, send(key, 1));
    world.pass(1);
    assert_eq!(world.status(A, send(key, 1)), Status::Broken(Reason::Revoked));
    assert_eq!(world.status(B, send(lease, 1)), Status::Broken(Reason::Revoked));
    world.ok(B, send(entry, 1));
    assert_eq!(world.core.next_deadline(), None);
}

#[test]
fn a_broken_key_stays_until_it_is_dropped() {
    let mut world = friends(&[A, B]);
    let (_, key) = world.connect(A, B, 1);
    world.crash(B, 0);
    for kind in [RequestKind::Identify, RequestKind::Send, RequestKind::Watch, RequestKind::Derive] {
        assert_eq!(world.status(A, RequestHeader::new(kind, key)), Status::Broken(Reason::PeerRestart));
    }
    assert_eq!(world.view(A).keys[1].state, KeyState::Broken(Reason::PeerRestart));
    world.ok(A, RequestHeader::new(RequestKind::Drop, key));
    assert_eq!(world.view(A).keys.len(), 1);
    assert_eq!(world.status(A, RequestHeader::new(RequestKind::Drop, key)), Status::Broken(Reason::Used));
}

#[test]
fn identify_tells_kind_and_rights() {
    let mut world = World::new();
    world.start(district_broker::Attach { grants: vec![grant("n", GrantTarget::Number(5))], ..plain(A) });
    let key = world.lookup(A, "n").key();
    let word = world.ok(A, RequestHeader::new(RequestKind::Identify, key));
    assert_eq!(word & 0xffff_ffff, 5);
    assert_eq!(word >> 32 & u64::from(Rights::CALL.0), 1);
}
