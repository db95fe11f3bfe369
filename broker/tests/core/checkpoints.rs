//! Calls that wait for checkpoints: each is answered by the first that began after it.

use district_broker::{Attach, GrantTarget, KeyState, Limits, NoCheckpoint, TargetView};
use district_protocol::frame::{FLAG_ONCE, RequestHeader, RequestKind};
use district_protocol::handle::Handle;
use district_protocol::operation::{KeyKind, supervisor::CHECKPOINT};
use district_protocol::rights::Rights;
use district_protocol::status::{Argument, Quota, Reason, Status};

use crate::world::*;

fn world() -> World {
    let mut world = World::new();
    let grants = vec![grant("checkpoint", GrantTarget::Checkpoint), grant("to-11", service(B, "channel"))];
    world.start(Attach { grants, ..friend(A, &[]) });
    world.start(friend(B, &[A, B]));
    world
}

fn key(world: &mut World) -> Handle {
    world.lookup(A, "checkpoint").key()
}

#[test]
fn a_call_is_answered_by_the_first_checkpoint_that_began_after_it() {
    let mut world = world();
    let key = key(&mut world);
    let early = world.checkpoint_begins(A);
    let commit = |world: &mut World| world.submit(A, call(key, CHECKPOINT), b"");
    let (first, second) = (commit(&mut world), commit(&mut world));
    assert_eq!(world.wanted, [A], "one is enough for both");
    world.checkpointed(early, Ok(1));
    assert!(world.pending(first) && world.pending(second));
    let ticket = world.checkpoint_begins(A);
    let third = commit(&mut world);
    assert_eq!(world.wanted, [A], "the third is not in it");
    world.checkpointed(ticket, Ok(2));
    for token in [first, second] {
        let done = world.done(token);
        assert_eq!((done.status(), done.header.result, done.data.len()), (Status::Ok, 2, 0));
    }
    assert!(world.pending(third));
    // One that nobody asked for is as good as any, and an answer comes once.
    let ticket = world.checkpoint_begins(A);
    world.checkpointed(ticket, Ok(3));
    world.checkpointed(ticket, Ok(4));
    assert_eq!(world.done(third).header.result, 3);
    assert_eq!(world.view(A).usage.calls, 0);
}

/// Each goes to the disk; whoever wants many pays for them, and nobody else does.
#[test]
fn c47_checkpoints_count_for_many_frames() {
    let mut world = world();
    let key = key(&mut world);
    let mut asked = 0;
    let refused = loop {
        let token = world.submit(A, call(key, CHECKPOINT), b"");
        if !world.pending(token) {
            break world.done(token).status();
        }
        let ticket = world.checkpoint_begins(A);
        world.checkpointed(ticket, Ok(asked + 1));
        asked += 1;
    };
    assert_eq!(refused, Status::Quota(Quota::Frames));
    assert!((150..=250).contains(&asked), "{asked}");
    world.ok(B, RequestHeader::new(RequestKind::Identify, Handle::BOOTSTRAP));
    world.pass(1_000_000_000);
    let token = world.submit(A, call(key, CHECKPOINT), b"");
    assert!(world.pending(token));
}

#[test]
fn c49_a_checkpoint_that_fails_is_reported_and_the_next_one_works() {
    let mut world = world();
    let key = key(&mut world);
    for (result, status) in [
        (Err(NoCheckpoint::Failed), Status::WouldBlock),
        (Err(NoCheckpoint::Never), Status::Denied(Argument::OPERATION)),
        (Ok(7), Status::Ok),
    ] {
        let token = world.submit(A, call(key, CHECKPOINT), b"");
        let sent = world.submit(A, send(key, CHECKPOINT), b"");
        let ticket = world.checkpoint_begins(A);
        world.checkpointed(ticket, result);
        assert_eq!(world.done(token).status(), status);
        assert_eq!(world.done(sent).status(), status, "the host answers a send like a call");
    }
}

#[test]
fn what_does_not_fit_the_operation_is_refused_and_asks_for_nothing() {
    let mut world = world();
    let key = key(&mut world);
    let commit = call(key, CHECKPOINT);
    assert_eq!(world.ask(A, commit, b"x").status(), Status::BadArgument(Argument::DATA));
    assert_eq!(world.status(A, with_keys(commit, [slot(key, true)])), Status::BadArgument(Argument::key(0)));
    let mute = world.derive(A, key, Rights::NONE);
    assert_eq!(world.status(A, call(mute, CHECKPOINT)), Status::Denied(Argument::TARGET));
    for operation in [0, 2, u64::MAX] {
        assert_eq!(world.status(A, call(key, operation)), Status::NoSuchOperation);
    }
    let publisher = world.lookup(B, "publish/channel").key();
    let lent = world.give(A, key, B);
    let bind = with_keys(call(publisher, district_protocol::operation::directory::BIND), [slot(lent, true)]);
    assert_eq!(world.status(B, bind), Status::BadArgument(Argument::key(0)));
    assert!(world.wanted.is_empty());
    let view = world.view(A).keys.into_iter().find(|view| view.handle == key).unwrap();
    assert_eq!(
        (view.kind, view.target, view.state),
        (KeyKind::Supervisor, TargetView::Supervisor { owner: A }, KeyState::Live)
    );
    assert_eq!(world.lookup(B, "checkpoint").status(), Status::NotFound, "nobody has it who was not granted it");
}

#[test]
fn it_is_a_call_and_limited() {
    let mut world = World::new();
    let grants = vec![grant("checkpoint", GrantTarget::Checkpoint)];
    world.start(Attach { limits: Limits { calls: 2, ..Limits::default() }, grants, ..plain(A) });
    let key = key(&mut world);
    let tokens = [(); 2].map(|()| world.submit(A, call(key, CHECKPOINT), b""));
    assert_eq!(world.status(A, call(key, CHECKPOINT)), Status::Quota(Quota::Calls));
    let ticket = world.checkpoint_begins(A);
    world.checkpointed(ticket, Ok(1));
    assert!(tokens.into_iter().all(|token| world.done(token).status() == Status::Ok));
}

#[test]
fn c24_c25_deadline_and_cancel_say_whether_one_had_begun() {
    let mut world = world();
    let key = key(&mut world);
    let commit = |timeout| RequestHeader { timeout, ..call(key, CHECKPOINT) };
    let before = [world.submit(A, commit(10), b""), world.submit(A, commit(0), b"")];
    world.ok(A, argument(RequestKind::Cancel, Handle(0), before[1].token));
    world.pass(10);
    assert_eq!(world.done(before[0]).status(), Status::NotDelivered(Reason::Deadline));
    assert_eq!(world.done(before[1]).status(), Status::NotDelivered(Reason::Cancelled));
    let after = [world.submit(A, commit(10), b""), world.submit(A, commit(0), b""), world.submit(A, commit(0), b"")];
    let ticket = world.checkpoint_begins(A);
    world.ok(A, argument(RequestKind::Cancel, Handle(0), after[1].token));
    world.pass(10);
    assert_eq!(world.done(after[0]).status(), Status::Unknown(Reason::Deadline));
    assert_eq!(world.done(after[1]).status(), Status::Unknown(Reason::Cancelled));
    world.checkpointed(ticket, Ok(1));
    assert_eq!(world.done(after[2]).status(), Status::Ok);
    assert_eq!(world.core.next_deadline(), None);
}

#[test]
fn keys_that_go_while_one_is_under_way() {
    let mut world = world();
    let key = key(&mut world);
    let (early, late) = (world.derive(A, key, Rights::CALL), world.derive(A, key, Rights::CALL));
    let in_it = world.submit(A, call(early, CHECKPOINT), b"");
    let ticket = world.checkpoint_begins(A);
    let not_in_it = world.submit(A, call(late, CHECKPOINT), b"");
    world.ok(A, RequestHeader::new(RequestKind::Revoke, key));
    assert_eq!(world.done(in_it).status(), Status::Unknown(Reason::Revoked));
    assert_eq!(world.done(not_in_it).status(), Status::NotDelivered(Reason::Revoked));
    // A key that is dropped, or was good for one use, is used all the same.
    let once = RequestHeader {
        operation: u64::from(Rights::CALL.0),
        flags: FLAG_ONCE,
        ..RequestHeader::new(RequestKind::Derive, key)
    };
    let once = Handle(world.ok(A, once));
    let tokens = [world.submit(A, call(once, CHECKPOINT), b""), world.submit(A, call(key, CHECKPOINT), b"")];
    assert_eq!(world.status(A, call(once, CHECKPOINT)), Status::Broken(Reason::Used));
    world.ok(A, RequestHeader::new(RequestKind::Drop, key));
    world.checkpointed(ticket, Ok(1));
    let ticket = world.checkpoint_begins(A);
    world.checkpointed(ticket, Ok(2));
    assert!(tokens.into_iter().all(|token| world.done(token).header.result == 2));
}

#[test]
fn a_key_that_was_passed_on_means_the_district_that_it_was_granted_to() {
    let mut world = world();
    let key = key(&mut world);
    let lent = world.give(A, key, B);
    let token = world.submit(B, call(lent, CHECKPOINT), b"");
    assert_eq!(world.wanted, [A]);
    let ticket = world.checkpoint_begins(B);
    world.checkpointed(ticket, Ok(1));
    assert!(world.pending(token));
    let ticket = world.checkpoint_begins(A);
    world.checkpointed(ticket, Ok(2));
    assert_eq!(world.done(token).header.result, 2);
    // The caller goes.
    world.submit(B, call(lent, CHECKPOINT), b"");
    world.crash(B, 0);
    let ticket = world.checkpoint_begins(A);
    world.checkpointed(ticket, Ok(3));
    // The district goes.
    world.start(friend(B, &[A, B]));
    let lent = world.give(A, key, B);
    let in_it = world.submit(B, call(lent, CHECKPOINT), b"");
    let ticket = world.checkpoint_begins(A);
    let not_in_it = world.submit(B, call(lent, CHECKPOINT), b"");
    world.crash(A, 0);
    assert_eq!(world.done(in_it).status(), Status::Unknown(Reason::PeerRestart));
    assert_eq!(world.done(not_in_it).status(), Status::NotDelivered(Reason::PeerRestart));
    world.checkpointed(ticket, Ok(4));
    assert_eq!(world.status(B, call(lent, CHECKPOINT)), Status::Broken(Reason::PeerRestart));
}

#[test]
fn a_session_that_ends_takes_its_calls_along_and_old_tickets_answer_no_new_ones() {
    let mut world = world();
    let old = key(&mut world);
    world.submit(A, call(old, CHECKPOINT), b"");
    let ticket = world.checkpoint_begins(A);
    world.submit(A, call(old, CHECKPOINT), b"");
    world.crash(A, 0);
    world.checkpointed(ticket, Ok(1));
    world.wanted.clear();
    let grants = vec![grant("checkpoint", GrantTarget::Checkpoint)];
    world.start(Attach { grants, ..friend(A, &[]) });
    let key = key(&mut world);
    assert_eq!(world.status(A, call(old, CHECKPOINT)), Status::Broken(Reason::SelfRestart));
    let token = world.submit(A, call(key, CHECKPOINT), b"");
    assert_eq!(world.wanted, [A], "each session asks for its own");
    world.checkpointed(ticket, Ok(1));
    assert!(world.pending(token));
    let unknown = world.core.checkpoint_begins(C);
    world.checkpointed(unknown, Ok(9));
    let ticket = world.checkpoint_begins(A);
    world.checkpointed(ticket, Ok(2));
    assert_eq!(world.done(token).header.result, 2);
}
