//! Objects that the host serves.

use district_broker::GrantTarget;
use district_protocol::frame::{RequestHeader, RequestKind};
use district_protocol::handle::Handle;
use district_protocol::operation::{clock, log, number, random};
use district_protocol::rights::Rights;
use district_protocol::status::{Argument, Quota, Reason, Status};

use crate::world::*;

fn world() -> World {
    let mut world = World::new();
    let grants = vec![
        grant("checkpoint", GrantTarget::Checkpoint),
        grant("clock", GrantTarget::Clock),
        grant("log", GrantTarget::Log),
        grant("number", GrantTarget::Number(u64::MAX)),
        grant("random", GrantTarget::Random),
        grant("to-11", service(B, "channel")),
    ];
    world.start(district_broker::Attach { grants, ..friend(A, &[]) });
    world.start(friend(B, &[A, B]));
    world
}

#[test]
fn c27_an_unknown_operation_changes_nothing() {
    let mut world = world();
    let entry = world.export(A, 1);
    let notifier = Handle(world.ok(A, argument(RequestKind::Notifier, Handle(0), 0)));
    let own = world.delivered_call(A, entry, A).1.header.reply;
    let mut keys = vec![Handle::BOOTSTRAP, notifier, own];
    for path in ["checkpoint", "clock", "log", "number", "random", "publish", "publish/channel"] {
        keys.push(world.lookup(A, path).key());
    }
    let before = (world.view(A).keys, world.view(A).usage);
    for key in keys {
        for operation in [0, 7, 1 << 32 | 1, u64::MAX] {
            for header in [call(key, operation), send(key, operation)] {
                assert_eq!(world.status(A, header), Status::NoSuchOperation, "{key:?} {operation}");
            }
        }
    }
    assert_eq!((world.view(A).keys, world.view(A).usage), before);
    assert!(world.logged.is_empty());
}

#[test]
fn a_log_takes_text() {
    let mut world = world();
    let key = world.lookup(A, "log").key();
    let write = |key| call(key, log::WRITE);
    assert_eq!(world.ask(A, write(key), "één\nzwei".as_bytes()).status(), Status::Ok);
    assert_eq!(world.ask(A, send(key, log::WRITE), b"sent").status(), Status::Ok);
    assert_eq!(world.ask(A, write(key), &[b'x'; 4096]).status(), Status::Ok);
    assert_eq!(world.ask(A, write(key), &[b'x'; 4097]).status(), Status::TooBig);
    assert_eq!(world.ask(A, write(key), &[0xc3]).status(), Status::BadArgument(Argument::DATA));
    let with_key = with_keys(write(key), [slot(key, true)]);
    assert_eq!(world.status(A, with_key), Status::BadArgument(Argument::key(0)));
    // It is A's log, whoever writes.
    let lent = world.give(A, key, B);
    assert_eq!(world.ask(B, write(lent), b"from b").status(), Status::Ok);
    assert_eq!(world.logged.len(), 4);
    assert_eq!(world.logged[0], (A, String::from("één\nzwei")));
    assert_eq!(world.logged[3], (A, String::from("from b")));
    world.crash(A, 0);
    assert_eq!(world.status(B, write(lent)), Status::Broken(Reason::PeerRestart));
}

#[test]
fn a_clock_tells_the_time_and_waits_for_it() {
    let mut world = world();
    let key = world.lookup(A, "clock").key();
    assert_eq!(world.ok(A, call(key, clock::NOW)), world.now);
    let sleep = call(key, clock::SLEEP);
    let long = world.submit(A, sleep, &100_u64.to_le_bytes());
    let short = world.submit(A, sleep, &50_u64.to_le_bytes());
    let impatient = world.submit(A, RequestHeader { timeout: 20, ..sleep }, &50_u64.to_le_bytes());
    let patient = world.submit(A, RequestHeader { timeout: 60, ..sleep }, &50_u64.to_le_bytes());
    assert_eq!(world.ask(A, sleep, &0_u64.to_le_bytes()).header.result, world.now);
    assert_eq!(world.ask(A, sleep, &[0; 4]).status(), Status::BadArgument(Argument::DATA));
    world.pass(20);
    assert_eq!(world.done(impatient).status(), Status::NotDelivered(Reason::Deadline));
    world.pass(31);
    for token in [short, patient] {
        assert_eq!((world.done(token).header.result, world.pending(long)), (world.now, true));
    }
    let revocable = world.derive(A, key, Rights::CALL);
    let lost = world.submit(A, call(revocable, clock::SLEEP), &u64::MAX.to_le_bytes());
    world.ok(A, RequestHeader::new(RequestKind::Revoke, key));
    assert_eq!(world.done(lost).status(), Status::NotDelivered(Reason::Revoked));
    world.ok(A, RequestHeader::new(RequestKind::Drop, key));
    world.pass(49);
    assert_eq!(world.done(long).status(), Status::Ok);
    assert_eq!(world.core.next_deadline(), None);
    // Time that goes back does not.
    world.now -= 100;
    let key = world.lookup(A, "clock").key();
    assert_eq!(world.ok(A, call(key, clock::NOW)), world.now + 100);
}

#[test]
fn sleepers_are_calls_and_limited() {
    let mut world = World::new();
    let limits = district_broker::Limits { calls: 3, ..Default::default() };
    world.start(district_broker::Attach { limits, grants: vec![grant("clock", GrantTarget::Clock)], ..plain(A) });
    let key = world.lookup(A, "clock").key();
    let mut tokens = Vec::new();
    for _ in 0..3 {
        tokens.push(world.submit(A, call(key, clock::SLEEP), &1_u64.to_le_bytes()));
    }
    let refused = world.ask(A, call(key, clock::SLEEP), &1_u64.to_le_bytes());
    assert_eq!(refused.status(), Status::Quota(Quota::Calls));
    world.pass(1);
    assert!(tokens.into_iter().all(|token| world.done(token).status() == Status::Ok));
}

#[test]
fn numbers_and_random_bytes() {
    let mut world = world();
    let key = world.lookup(A, "number").key();
    assert_eq!(world.ok(A, call(key, number::GET)), u64::MAX);
    assert_eq!(world.ask(A, call(key, number::GET), b"x").status(), Status::BadArgument(Argument::DATA));
    let mute = world.derive(A, key, Rights::NONE);
    assert_eq!(world.status(A, call(mute, number::GET)), Status::Denied(Argument::TARGET));
    let key = world.lookup(A, "random").key();
    for count in [0, 1, 65_536_u32] {
        assert_eq!(world.ask(A, call(key, random::BYTES), &count.to_le_bytes()).data.len(), count as usize);
    }
    assert_eq!(world.ask(A, call(key, random::BYTES), &65_537_u32.to_le_bytes()).status(), Status::TooBig);
    world.capacity = Some(8);
    assert_eq!(world.ask(A, call(key, random::BYTES), &9_u32.to_le_bytes()).status(), Status::TooBig);
    assert_eq!(world.ask(A, call(key, random::BYTES), &8_u32.to_le_bytes()).data.len(), 8);
}
