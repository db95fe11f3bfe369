//! Messages, calls, replies, notifications.

use district_broker::Limits;
use district_protocol::frame::{DeliveryKind, KEYS_MAX, RequestHeader, RequestKind};
use district_protocol::handle::Handle;
use district_protocol::rights::Rights;
use district_protocol::status::{Argument, Quota, Reason, Status};

use crate::world::*;

fn drop(handle: Handle) -> RequestHeader {
    RequestHeader::new(RequestKind::Drop, handle)
}

fn cancel(token: Token) -> RequestHeader {
    argument(RequestKind::Cancel, Handle(0), token.token)
}

#[test]
fn c19_bytes_keys_and_their_order_arrive_exactly() {
    let mut world = friends(&[A, B]);
    let (_, key) = world.connect(A, B, 5);
    for length in [0, 1, 64, 65_535, 65_536] {
        let data: Vec<u8> = (0..length).map(|at: u32| at.to_le_bytes()[0] ^ 0x5a).collect();
        let token = world.submit(A, call(key, u64::MAX - 1), &data);
        let delivery = world.take_message(B);
        assert_eq!((delivery.header.export, delivery.header.operation), (5, u64::MAX - 1));
        assert_eq!(delivery.header.reply_capacity, CAPACITY);
        assert_eq!(delivery.data, data);
        assert_eq!(world.ask(B, reply(delivery.header.reply, 8), &data).status(), Status::Ok);
        let completion = world.done(token);
        assert_eq!((completion.status(), completion.header.result), (Status::Ok, 8));
        assert_eq!(completion.data, data);
    }
    assert_eq!(world.ask(A, send(key, 1), &[0; 65_537]).status(), Status::TooBig);
    let entries: Vec<Handle> = (0..4).map(|name| world.export(A, name)).collect();
    let four = [0, 1, 2, 3].map(|at| slot(entries[at], at % 2 == 0));
    world.ok(A, with_keys(send(key, 1), four));
    let got = world.take_message(B).header;
    assert_eq!(usize::from(got.key_count), KEYS_MAX);
    for (name, handle) in (0..).zip(got.keys) {
        world.ok(B, send(handle, 1));
        assert_eq!(world.take_message(A).header.export, name);
    }
    let mut bytes = with_keys(send(key, 1), four).encode().to_vec();
    bytes[2] = 5;
    let token = world.submit_bytes(A, 0, bytes);
    assert_eq!(world.done(token).status(), Status::TooManyKeys);
    assert!(world.take(B).is_none());
}

#[test]
fn c20_a_reply_key_works_once() {
    let mut world = friends(&[A, B]);
    let (_, key) = world.connect(A, B, 1);
    let (token, delivery) = world.delivered_call(A, key, B);
    let handle = delivery.header.reply;
    world.ok(B, reply(handle, 1));
    assert_eq!(world.status(B, reply(handle, 2)), Status::Broken(Reason::Used));
    assert_eq!(world.done(token).header.result, 1);
    assert_eq!(world.poll(token).map(|_| ()), None);
    assert_eq!(world.status(B, drop(handle)), Status::Broken(Reason::Used));
}

#[test]
fn c20_a_reply_key_can_do_nothing_else() {
    let mut world = friends(&[A, B]);
    let (_, key) = world.connect(A, B, 1);
    let (token, delivery) = world.delivered_call(A, key, B);
    let handle = delivery.header.reply;
    let (_, back) = world.connect(B, A, 1);
    let copied = with_keys(send(back, 1), [slot(handle, true)]);
    assert_eq!(world.status(B, copied), Status::Denied(Argument::key(0)));
    let itself = with_keys(reply(handle, 1), [slot(handle, false)]);
    assert_eq!(world.status(B, itself), Status::BadArgument(Argument::key(0)));
    for kind in [RequestKind::Derive, RequestKind::Revoke, RequestKind::Watch] {
        assert_eq!(world.status(B, RequestHeader::new(kind, handle)), Status::Denied(Argument::TARGET));
    }
    assert_eq!(world.status(B, reply(back, 1)), Status::BadArgument(Argument::TARGET));
    assert!(world.pending(token));
    world.ok(B, reply(handle, 1));
    assert_eq!(world.done(token).status(), Status::Ok);
}

#[test]
fn c21_a_reply_key_that_is_passed_on_works_once() {
    let mut world = friends(&[A, B, C]);
    let (_, key) = world.connect(A, B, 1);
    let (token, delivery) = world.delivered_call(A, key, B);
    let first = delivery.header.reply;
    let second = world.pass_key(B, slot(first, false), C);
    assert_eq!(world.status(B, reply(first, 1)), Status::Broken(Reason::Used));
    // The first holder's end is nothing to the call.
    world.crash(B, 0);
    assert!(world.pending(token));
    world.ok(C, reply(second, 3));
    assert_eq!(world.status(C, reply(second, 4)), Status::Broken(Reason::Used));
    assert_eq!(world.done(token).header.result, 3);
}

#[test]
fn c21_a_passed_reply_key_ends_unknown_whoever_gets_the_number_of_the_first_holder() {
    let mut world = friends(&[A, B, C]);
    let (_, key) = world.connect(A, B, 1);
    let (token, delivery) = world.delivered_call(A, key, B);
    let second = world.pass_key(B, slot(delivery.header.reply, false), C);
    world.crash(B, 1);
    world.start(friend(B, &[A, B, C]));
    world.pass_key(C, slot(second, false), B);
    world.crash(B, 1);
    assert_eq!(world.done(token).status(), Status::Unknown(Reason::PeerRestart));
}

#[test]
fn c22_a_reply_key_that_is_dropped_ends_the_call() {
    let mut world = friends(&[A, B, C]);
    let (_, key) = world.connect(A, B, 1);
    let (token, delivery) = world.delivered_call(A, key, B);
    world.ok(B, drop(delivery.header.reply));
    assert_eq!(world.done(token).status(), Status::Unknown(Reason::NoReply));
    let (token, delivery) = world.delivered_call(A, key, B);
    world.pass_key(B, slot(delivery.header.reply, false), C);
    world.crash(C, 0);
    assert_eq!(world.done(token).status(), Status::Unknown(Reason::PeerRestart));
    // On its way to somebody else when its sender ends.
    world.start(friend(C, &[A, B, C]));
    let (_, to_c) = world.connect(B, C, 1);
    let (token, delivery) = world.delivered_call(A, key, B);
    world.ok(B, with_keys(send(to_c, 1), [slot(delivery.header.reply, false)]));
    world.crash(B, 0);
    assert_eq!(world.done(token).status(), Status::Unknown(Reason::PeerRestart));
    assert!(world.take(C).is_none());
}

#[test]
fn c23_a_server_dies_with_a_thousand_reply_keys() {
    let mut world = friends(&[A, B]);
    let (_, key) = world.connect(A, B, 1);
    let calls: Vec<Token> = (0..1000).map(|_| world.delivered_call(A, key, B).0).collect();
    world.completed.clear();
    world.crash(B, 300);
    assert_eq!(world.completed.len(), 1000);
    for (number, token) in calls.into_iter().enumerate() {
        let expected =
            if number < 700 { Status::Unknown(Reason::PeerRestart) } else { Status::NotDelivered(Reason::PeerRestart) };
        assert_eq!(world.done(token).status(), expected, "call {number}");
    }
}

#[test]
fn c37_a_server_dies_with_queued_and_consumed_calls() {
    let mut world = friends(&[A, B]);
    let (_, key) = world.connect(A, B, 1);
    let consumed: Vec<Token> = (0..100).map(|_| world.delivered_call(A, key, B).0).collect();
    let queued: Vec<Token> = (0..100).map(|_| world.submit(A, call(key, 1), b"")).collect();
    world.crash(B, 0);
    for token in consumed {
        assert_eq!(world.done(token).status(), Status::Unknown(Reason::PeerRestart));
    }
    for token in queued {
        assert_eq!(world.done(token).status(), Status::NotDelivered(Reason::PeerRestart));
    }
}

#[test]
fn c24_cancelling_before_and_after_delivery() {
    let mut world = friends(&[A, B]);
    let (_, key) = world.connect(A, B, 1);
    let token = world.submit(A, call(key, 1), b"");
    assert_eq!(world.ok(A, cancel(token)), 1);
    assert_eq!(world.done(token).status(), Status::NotDelivered(Reason::Cancelled));
    assert_eq!(world.ok(A, cancel(token)), 0);
    assert!(world.take(B).is_none());

    let (token, delivery) = world.delivered_call(A, key, B);
    assert_eq!(world.ok(A, cancel(token)), 1);
    assert_eq!(world.done(token).status(), Status::Unknown(Reason::Cancelled));
    let told = world.take_kind(B, DeliveryKind::Cancelled).header;
    assert_eq!(told.reply, delivery.header.reply);
    assert_eq!(world.status(B, reply(told.reply, 1)), Status::Broken(Reason::Used));
    assert_eq!(world.poll(token).map(|_| ()), None);

    // The server is faster than the news, or drops the key before it hears them.
    let (token, delivery) = world.delivered_call(A, key, B);
    world.ok(A, cancel(token));
    assert_eq!(world.status(B, reply(delivery.header.reply, 1)), Status::Broken(Reason::Used));
    world.ok(B, drop(delivery.header.reply));
    world.take_kind(B, DeliveryKind::Cancelled);
    assert!(world.take(B).is_none());
}

#[test]
fn c24_a_cancelled_call_whose_reply_key_is_on_its_way() {
    let mut world = friends(&[A, B, C]);
    let (_, key) = world.connect(A, B, 1);
    let (_, to_c) = world.connect(B, C, 1);
    let (token, delivery) = world.delivered_call(A, key, B);
    world.ok(B, with_keys(send(to_c, 1), [slot(delivery.header.reply, false)]));
    world.ok(A, cancel(token));
    assert_eq!(world.done(token).status(), Status::Unknown(Reason::Cancelled));
    let got = world.take_message(C).header.keys[0];
    assert_eq!(world.status(C, reply(got, 1)), Status::Broken(Reason::Used));
}

#[test]
fn c25_a_deadline_while_queued_and_while_executing() {
    let mut world = friends(&[A, B]);
    let (_, key) = world.connect(A, B, 1);
    let timed = RequestHeader { timeout: 100, ..call(key, 1) };
    let entry = world.export(A, 3);
    let queued = world.submit(A, with_keys(timed, [slot(entry, false)]), b"");
    world.pass(99);
    assert!(world.pending(queued));
    world.pass(1);
    assert_eq!(world.done(queued).status(), Status::NotDelivered(Reason::Deadline));
    world.ok(A, send(entry, 1));
    assert!(world.take(B).is_none());

    let executing = world.submit(A, timed, b"");
    let handle = world.take_message(B).header.reply;
    world.pass(100);
    assert_eq!(world.done(executing).status(), Status::Unknown(Reason::Deadline));
    assert_eq!(world.take_kind(B, DeliveryKind::Cancelled).header.reply, handle);
    assert_eq!(world.core.next_deadline(), None);

    // A request that comes after the deadline finds the call ended, whether or not the shell has looked at the clock.
    let late = world.submit(A, timed, b"");
    let handle = world.take_message(B).header.reply;
    world.now += 100;
    assert_eq!(world.status(B, reply(handle, 1)), Status::Broken(Reason::Used));
    assert_eq!(world.done(late).status(), Status::Unknown(Reason::Deadline));
    // One that is answered leaves no timer behind.
    let token = world.submit(A, timed, b"");
    world.take_kind(B, DeliveryKind::Cancelled);
    let handle = world.take_message(B).header.reply;
    world.ok(B, reply(handle, 1));
    assert_eq!(world.done(token).status(), Status::Ok);
    assert_eq!(world.core.next_deadline(), None);
    // The end of time is no deadline that overflows.
    let token = world.submit(A, RequestHeader { timeout: u64::MAX, ..call(key, 1) }, b"");
    assert!(world.pending(token));
}

#[test]
fn c26_order_is_kept_per_key_and_senders_take_turns() {
    let mut world = friends(&[A, B, C]);
    let entry = world.export(C, 1);
    let from_a = world.give(C, entry, A);
    let from_b = world.give(C, entry, B);
    for number in 0..50 {
        world.ok(A, send(from_a, number));
    }
    for number in 100..110 {
        world.ok(B, send(from_b, number));
    }
    world.ok(C, send(entry, 1000));
    let order: Vec<u64> = (0..61).map(|_| world.take_message(C).header.operation).collect();
    assert_eq!(order[..5], [0, 100, 1000, 1, 101]);
    let of_a: Vec<u64> = order.iter().copied().filter(|number| *number < 50).collect();
    let of_b: Vec<u64> = order.iter().copied().filter(|number| (100..200).contains(number)).collect();
    assert_eq!(of_a, (0..50).collect::<Vec<_>>());
    assert_eq!(of_b, (100..110).collect::<Vec<_>>());
    // B never waited for more than one of each of the others.
    assert!(order.iter().position(|number| *number == 109).unwrap() < 22);
}

#[test]
fn a_delivery_that_is_not_placed_stays_the_next() {
    let mut world = friends(&[A, B]);
    let (_, key) = world.connect(A, B, 1);
    let entry = world.export(A, 2);
    let token = world.submit(A, with_keys(call(key, 1), [slot(entry, true)]), b"first");
    world.ok(A, send(key, 2));
    let mut seen = Vec::new();
    for _ in 0..3 {
        let result = world.core.deliver(B, |header, data| {
            seen.push((*header, data.to_vec()));
            false
        });
        assert_eq!(result, district_broker::Delivered::Refused);
        world.core.check_invariants().unwrap();
        assert!(world.core.has_deliveries(B));
    }
    let taken = world.take_message(B);
    assert!(seen.iter().all(|(_, data)| *data == taken.data));
    assert!(seen.iter().all(|(header, _)| header.reply == taken.header.reply && header.keys == taken.header.keys));
    assert_eq!(world.take_message(B).header.operation, 2);
    assert!(world.pending(token));
}

#[test]
fn c28_calls_to_oneself_and_in_circles() {
    let mut world = friends(&[A, B]);
    let own = world.export(A, 1);
    let (token, delivery) = world.delivered_call(A, own, A);
    world.ok(A, reply(delivery.header.reply, 9));
    assert_eq!(world.done(token).header.result, 9);

    let (_, to_b) = world.connect(A, B, 1);
    let (_, to_a) = world.connect(B, A, 1);
    let (outer, at_b) = world.delivered_call(A, to_b, B);
    let (inner, at_a) = world.delivered_call(B, to_a, A);
    world.ok(A, reply(at_a.header.reply, 1));
    assert_eq!(world.done(inner).status(), Status::Ok);
    world.ok(B, reply(at_b.header.reply, 2));
    assert_eq!(world.done(outer).header.result, 2);

    // Nobody answers: the deadline ends it.
    let timed = |handle| RequestHeader { timeout: 10, ..call(handle, 1) };
    let first = world.submit(A, timed(to_b), b"");
    let second = world.submit(B, timed(to_a), b"");
    world.pass(10);
    assert_eq!(world.done(first).status(), Status::NotDelivered(Reason::Deadline));
    assert_eq!(world.done(second).status(), Status::NotDelivered(Reason::Deadline));

    // One that ends with its own call in its own hands.
    let (_, _) = world.delivered_call(A, own, A);
    world.submit(A, call(own, 1), b"");
    world.crash(A, 0);
}

#[test]
fn c29_a_million_notifications_are_one_delivery() {
    let mut world = friends(&[A, B]);
    let notifier = Handle(world.ok(B, argument(RequestKind::Notifier, Handle(0), 77)));
    let key = world.give(B, notifier, A);
    let bytes: Vec<Vec<u8>> =
        (0..64).map(|bit| request(RequestKind::Notify, key, 1 << bit).encode().to_vec()).collect();
    let mut expected = 0;
    for number in 0..1_000_000_u32 {
        let bit = number.wrapping_mul(2_654_435_761) >> 26;
        if number % 15_625 == 0 {
            let mut bits = 0;
            world.core.deliver(B, |header, _| {
                assert_eq!((header.kind, header.export), (DeliveryKind::Notification, 77));
                bits = header.operation;
                true
            });
            assert_eq!(bits, expected);
            expected = 0;
            world.now += 1_000_000_000;
        }
        expected |= 1 << bit;
        let bytes = bytes[bit as usize].clone();
        world.core.request(world.now, A, district_broker::RawRequest { chain: 0, capacity: 0, bytes });
        for effect in world.core.drain_effects() {
            match effect {
                district_broker::Effect::Complete { header, .. } => assert_eq!(header.status, Status::Ok),
                other => assert!(matches!(other, district_broker::Effect::Deliverable(B))),
            }
        }
    }
    assert_eq!(world.take(B).unwrap().header.operation, expected);
    assert!(world.take(B).is_none());
}

#[test]
fn c29_notifications_need_their_right_and_their_kind() {
    let mut world = friends(&[A, B]);
    let notifier = Handle(world.ok(B, argument(RequestKind::Notifier, Handle(0), 7)));
    let mute = world.derive(B, notifier, Rights::TRANSFER);
    let notify = |handle| request(RequestKind::Notify, handle, 1);
    assert_eq!(world.status(B, notify(mute)), Status::Denied(Argument::TARGET));
    let entry = world.export(B, 1);
    assert_eq!(world.status(B, notify(entry)), Status::Denied(Argument::TARGET));
    assert_eq!(world.status(B, send(notifier, 1)), Status::NoSuchOperation);
    // Bits that were set before the last key went arrive before the news of that.
    world.ok(B, notify(notifier));
    world.ok(B, drop(mute));
    world.ok(B, drop(notifier));
    assert_eq!(world.take_kind(B, DeliveryKind::Notification).header.operation, 1);
    assert_eq!(world.take_kind(B, DeliveryKind::Unreferenced).header.export, 7);
}

#[test]
fn c30_four_keys_and_room_for_three() {
    let mut world = friends(&[A]);
    world.start(district_broker::Attach { limits: Limits { handles: 8, ..Limits::default() }, ..friend(B, &[A, B]) });
    let mut a = friend(A, &[A, B]);
    a.limits.handles = 100;
    world.crash(A, 0);
    world.start(a);
    let (_, key) = world.connect(A, B, 1);
    let entries: Vec<Handle> = (0..4).map(|name| world.export(A, name)).collect();
    let four = with_keys(send(key, 1), [0, 1, 2, 3].map(|at| slot(entries[at], false)));
    while world.view(B).usage.handles < 5 {
        world.export(B, 1);
    }
    let before = world.view(A).keys;
    assert_eq!(world.status(A, four), Status::Quota(Quota::Handles));
    assert_eq!(world.status(A, RequestHeader { kind: RequestKind::Call, ..four }), Status::Quota(Quota::Handles));
    assert_eq!(world.view(A).keys, before);
    assert!(world.take(B).is_none());
    // For three keys there is room, for three and a reply key there is not.
    let three = with_keys(call(key, 1), [0, 1, 2].map(|at| slot(entries[at], false)));
    assert_eq!(world.status(A, three), Status::Quota(Quota::Handles));
    world.ok(A, RequestHeader { kind: RequestKind::Send, ..three });
    // The room is promised: nothing else gets it while the message waits.
    assert_eq!(world.status(B, argument(RequestKind::Export, Handle(0), 1)), Status::Quota(Quota::Handles));
    assert_eq!(world.take_message(B).header.key_count, 3);
}

#[test]
fn a_reply_that_is_too_big_can_be_made_smaller() {
    let mut world = friends(&[A, B]);
    let (_, key) = world.connect(A, B, 1);
    world.capacity = Some(10);
    let (token, delivery) = world.delivered_call(A, key, B);
    assert_eq!(delivery.header.reply_capacity, 10);
    let handle = delivery.header.reply;
    assert_eq!(world.ask(B, reply(handle, 1), &[0; 11]).status(), Status::TooBig);
    assert_eq!(world.ask(B, reply(handle, 1), &[7; 10]).status(), Status::Ok);
    assert_eq!(world.done(token).data, [7; 10]);
}

#[test]
fn keys_come_back_with_a_call_that_was_never_seen() {
    let mut world = friends(&[A, B]);
    let (_, key) = world.connect(A, B, 1);
    let [seen, unseen, queued] = [0, 1, 2].map(|name| world.export(A, name));
    let mut give = |entry, deliver| {
        let mut narrow = slot(entry, false);
        narrow.rights = Rights::CALL.0;
        let token = world.submit(A, with_keys(call(key, 1), [narrow]), b"");
        if deliver {
            world.take_message(B);
        }
        assert_eq!(world.status(A, send(entry, 1)), Status::WouldBlock);
        token
    };
    let tokens = [give(seen, true), give(unseen, true), give(queued, false)];
    world.crash(B, 1);
    let expected = [
        Status::Unknown(Reason::PeerRestart),
        Status::NotDelivered(Reason::PeerRestart),
        Status::NotDelivered(Reason::PeerRestart),
    ];
    for (token, status) in tokens.into_iter().zip(expected) {
        assert_eq!(world.done(token).status(), status);
    }
    assert_eq!(world.status(A, send(seen, 1)), Status::Broken(Reason::Used));
    for entry in [unseen, queued] {
        let word = world.ok(A, RequestHeader::new(RequestKind::Identify, entry));
        assert_eq!(word >> 32, u64::from(ENTRY.0));
    }
}

#[test]
fn a_reply_key_in_a_call_that_was_never_seen_comes_back_alive() {
    let mut world = friends(&[A, B, C]);
    let (_, to_b) = world.connect(A, B, 1);
    let (_, to_c) = world.connect(B, C, 1);
    let (outer, at_b) = world.delivered_call(A, to_b, B);
    let inner = world.submit(B, with_keys(call(to_c, 1), [slot(at_b.header.reply, false)]), b"");
    world.take_message(C);
    world.crash(C, 1);
    assert_eq!(world.done(inner).status(), Status::NotDelivered(Reason::PeerRestart));
    assert!(world.pending(outer));
    world.ok(B, reply(at_b.header.reply, 6));
    assert_eq!(world.done(outer).header.result, 6);
}

#[test]
fn keys_in_a_reply() {
    let mut world = friends(&[A, B]);
    let (_, key) = world.connect(A, B, 1);
    let (token, delivery) = world.delivered_call(A, key, B);
    let [kept, given] = [3, 4].map(|name| world.export(B, name));
    let answer = with_keys(reply(delivery.header.reply, 0), [slot(kept, true), slot(given, false)]);
    world.ok(B, answer);
    let completion = world.done(token);
    assert_eq!(completion.header.key_count, 2);
    for (handle, name) in completion.header.keys.into_iter().zip([3, 4]) {
        world.ok(A, send(handle, 1));
        assert_eq!(world.take_message(B).header.export, name);
    }
    world.ok(B, send(kept, 1));
    world.take_message(B);
    assert_eq!(world.status(B, send(given, 1)), Status::Broken(Reason::Used));
    // A reply with a key that cannot be passed on is not sent, and its key is still good.
    let (token, delivery) = world.delivered_call(A, key, B);
    let fixed = world.derive(B, kept, Rights::CALL);
    let answer = with_keys(reply(delivery.header.reply, 0), [slot(kept, true), slot(fixed, false)]);
    assert_eq!(world.status(B, answer), Status::Denied(Argument::key(1)));
    world.ok(B, reply(delivery.header.reply, 0));
    assert_eq!(world.done(token).header.key_count, 0);
}

#[test]
fn a_message_outlives_the_key_it_was_sent_through() {
    let mut world = friends(&[A, B]);
    let (entry, key) = world.connect(A, B, 9);
    world.ok(A, send(key, 1));
    world.ok(A, drop(key));
    world.ok(B, drop(entry));
    let header = world.take_message(B).header;
    assert_eq!((header.export, header.operation), (9, 1));
    assert_eq!(world.take_kind(B, DeliveryKind::Unreferenced).header.export, 9);
    assert!(world.take(B).is_none());
}
