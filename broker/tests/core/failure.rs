//! What a district sees of another's end.

use district_broker::Bootstrap;
use district_protocol::frame::{DeliveryKind, RequestHeader, RequestKind};
use district_protocol::handle::Handle;
use district_protocol::operation::directory;
use district_protocol::rights::Rights;
use district_protocol::status::{Quota, Reason, Status};

use crate::world::*;

#[test]
fn c38_one_down_after_the_last_reply_and_before_the_new_epoch() {
    let mut world = friends(&[A, B]);
    let (_, key) = world.connect(A, B, 1);
    let (_, back) = world.connect(B, A, 2);
    world.ok(A, argument(RequestKind::Watch, key, 1234));
    let answered = world.delivered_call(A, key, B);
    let open = world.delivered_call(A, key, B);
    world.ok(B, send(back, 1));
    world.completed.clear();
    world.ok(B, reply(answered.1.header.reply, 1));
    world.crash(B, 0);
    assert!(world.completed.contains(&answered.0) && world.completed.contains(&open.0));
    world.start(friend(B, &[A, B]));
    let fresh = world.export(A, 3);
    let fresh = world.give(A, fresh, B);
    // `give` takes one delivery of its own at B; the first thing that A finds is still the old B's end.
    world.ok(B, send(fresh, 55));
    let down = world.take_kind(A, DeliveryKind::Down).header;
    assert_eq!((down.badge, down.operation), (1234, Reason::PeerRestart as u64));
    assert_eq!(world.take_message(A).header.operation, 55, "and nothing that the old B had sent");
    assert!(world.take(A).is_none());
}

#[test]
fn c38_down_comes_for_every_reason_and_once() {
    let mut world = friends(&[A, B]);
    for (reason, end) in
        [(Reason::PeerRestart, true), (Reason::Unreachable, true), (Reason::Destroyed, true), (Reason::Revoked, false)]
    {
        if !world.is_up(B) {
            world.start(friend(B, &[A, B]));
        }
        let (entry, key) = world.connect(A, B, 1);
        world.ok(A, argument(RequestKind::Watch, key, 8));
        world.ok(A, argument(RequestKind::Watch, key, 9));
        if end {
            world.end(B, reason, 0);
        } else {
            world.ok(B, RequestHeader::new(RequestKind::Revoke, entry));
        }
        for cookie in [8, 9] {
            let down = world.take_kind(A, DeliveryKind::Down).header;
            assert_eq!((down.badge, down.operation), (cookie, reason as u64));
        }
        assert!(world.take(A).is_none());
        assert_eq!(world.status(A, argument(RequestKind::Watch, key, 9)), Status::Broken(reason));
    }
    // A watch goes with its key.
    let (_, key) = world.connect(A, B, 1);
    world.ok(A, argument(RequestKind::Watch, key, 8));
    world.ok(A, RequestHeader::new(RequestKind::Drop, key));
    assert_eq!(world.view(A).usage.watches, 0);
    world.crash(B, 0);
    assert!(world.take(A).is_none());
}

#[test]
fn c39_a_dead_peer_is_noticed_at_the_next_use_and_a_look_up_helps() {
    let mut world = friends(&[A, B]);
    let (_, key) = world.connect(A, B, 1);
    world.crash(B, 0);
    assert_eq!(world.status(A, call(key, 1)), Status::Broken(Reason::PeerRestart));
    world.start(friend(B, &[A, B]));
    assert_eq!(world.status(A, call(key, 1)), Status::Broken(Reason::PeerRestart));
    let fresh = world.channel(A, B);
    assert_ne!(fresh, key);
    world.ok(A, send(fresh, 1));
    assert_eq!(world.take_message(B).header.operation, 1);
}

#[test]
fn c07_handle_1_into_another_district_works_again_by_itself() {
    let mut world = World::new();
    let server = friend(B, &[]);
    let bootstrap = Bootstrap::Service { owner: B, name: "channel".into() };
    world.start(district_broker::Attach { bootstrap, ..plain(A) });
    assert_eq!(world.status(A, call(Handle::BOOTSTRAP, 1)), Status::NotReady);
    for life in 0..3 {
        world.start(server.clone());
        let publisher = world.lookup(B, "publish/channel").key();
        let entry = world.export(B, 1);
        assert_eq!(world.status(A, call(Handle::BOOTSTRAP, 1)), Status::NotReady);
        world.ok(B, with_keys(call(publisher, directory::BIND), [slot(entry, true)]));
        let (answered, delivery) = world.delivered_call(A, Handle::BOOTSTRAP, B);
        world.ok(B, reply(delivery.header.reply, life));
        assert_eq!(world.done(answered).header.result, life);
        // In flight: one is executing, one is queued.
        let (executing, _) = world.delivered_call(A, Handle::BOOTSTRAP, B);
        let queued = world.submit(A, call(Handle::BOOTSTRAP, 1), b"");
        // A key made of handle 1 is one to this life of the server.
        let concrete = world.derive(A, Handle::BOOTSTRAP, Rights::CALL);
        world.crash(B, 0);
        assert_eq!(world.done(executing).status(), Status::Unknown(Reason::PeerRestart));
        assert_eq!(world.done(queued).status(), Status::NotDelivered(Reason::PeerRestart));
        assert_eq!(world.status(A, call(concrete, 1)), Status::Broken(Reason::PeerRestart));
        world.ok(A, RequestHeader::new(RequestKind::Drop, concrete));
    }
    assert_eq!(world.status(A, call(Handle::BOOTSTRAP, 1)), Status::NotReady);
    assert_eq!(world.view(A).keys.len(), 1);
}

#[test]
fn c07_a_served_directory_is_a_directory_of_its_owner() {
    let mut world = World::new();
    let grants = vec![grant("n", district_broker::GrantTarget::Number(5)), grant("later", service(C, "channel"))];
    world.start(district_broker::Attach { grants, ..friend(B, &[]) });
    let bootstrap = Bootstrap::Service { owner: B, name: "channel".into() };
    world.start(district_broker::Attach { bootstrap, ..plain(A) });
    let publisher = world.lookup(B, "publish/channel").key();
    let rights = Rights::LOOKUP.union(Rights::LIST).union(Rights::TRANSFER).union(Rights::DERIVE);
    let view = world.derive(B, Handle::BOOTSTRAP, rights);
    world.ok(B, with_keys(call(publisher, directory::BIND), [slot(view, false)]));
    let number = world.lookup(A, "n").key();
    assert_eq!(world.ok(A, call(number, 1)), 5);
    let waiting = world.submit(A, call(Handle::BOOTSTRAP, directory::LOOKUP_WAIT), b"later");
    assert!(world.pending(waiting));
    world.crash(B, 0);
    assert_eq!(world.done(waiting).status(), Status::NotDelivered(Reason::PeerRestart));
    assert_eq!(world.lookup(A, "n").status(), Status::NotReady);
    assert_eq!(world.ok(A, call(number, 1)), 5);
}

#[test]
fn nothing_of_a_dead_sender_arrives_and_nobody_waits_for_it() {
    let mut world = friends(&[A, B]);
    let (_, key) = world.connect(A, B, 1);
    let (_, delivery) = world.delivered_call(A, key, B);
    world.submit(A, call(key, 2), b"");
    world.ok(A, send(key, 3));
    let gift = world.export(A, 1);
    world.ok(A, with_keys(send(key, 4), [slot(gift, false)]));
    world.crash(A, 0);
    let told = world.take_kind(B, DeliveryKind::Cancelled).header;
    assert_eq!(told.reply, delivery.header.reply);
    assert!(world.take(B).is_none());
    assert_eq!(world.status(B, reply(delivery.header.reply, 1)), Status::Broken(Reason::Used));
}

#[test]
fn a_peer_that_lies_about_what_it_consumed_gains_nothing() {
    let mut world = friends(&[A, B]);
    let (_, key) = world.connect(A, B, 1);
    let (first, _) = world.delivered_call(A, key, B);
    let (second, _) = world.delivered_call(A, key, B);
    let delivered = world.view(B).counters.delivered;
    world.core.consumed(B, u64::MAX);
    world.core.consumed(B, 0);
    let (third, _) = world.delivered_call(A, key, B);
    world.core.detach(world.now, B, Reason::PeerRestart, delivered - 2);
    world.settle();
    assert_eq!(world.done(first).status(), Status::Unknown(Reason::PeerRestart));
    assert_eq!(world.done(second).status(), Status::Unknown(Reason::PeerRestart));
    assert_eq!(world.done(third).status(), Status::NotDelivered(Reason::PeerRestart));
}

#[test]
fn downs_that_are_not_taken_count_as_watches() {
    let mut world = World::new();
    let limits = district_broker::Limits { watches: 3, ..Default::default() };
    world.start(district_broker::Attach { limits, ..plain(A) });
    let entry = world.export(A, 1);
    let mut refused = 0;
    for _ in 0..10 {
        let key = world.derive(A, entry, Rights::WATCH);
        match world.status(A, argument(RequestKind::Watch, key, 1)) {
            Status::Ok => {}
            status => {
                assert_eq!(status, Status::Quota(Quota::Watches));
                refused += 1;
            }
        }
        world.ok(A, RequestHeader::new(RequestKind::Revoke, entry));
    }
    assert_eq!(refused, 7);
    world.take_kind(A, DeliveryKind::Down);
    let key = world.derive(A, entry, Rights::WATCH);
    world.ok(A, argument(RequestKind::Watch, key, 1));
}
