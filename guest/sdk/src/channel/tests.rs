//! The channel against a device side written by others (`virtio-queue`) and a scripted broker.

use std::cell::RefCell;
use std::format;
use std::rc::Rc;
use std::string::String;
use std::time::Duration;
use std::vec;
use std::vec::Vec;

use district_protocol::frame::{
    COMPLETION_HEADER, CompletionHeader, DATA_MAX, DeliveryHeader, DeliveryKind, KEYS_MAX, RequestHeader, RequestKind,
};
use district_protocol::handle::Handle;
use district_protocol::layout::{WINDOW_SIZE_DEFAULT, WINDOW_SIZE_MIN};
use district_protocol::operation::{directory, log};
use district_protocol::status::{Reason, Status};
use vm_memory::{Bytes, GuestAddress};

use crate::machine::{self, Request, Wires, handle, host, install};
use crate::{Directory, Error, Event, Key, Rights, export, next_event};

type Seen = Rc<RefCell<Vec<RequestHeader>>>;

fn echo(wires: &mut Wires, request: &Request) {
    wires.ok(request, request.header.operation + 1, &request.data);
}

/// A broker that echoes calls and answers everything else with handles and `Ok`, and what it has seen.
fn echoing(window: u64) -> Seen {
    let seen = Seen::default();
    let log = seen.clone();
    let mut serial = 0;
    install(window, move |wires, request| {
        log.borrow_mut().push(request.header);
        match request.header.kind {
            RequestKind::Call => echo(wires, &request),
            _ => {
                serial += 1;
                wires.ok(&request, handle(serial).0, &[]);
            }
        }
    });
    seen
}

fn message(operation: u64, reply: u64) -> DeliveryHeader {
    DeliveryHeader {
        kind: DeliveryKind::Message,
        key_count: 0,
        buffers: 0,
        data_len: 0,
        export: 7,
        badge: 9,
        operation,
        reply: Handle(reply),
        reply_capacity: 4096,
        keys: [Handle(0); KEYS_MAX],
    }
}

fn consumed() -> u64 {
    host(|host| host.consumed())
}

#[test]
fn c19_data_of_every_size_comes_back() {
    for window in [WINDOW_SIZE_MIN, WINDOW_SIZE_DEFAULT, 3 << 20] {
        echoing(window);
        super::place::with(|channel| channel.replace(None));
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
        super::place::with(|channel| channel.replace(None));
        let error = Key::bootstrap().call(1, &[]).wait().unwrap_err();
        assert_eq!(Err(error), Error::check(status));
        assert!(error.look_up_again() && error.retry_is_safe());
    }
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
    super::place::with(|channel| channel.replace(None));
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

#[test]
fn c19_deliveries_over_many_buffers_arrive_in_order_and_are_counted() {
    for window in [WINDOW_SIZE_MIN, WINDOW_SIZE_DEFAULT] {
        echoing(window);
        super::place::with(|channel| channel.replace(None));
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
fn c22_an_unanswered_message_drops_its_reply_key() {
    let seen = echoing(WINDOW_SIZE_MIN);
    assert!(Key::bootstrap().call(0, &[]).wait().is_ok());
    host(|host| host.wires.deliver(&message(1, handle(44).0), &[]));
    drop(next_event(None));
    next_event(Some(Duration::from_millis(1)));
    let last = seen.borrow().last().copied().unwrap();
    assert_eq!((last.kind, last.handle), (RequestKind::Drop, handle(44)));
}

#[test]
fn c02_a_broken_connection_breaks_every_key_but_the_first() {
    for (restored, reason) in [(true, Reason::SelfRestart), (false, Reason::Unreachable)] {
        echoing(WINDOW_SIZE_MIN);
        super::place::with(|channel| channel.replace(None));
        let key = export(1).unwrap();
        assert!(key.call(1, &[]).wait().is_ok());
        host(|host| host.disconnect(restored));
        assert_eq!(key.call(1, &[]).wait(), Err(Error::Broken(reason)));
        assert_eq!(Key::bootstrap().call(1, &[]).key(&key).wait(), Err(Error::Broken(reason)));
        assert!(Key::bootstrap().call(1, &[]).wait().is_ok());
        assert!(matches!(next_event(None), Some(Event::Lost(lost)) if lost == reason));
        assert!(next_event(Some(Duration::from_millis(1))).is_none());
        assert_eq!(host(|host| host.starts), 2);
        drop(key);
        assert!(export(1).unwrap().call(2, &[]).wait().is_ok());
    }
}

#[test]
fn c03_calls_under_way_end_when_the_connection_does() {
    for (restored, reason) in [(true, Reason::SelfRestart), (false, Reason::Unreachable)] {
        install(WINDOW_SIZE_MIN, |wires, request| {
            if request.header.operation == 2 {
                echo(wires, &request);
            }
        });
        super::place::with(|channel| channel.replace(None));
        let mut other = Key::bootstrap().call(1, &[]).start().unwrap();
        host(|host| host.at_park.push_back(Box::new(move |host| host.disconnect(restored))));
        assert_eq!(Key::bootstrap().call(1, &[]).wait(), Err(Error::Unknown(reason)));
        assert!(matches!(next_event(None), Some(Event::Lost(_))));
        assert!(matches!(next_event(None), Some(Event::Finished(id)) if id == other.id()));
        assert_eq!(other.poll(), Some(Err(Error::Unknown(reason))));
        assert_eq!(other.poll(), None);
        assert_eq!(other.wait(), Err(Error::Broken(Reason::Used)));
        assert_eq!(Key::bootstrap().call(2, &[]).wait().unwrap().result, 3);
    }
}

#[test]
fn c03_ten_restores_in_a_row() {
    install(WINDOW_SIZE_MIN, |_, _| {});
    for _ in 0..10 {
        host(|host| host.at_park.push_back(Box::new(|host| host.disconnect(true))));
        assert_eq!(Key::bootstrap().call(1, &[]).wait(), Err(Error::Unknown(Reason::SelfRestart)));
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
fn log_lines_are_cut_at_their_limit_and_find_their_key_again() {
    let lines: Rc<RefCell<Vec<String>>> = Rc::default();
    let written = lines.clone();
    install(WINDOW_SIZE_DEFAULT, move |wires, request| match request.header.operation {
        directory::LOOKUP if request.header.handle == Handle::BOOTSTRAP => {
            assert_eq!(request.data, b"log");
            let answer =
                CompletionHeader { key_count: 1, keys: [handle(6); 4], ..CompletionHeader::new(Status::Ok, 0) };
            wires.complete(&request, &answer, &[]);
        }
        log::WRITE => {
            written.borrow_mut().push(String::from_utf8(request.data.clone()).unwrap());
            wires.ok(&request, 0, &[]);
        }
        other => panic!("{other}"),
    });
    host(|host| host.eager = true);
    crate::log!("one {}", 1);
    crate::log!("{}", "ä".repeat(2500));
    host(|host| host.disconnect(false));
    crate::log!("");
    super::settle();
    let lengths: Vec<usize> = lines.borrow().iter().map(String::len).collect();
    assert_eq!(lengths, [5, 4096, 904, 0]);
}

#[test]
fn what_is_missing_from_the_directory_is_not_asked_for_again() {
    let seen = Seen::default();
    let log = seen.clone();
    install(WINDOW_SIZE_MIN, move |wires, request| {
        log.borrow_mut().push(request.header);
        wires.fail(&request, Status::NotFound);
    });
    crate::log!("nobody hears this");
    crate::log!("nor this");
    assert_eq!(seen.borrow().len(), 1);
}

#[test]
fn publishing_binds_what_stands_below_publish() {
    let seen = Seen::default();
    let log = seen.clone();
    install(WINDOW_SIZE_MIN, move |wires, request| {
        log.borrow_mut().push(request.header);
        let keys = [handle(6); 4];
        match (request.header.kind, request.header.operation) {
            (RequestKind::Call, directory::LOOKUP) => {
                assert_eq!(request.data, b"publish/counter");
                let answer = CompletionHeader { key_count: 1, keys, ..CompletionHeader::new(Status::Ok, 0) };
                wires.complete(&request, &answer, &[]);
            }
            _ => wires.ok(&request, handle(3).0, &[]),
        }
    });
    let key = export(1).unwrap();
    Directory::bootstrap().publish("counter", &key).unwrap();
    let bind = seen.borrow()[2];
    assert_eq!((bind.handle, bind.operation), (handle(6), directory::BIND));
    let slot = bind.keys[0].unwrap();
    assert_eq!((slot.handle, slot.rights, slot.copy), (handle(3), Rights::ALL.0, true));
}

#[test]
fn arguments_are_split_at_their_zeros() {
    install(WINDOW_SIZE_MIN, |_, _| {});
    let text = b"one\0\0three and more\0";
    machine::write_boot(512, text);
    machine::with_boot(|boot| boot.arguments_len = text.len() as u64);
    let arguments: Vec<String> = crate::boot::arguments().collect();
    assert_eq!(arguments, ["one", "", "three and more"]);
    machine::with_boot(|boot| boot.arguments_len = u64::MAX);
    assert!(crate::boot::arguments().count() > 3);
}

#[test]
fn another_abi_is_refused() {
    install(WINDOW_SIZE_MIN, |_, _| {});
    assert_eq!(crate::boot::check(), Ok(()));
    machine::with_boot(|boot| boot.abi_version += 1);
    assert!(crate::boot::check().unwrap_err().contains("ABI version"));
    machine::with_boot(|boot| boot.magic = 0);
    assert!(crate::boot::check().unwrap_err().contains("boot page"));
}

/// Runs a call whose completion the host gets wrong, and returns how the program ended.
fn ends_with(mut broker: impl FnMut(&mut Wires, &Request) + 'static) -> String {
    install(WINDOW_SIZE_MIN, move |wires, request| broker(wires, &request));
    super::place::with(|channel| channel.replace(None));
    let end = std::panic::catch_unwind(|| Key::bootstrap().call(1, &[]).wait()).unwrap_err();
    end.downcast_ref::<String>().unwrap().clone()
}

#[test]
fn a_host_that_breaks_the_rules_ends_the_program_with_its_name() {
    let completion =
        |token: u64, data_len: u32| CompletionHeader { data_len, ..CompletionHeader::new(Status::Ok, token) }.encode();
    for (what, end) in [
        ("no request", ends_with(|wires, _| wires.used(0, 255, 64))),
        ("no request", ends_with(|wires, _| wires.used(0, 1, 64))),
        ("no request", ends_with(|wires, _| wires.used(0, 2, 64))),
        ("ahead of", ends_with(|wires, request| (0..2).for_each(|_| wires.ok(request, 0, &[])))),
        ("token", ends_with(move |wires, request| wires.complete_raw(request, &completion(99, 0)))),
        (
            "longer",
            ends_with(move |wires, request| {
                wires.complete_raw(request, &completion(request.header.token, 5000));
            }),
        ),
        (
            "longer",
            ends_with(move |wires, request| {
                wires.complete_raw(request, &completion(request.header.token, 1));
            }),
        ),
        ("decoded", ends_with(|wires, request| wires.complete_raw(request, &[0xff; COMPLETION_HEADER]))),
    ] {
        assert!(end.starts_with("exit 102: ") && end.contains(what), "{what}: {end}");
    }
}

fn delivery_ends_with(spoil: impl FnOnce(&mut Wires) + 'static) -> String {
    echoing(WINDOW_SIZE_MIN);
    super::place::with(|channel| channel.replace(None));
    assert!(Key::bootstrap().call(0, &[]).wait().is_ok());
    host(|host| spoil(&mut host.wires));
    let end = std::panic::catch_unwind(|| next_event(None)).unwrap_err();
    end.downcast_ref::<String>().unwrap().clone()
}

#[test]
fn a_host_that_delivers_nonsense_ends_the_program_with_its_name() {
    let first_buffer = |wires: &Wires| {
        let table = virtio_queue::QueueT::desc_table(&wires.queues[1]);
        GuestAddress(wires.memory.read_obj::<u64>(GuestAddress(table)).unwrap())
    };
    let header = |buffers: u16, data_len: u32| DeliveryHeader { buffers, data_len, ..message(1, 0) }.encode();
    for (what, end) in [
        ("no delivery buffer", delivery_ends_with(|wires| wires.used(1, 40, 96))),
        ("decoded", delivery_ends_with(|wires| wires.used(1, 0, 96))),
        (
            "wrong number",
            delivery_ends_with(move |wires| {
                wires.memory.write_slice(&header(0, 0), first_buffer(wires)).unwrap();
                wires.used(1, 0, 96);
            }),
        ),
        (
            "filled",
            delivery_ends_with(move |wires| {
                wires.memory.write_slice(&header(1, 0), first_buffer(wires)).unwrap();
                wires.used(1, 0, 97);
            }),
        ),
        (
            "no delivery buffer",
            delivery_ends_with(move |wires| {
                wires.memory.write_slice(&header(2, 2000), first_buffer(wires)).unwrap();
                wires.used(1, 0, 2048);
                wires.used(1, 0, 48);
            }),
        ),
    ] {
        assert!(end.starts_with("exit 102: ") && end.contains(what), "{what}: {end}");
    }
}

#[test]
fn errors_say_what_they_are() {
    assert_eq!(format!("{}", Error::Broken(Reason::PeerRestart)), "broken key: the other district restarted");
    assert_eq!(format!("{}", Error::Denied(crate::Argument::key(1))), "denied: second key of the message");
}
