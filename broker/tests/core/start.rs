//! Start and restart.

use district_broker::{AttachError, DistrictId, GrantTarget, KeyState, RawRequest};
use district_protocol::frame::{RequestHeader, RequestKind};
use district_protocol::handle::Handle;
use district_protocol::rights::Rights;
use district_protocol::status::{Argument, Reason, Status};

use crate::world::*;

#[test]
fn c01_a_cold_start_has_handle_1_and_nothing_else() {
    let mut world = World::with(&[A]);
    let keys = world.view(A).keys;
    assert_eq!(keys.len(), 1);
    assert_eq!((keys[0].handle, keys[0].state), (Handle::BOOTSTRAP, KeyState::Live));
    world.ok(A, RequestHeader::new(RequestKind::Identify, Handle::BOOTSTRAP));
    for serial in (1..2000).chain([1 << 30, (1 << 44) - 1]) {
        let status = world.status(A, RequestHeader::new(RequestKind::Identify, Handle::from_serial(serial)));
        assert_eq!(status, Status::NoKey(Argument::TARGET));
    }
    for number in (2..2000).chain([0, u64::MAX]) {
        let status = world.status(A, RequestHeader::new(RequestKind::Identify, Handle(number)));
        assert_eq!(status, Status::NoKey(Argument::TARGET));
    }
}

#[test]
fn c02_after_a_restart_all_old_handles_are_broken_but_handle_1() {
    let mut world = friends(&[A, B]);
    let mut old = Vec::new();
    for life in 1..5_u64 {
        for name in 0..20 {
            old.push(world.export(A, name));
        }
        world.crash(A, 0);
        world.start(friend(A, &[B]));
        assert_eq!(world.view(A).epoch, life + 1);
        for handle in &old {
            for kind in [RequestKind::Identify, RequestKind::Send, RequestKind::Drop, RequestKind::Watch] {
                assert_eq!(world.status(A, RequestHeader::new(kind, *handle)), Status::Broken(Reason::SelfRestart));
            }
        }
        assert_eq!(world.view(A).keys.len(), 1);
        world.ok(A, RequestHeader::new(RequestKind::Identify, Handle::BOOTSTRAP));
    }
}

#[test]
fn c40_after_the_broker_restarts_handles_of_the_same_life_are_unreachable() {
    let mut world = World::with(&[A]);
    let handle = world.export(A, 1);
    world.end(A, Reason::Unreachable, 0);
    world.attach(plain(A));
    let identify = RequestHeader::new(RequestKind::Identify, handle);
    assert_eq!(world.status(A, identify), Status::Broken(Reason::Unreachable));
    world.ok(A, RequestHeader::new(RequestKind::Identify, Handle::BOOTSTRAP));
    world.crash(A, 0);
    world.start(plain(A));
    assert_eq!(world.status(A, identify), Status::Broken(Reason::SelfRestart));
}

#[test]
fn c06_handle_1_cannot_be_lost() {
    let mut world = friends(&[A, B]);
    let (_, key) = world.connect(A, B, 1);
    let denied = Status::Denied(Argument::TARGET);
    assert_eq!(world.status(A, RequestHeader::new(RequestKind::Drop, Handle::BOOTSTRAP)), denied);
    assert_eq!(world.status(A, RequestHeader::new(RequestKind::Revoke, Handle::BOOTSTRAP)), denied);
    assert_eq!(world.status(A, RequestHeader::new(RequestKind::Watch, Handle::BOOTSTRAP)), denied);
    for copy in [false, true] {
        let passing = with_keys(send(key, 1), [slot(Handle::BOOTSTRAP, copy)]);
        assert_eq!(world.status(A, passing), Status::Denied(Argument::key(0)));
    }
    assert!(world.take(B).is_none());
    // A child of it can be given away, and revoking what was made of it leaves handle 1 as it is.
    let rights = Rights::LOOKUP.union(Rights::TRANSFER).union(Rights::DERIVE).union(Rights::REVOKE);
    let child = world.derive(A, Handle::BOOTSTRAP, rights);
    world.ok(A, RequestHeader::new(RequestKind::Revoke, child));
    world.ok(A, RequestHeader::new(RequestKind::Drop, child));
    assert_eq!(world.view(A).keys[0].state, KeyState::Live);
    assert_eq!(world.lookup(A, "to-11").status(), Status::NotReady);
}

#[test]
fn nothing_is_taken_from_a_district_that_is_not_attached() {
    let mut world = World::with(&[A]);
    let bytes = RequestHeader::new(RequestKind::Export, Handle(0)).encode().to_vec();
    world.core.request(world.now, B, RawRequest { chain: 0, capacity: 0, bytes: bytes.clone() });
    world.core.consumed(B, 5);
    world.core.serials_reserved(B, 0..100);
    world.core.detach(world.now, B, Reason::PeerRestart, u64::MAX);
    world.crash(A, 0);
    world.core.request(world.now, A, RawRequest { chain: 0, capacity: 0, bytes });
    assert_eq!(world.core.drain_effects().count(), 0);
    assert_eq!(world.core.inspect().districts, []);
}

#[test]
fn a_manifest_that_makes_no_sense_is_refused_with_the_name() {
    let mut world = World::with(&[A]);
    assert_eq!(world.core.attach(0, plain(A)), Err(AttachError::Attached(A)));
    for bad in ["", ".", "..", "a/b", "a\0", &"x".repeat(256)] {
        let grants = vec![grant(bad, GrantTarget::Clock)];
        let attach = district_broker::Attach { grants, ..plain(B) };
        assert_eq!(world.core.attach(0, attach), Err(AttachError::BadName(bad.into())));
    }
    let twice = vec![grant("x", GrantTarget::Clock), grant("x", GrantTarget::Log)];
    let attach = district_broker::Attach { grants: twice, ..plain(B) };
    assert_eq!(world.core.attach(0, attach), Err(AttachError::TwiceNamed("x".into())));
    let attach = district_broker::Attach { grants: vec![grant("publish", GrantTarget::Clock)], ..friend(B, &[]) };
    assert_eq!(world.core.attach(0, attach), Err(AttachError::BadName("publish".into())));
}

#[test]
fn a_district_waits_while_its_serials_are_being_reserved() {
    let mut core = district_broker::Core::new();
    core.attach(0, district_broker::Attach { serials: 1..3, epoch_first_serial: 1, ..plain(A) }).unwrap();
    let export = argument(RequestKind::Export, Handle(0), 0).encode().to_vec();
    let mut statuses = Vec::new();
    for _ in 0..3 {
        core.request(0, A, RawRequest { chain: 0, capacity: 0, bytes: export.clone() });
        for effect in core.drain_effects() {
            match effect {
                district_broker::Effect::Complete { header, .. } => statuses.push(header.status),
                other => assert!(matches!(other, district_broker::Effect::ReserveSerials(DistrictId(_)))),
            }
        }
    }
    assert_eq!(statuses, [Status::Ok, Status::Ok, Status::WouldBlock]);
    core.serials_reserved(A, 3..10);
    core.request(0, A, RawRequest { chain: 0, capacity: 0, bytes: export });
    assert!(core.drain_effects().any(|effect| matches!(
        effect,
        district_broker::Effect::Complete { header, .. } if header.status == Status::Ok
    )));
    core.check_invariants().unwrap();
}
