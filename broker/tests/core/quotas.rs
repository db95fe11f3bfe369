//! Limits, and what a hostile district can make the broker store.

use district_broker::{Attach, Limits};
use district_protocol::frame::{RequestHeader, RequestKind};
use district_protocol::handle::Handle;
use district_protocol::rights::Rights;
use district_protocol::status::{Quota, Reason, Status};

use crate::world::*;

const SMALL: Limits = Limits {
    handles: 40,
    exports: 6,
    queued_bytes: 4096,
    watches: 5,
    bindings: 1,
    frames_per_second: 1_000_000,
    calls: 4,
};

fn small() -> World {
    let mut world = World::new();
    world.start(Attach { limits: SMALL, ..friend(A, &[A, B]) });
    world.start(friend(B, &[A, B]));
    world
}

#[test]
fn c47_each_limit_is_the_payers_and_nobody_elses() {
    let mut world = small();
    let (_, key) = world.connect(A, B, 1);
    let (_, neighbour) = world.connect(B, B, 2);
    let mut until = |header: RequestHeader, data: &[u8]| {
        for done in 0.. {
            let token = world.submit(A, header, data);
            match world.poll(token).map(|completion| completion.status()) {
                None | Some(Status::Ok) => {}
                Some(status) => return (done, status),
            }
            // A neighbour's own requests go on as before.
            world.ok(B, send(neighbour, 1));
        }
        unreachable!()
    };
    assert_eq!(until(call(key, 1), b""), (4, Status::Quota(Quota::Calls)));
    let (sent, status) = until(send(key, 1), &[0; 500]);
    assert_eq!(status, Status::Quota(Quota::QueuedBytes));
    assert_eq!(sent, (4096 - 4 * 384) / (500 + 384));
    assert_eq!(until(argument(RequestKind::Export, Handle(0), 1), b"").1, Status::Quota(Quota::Exports));
    let watched = until(argument(RequestKind::Watch, key, 1), b"");
    assert_eq!(watched, (5, Status::Quota(Quota::Watches)));
    let derive = request(RequestKind::Derive, key, 0);
    assert_eq!(until(derive, b"").1, Status::Quota(Quota::Handles));
    let usage = world.view(A).usage;
    assert_eq!((usage.calls, usage.watches, usage.handles, usage.exports), (4, 5, 40, 6));
    // What was used up is there again when it is given back.
    while world.take(B).is_some() {}
    assert_eq!(world.view(A).usage.queued_bytes, 0);
    world.crash(B, 0);
    assert_eq!(world.view(A).usage.calls, 0);
}

#[test]
fn c47_frames_per_second() {
    let mut world = World::new();
    world.start(Attach { limits: Limits { frames_per_second: 100, ..Limits::default() }, ..plain(A) });
    world.start(plain(B));
    let ping = RequestHeader::new(RequestKind::Identify, Handle::BOOTSTRAP);
    let mut passed = 0;
    for _ in 0..1000 {
        passed += u32::from(world.status(A, ping) == Status::Ok);
        world.ok(B, ping);
    }
    assert!((100..=101).contains(&passed), "{passed}");
    assert_eq!(world.status(A, ping), Status::Quota(Quota::Frames));
    world.pass(1_000_000_000);
    world.ok(A, ping);
}

/// One of everything that a guest can do to make the broker remember something, over and over.
#[test]
fn c47_a_hostile_district_cannot_make_the_broker_grow() {
    let mut world = small();
    let (_, key) = world.connect(A, B, 1);
    let own = world.export(A, 1);
    let notifier = Handle(world.ok(A, argument(RequestKind::Notifier, Handle(0), 2)));
    let publisher = world.lookup(A, "publish/channel").key();
    let mut sizes = Vec::new();
    for round in 0..3000_u64 {
        let mut made = Vec::new();
        for header in [
            argument(RequestKind::Export, Handle(0), round),
            argument(RequestKind::Notifier, Handle(0), round),
            request(RequestKind::Derive, own, u64::from(ENTRY.0)),
            RequestHeader { timeout: 50, ..request(RequestKind::Derive, own, u64::from(Rights::WATCH.0)) },
        ] {
            let completion = world.ask(A, header, b"");
            if completion.status() == Status::Ok {
                made.push(Handle(completion.header.result));
            }
        }
        for handle in made.iter().copied().chain([key]) {
            let watch = world.submit(A, argument(RequestKind::Watch, handle, round), b"");
            world.poll(watch);
        }
        world.ask(A, request(RequestKind::Notify, notifier, round), b"");
        for target in [key, own] {
            let timeout = if round % 2 == 0 { 20 } else { u64::MAX };
            let token = world.submit(A, RequestHeader { timeout, token: round % 3, ..call(target, 1) }, b"data");
            world.poll(token);
            let given = made.first().map_or(own, |handle| *handle);
            let token = world.submit(A, with_keys(call(target, 1), [slot(given, round % 5 == 0)]), b"");
            world.poll(token);
            world.submit(A, send(target, 1), b"x");
            if round % 7 == 0 {
                world.take(B);
                world.take(A);
            }
            world.submit(A, argument(RequestKind::Cancel, Handle(0), round % 3), b"");
        }
        let bind = with_keys(call(publisher, 4), [slot(own, true)]);
        world.submit(A, bind, b"");
        world.lookup(A, "to-10");
        world.submit(A, call(Handle::BOOTSTRAP, 2), b"to-11");
        for handle in made {
            let kind = if round % 4 == 0 { RequestKind::Revoke } else { RequestKind::Drop };
            world.submit(A, RequestHeader::new(kind, handle), b"");
        }
        if round % 16 == 0 {
            world.submit(A, RequestHeader::new(RequestKind::Revoke, own), b"");
            world.pass(10);
        }
        if round % 100 == 0 {
            world.now += 1_000_000_000;
            sizes.push(world.core.stored_records());
        }
    }
    let bound = u64::from(SMALL.handles + SMALL.exports * 2 + SMALL.watches + SMALL.calls) * 3;
    let most = sizes.iter().max().copied().unwrap();
    assert!(most < bound + 60, "{most} records, bound {bound}");
    let usage = world.view(A).usage;
    assert!(usage.inbox < 64 && usage.handles <= SMALL.handles, "{usage:?}");
    world.end(A, Reason::Destroyed, 0);
    world.end(B, Reason::Destroyed, 0);
    assert_eq!(world.core.stored_records(), 0);
}
