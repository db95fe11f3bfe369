//! Requests and their outcomes.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use std::vec;
use std::vec::Vec;

use district_protocol::frame::{CompletionHeader, DATA_MAX, RequestKind};
use district_protocol::handle::Handle;
use district_protocol::layout::{WINDOW_SIZE_DEFAULT, WINDOW_SIZE_MIN};
use district_protocol::status::{Reason, Status};

use super::{Seen, echo, echoing};
use crate::channel::place;
use crate::machine::{Request, handle, host, install};
use crate::{Error, Event, Key, export, next_event};

#[test]
fn c19_data_of_every_size_comes_back() {
    for window in [WINDOW_SIZE_MIN, WINDOW_SIZE_DEFAULT, 3 << 20] {
        echoing(window);
        place::with(|channel| channel.replace(None));
        for size in [0, 1, 255, 256, 4096, 65_535, DATA_MAX] {
            let data: Vec<u8> = (0..size).map(|index: usize| index.to_le_bytes()[0] ^ index.to_le_bytes()[1]).collect();
            let reply = Key::bootstrap().call(5, &data).reply_capacity(65_536).wait().unwrap();
            assert_eq!((reply.result, reply.data), (6, data));
        }
        let data = vec![0; DATA_MAX + 1];
        assert_eq!(Key::bootstrap().call(5, &data).wait(), Err(Error::TooBig));
    }
}

#[test]
fn c19_five_keys_are_too_many() {
    echoing(WINDOW_SIZE_MIN);
    let key = export(1).unwrap();
    let four = Key::bootstrap().call(1, &[]).key(&key).key(&key).key(&key).key(&key);
    assert!(four.wait().is_ok());
    let five = Key::bootstrap().call(1, &[]).key(&key).key(&key).key(&key).key(&key).key(&key);
    assert_eq!(five.wait(), Err(Error::TooManyKeys));
}

#[test]
fn indices_wrap_around() {
    echoing(WINDOW_SIZE_MIN);
    for round in 0..70_000u64 {
        assert_eq!(Key::bootstrap().call(round, &round.to_le_bytes()).wait().unwrap().result, round + 1);
    }
}

#[test]
fn an_awake_broker_is_not_rung_for() {
    echoing(WINDOW_SIZE_DEFAULT);
    let tickets: Vec<_> = (0..100).map(|n| Key::bootstrap().call(n, &[]).start().unwrap()).collect();
    assert_eq!(host(|host| host.doorbells), [1, 0]);
    for (ticket, n) in tickets.into_iter().zip(0..) {
        assert_eq!(ticket.wait().unwrap().result, n + 1);
    }
    assert_eq!(host(|host| host.wires.wakes), 1);
    host(|host| host.eager = true);
    for n in 0..1000 {
        assert_eq!(Key::bootstrap().call(n, &[]).wait().unwrap().result, n + 1);
    }
    assert_eq!(host(|host| host.wires.wakes), 1, "answered before anybody parked");
}

#[test]
fn completions_come_in_any_order() {
    let mut held: Vec<Request> = Vec::new();
    install(WINDOW_SIZE_MIN, move |wires, request| {
        held.push(request);
        if held.len() == 8 {
            for request in held.drain(..).rev() {
                echo(wires, &request);
            }
        }
    });
    for _ in 0..50 {
        let tickets: Vec<_> = (0..8).map(|n| Key::bootstrap().call(n, &[7; 900]).start().unwrap()).collect();
        for (ticket, n) in tickets.into_iter().zip(0..) {
            assert_eq!(ticket.wait().unwrap().result, n + 1);
        }
    }
}

#[test]
fn calls_leave_room_for_replies() {
    install(WINDOW_SIZE_MIN, |wires, request| {
        if request.header.kind != RequestKind::Call {
            wires.ok(&request, 0, &[]);
        }
    });
    let mut tickets = Vec::new();
    let full = loop {
        match Key::bootstrap().call(1, &[1; 300]).start() {
            Ok(ticket) => tickets.push(ticket),
            Err(error) => break error,
        }
    };
    assert_eq!(full, Error::WouldBlock);
    assert!(tickets.len() > 25);
    assert!(Key::from_handle(handle(5)).reply(0, &[1; 4096]).wait().is_ok());
    let timed = Key::bootstrap().call(1, &[]).timeout(Duration::from_millis(5));
    assert_eq!(timed.wait(), Err(Error::NotDelivered(Reason::Deadline)));
}

#[test]
fn c25_a_call_ends_by_its_deadline_without_the_broker_too() {
    let late: Rc<RefCell<Vec<Request>>> = Rc::default();
    let held = late.clone();
    install(WINDOW_SIZE_MIN, move |_, request| held.borrow_mut().push(request));
    let before = crate::time::now();
    let call = Key::bootstrap().call(1, &[]).timeout(Duration::from_secs(3));
    assert_eq!(call.wait(), Err(Error::Unknown(Reason::Deadline)));
    assert!(crate::time::now() - before >= 3_000_000_000);
    assert_eq!(late.borrow()[0].header.timeout, 3_000_000_000);
    // The late answer brings a key, which nobody wants any more.
    host(|host| {
        let answer = CompletionHeader { key_count: 1, keys: [handle(3); 4], ..CompletionHeader::new(Status::Ok, 0) };
        host.wires.complete(&late.borrow()[0], &answer, &[]);
    });
    late.borrow_mut().clear();
    assert!(next_event(Some(Duration::from_millis(1))).is_none());
    let dropped = late.borrow()[0].header;
    assert_eq!((dropped.kind, dropped.handle), (RequestKind::Drop, handle(3)));
}

#[test]
fn statuses_become_errors() {
    for status in [Status::NotReady, Status::Broken(Reason::PeerRestart), Status::NotDelivered(Reason::Revoked)] {
        install(WINDOW_SIZE_MIN, move |wires, request| wires.fail(&request, status));
        place::with(|channel| channel.replace(None));
        let error = Key::bootstrap().call(1, &[]).wait().unwrap_err();
        assert_eq!(Err(error), Error::check(status));
        assert!(error.look_up_again() && error.retry_is_safe());
    }
}

#[test]
fn a_finished_request_is_an_event_once() {
    let held: Rc<RefCell<Vec<Request>>> = Rc::default();
    let holder = held.clone();
    install(WINDOW_SIZE_MIN, move |_, request| holder.borrow_mut().push(request));
    let mut ticket = Key::bootstrap().call(4, &[]).start().unwrap();
    assert!(next_event(Some(Duration::from_millis(1))).is_none());
    host(|host| echo(&mut host.wires, &held.borrow()[0]));
    assert!(matches!(next_event(None), Some(Event::Finished(id)) if id == ticket.id()));
    assert!(next_event(Some(Duration::from_millis(1))).is_none());
    assert_eq!(ticket.poll().unwrap().unwrap().result, 5);
}

#[test]
fn keys_are_dropped_in_batches_and_given_keys_only_after_a_failure() {
    let seen = echoing(WINDOW_SIZE_DEFAULT);
    for _ in 0..100 {
        drop(export(1).unwrap());
    }
    let given = export(2).unwrap();
    let handle_given = given.handle();
    Key::bootstrap().call(1, &[]).give(given).wait().unwrap();
    next_event(Some(Duration::from_millis(1)));
    let drops: Vec<Handle> =
        seen.borrow().iter().filter(|seen| seen.kind == RequestKind::Drop).map(|seen| seen.handle).collect();
    assert_eq!(drops.len(), 100);
    assert!(!drops.contains(&handle_given));

    let log = Seen::default();
    let seen = log.clone();
    place::with(|channel| channel.replace(None));
    install(WINDOW_SIZE_MIN, move |wires, request| {
        log.borrow_mut().push(request.header);
        wires.fail(&request, Status::TooBig);
    });
    let reply = Key::from_handle(handle(8)).reply(0, &[]).give(Key::from_handle(handle(9)));
    assert_eq!(reply.wait(), Err(Error::TooBig));
    next_event(Some(Duration::from_millis(1)));
    let mut drops: Vec<Handle> = seen.borrow()[1..].iter().map(|seen| seen.handle).collect();
    drops.sort();
    assert_eq!(drops, [handle(8), handle(9)]);
}
