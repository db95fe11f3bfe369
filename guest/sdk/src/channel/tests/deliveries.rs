//! What arrives without having been asked for.

use std::time::Duration;
use std::vec;

use district_protocol::frame::RequestKind;
use district_protocol::layout::{WINDOW_SIZE_DEFAULT, WINDOW_SIZE_MIN};
use district_protocol::status::Reason;

use super::{consumed, echoing, message};
use crate::channel::place;
use crate::machine::{handle, host};
use crate::{Error, Event, Key, next_event};

#[test]
fn c19_deliveries_over_many_buffers_arrive_in_order_and_are_counted() {
    for window in [WINDOW_SIZE_MIN, WINDOW_SIZE_DEFAULT] {
        echoing(window);
        place::with(|channel| channel.replace(None));
        assert_eq!(Key::bootstrap().call(0, &[]).wait().unwrap().result, 1);
        let sizes = [0, 1, 1952, 1953, 4000, 4001, 65_535, 65_536];
        let data = |n: usize| vec![n.to_le_bytes()[0] ^ 0x55; sizes[n % sizes.len()]];
        host(|host| (0..200).for_each(|n| host.wires.deliver(&message(n as u64, 0), &data(n))));
        for n in 0..200 {
            assert_eq!(consumed(), n as u64);
            match next_event(None) {
                Some(Event::Message(message)) => {
                    assert_eq!((message.operation, message.export, message.badge), (n as u64, 7, 9));
                    assert!(message.data == data(n), "message {n}");
                    assert_eq!(consumed(), n as u64 + 1);
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(next_event(Some(Duration::from_secs(1))).is_none());
    }
}

#[test]
fn deliveries_wait_in_the_window_while_nobody_serves() {
    echoing(WINDOW_SIZE_MIN);
    assert!(Key::bootstrap().call(0, &[]).wait().is_ok());
    host(|host| (0..1000).for_each(|n| host.wires.deliver(&message(n, handle(n + 1).0), &[1; 64])));
    let wakes = host(|host| host.wires.wakes);
    for n in 0..100 {
        assert_eq!(Key::bootstrap().call(n, &[]).wait().unwrap().result, n + 1);
    }
    assert_eq!(host(|host| host.wires.wakes), wakes + 100, "deliveries wake nobody who waits for something else");
    for n in 0..1000 {
        let Some(Event::Message(message)) = next_event(None) else { panic!() };
        assert_eq!(message.operation, n);
        message.reply(n, &message.data).unwrap();
        assert_eq!(message.reply(n, &[]), Err(Error::Broken(Reason::Used)));
    }
}

#[test]
fn a_message_that_wants_no_answer_costs_no_request() {
    let seen = echoing(WINDOW_SIZE_MIN);
    assert!(Key::bootstrap().call(0, &[]).wait().is_ok());
    host(|host| (0..100).for_each(|n| host.wires.deliver(&message(n, 0), &[])));
    while next_event(Some(Duration::from_secs(1))).is_some() {}
    assert!(Key::bootstrap().call(0, &[]).wait().is_ok());
    assert!(seen.borrow().iter().all(|seen| seen.kind != RequestKind::Drop));
}

#[test]
fn c22_an_unanswered_message_drops_its_reply_key() {
    let seen = echoing(WINDOW_SIZE_MIN);
    assert!(Key::bootstrap().call(0, &[]).wait().is_ok());
    host(|host| host.wires.deliver(&message(1, handle(44).0), &[]));
    drop(next_event(None));
    next_event(Some(Duration::from_millis(1)));
    let last = seen.borrow().last().copied().unwrap();
    assert_eq!((last.kind, last.handle), (RequestKind::Drop, handle(44)));
}
