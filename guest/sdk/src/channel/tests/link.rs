//! Links: keys that find their way back.

use std::boxed::Box;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;
use std::vec::Vec;

use district_protocol::frame::{CompletionHeader, RequestKind};
use district_protocol::handle::Handle;
use district_protocol::layout::WINDOW_SIZE_MIN;
use district_protocol::operation::directory;
use district_protocol::status::{Argument, Quota, Reason, Status};

use super::fresh;
use crate::machine::{handle, host};
use crate::{Error, Link, time};

const SECOND: u64 = 1_000_000_000;

/// What the directory and the server answer, first to last; then `Ok`.
#[derive(Default)]
struct Script {
    look_ups: VecDeque<Status>,
    calls: VecDeque<Status>,
    looked_up: u64,
    /// When calls came, and by which key.
    called: Vec<(u64, Handle)>,
}

fn script(look_ups: &[Status], calls: &[Status]) -> Rc<RefCell<Script>> {
    let (look_ups, calls) = (look_ups.iter().copied().collect(), calls.iter().copied().collect());
    let script = Rc::new(RefCell::new(Script { look_ups, calls, ..Script::default() }));
    let answers = script.clone();
    fresh(WINDOW_SIZE_MIN, move |wires, request| {
        let mut script = answers.borrow_mut();
        if request.header.kind != RequestKind::Call {
            return wires.ok(&request, 0, &[]);
        }
        if request.header.handle == Handle::BOOTSTRAP {
            assert_eq!((request.header.operation, &request.data[..]), (directory::LOOKUP_WAIT, &b"some/name"[..]));
            assert!(request.header.timeout != 0);
            if let Some(status) = script.look_ups.pop_front().filter(|status| *status != Status::Ok) {
                return wires.fail(&request, status);
            }
            script.looked_up += 1;
            let keys = [handle(script.looked_up); 4];
            let header = CompletionHeader { key_count: 1, keys, ..CompletionHeader::new(Status::Ok, 0) };
            return wires.complete(&request, &header, &[]);
        }
        script.called.push((0, request.header.handle));
        match script.calls.pop_front() {
            Some(status) if status != Status::Ok => wires.fail(&request, status),
            _ => wires.ok(&request, 5, &request.data),
        }
    });
    script
}

fn link() -> Link {
    Link::new("some/name")
}

#[test]
fn a_key_is_looked_up_when_it_is_needed_and_kept() {
    let script = script(&[], &[]);
    let mut link = link();
    assert_eq!(script.borrow().looked_up, 0);
    for data in [b"a", b"b"] {
        let reply = link.call(7, data).reply_capacity(1).wait().unwrap();
        assert_eq!((reply.result, &reply.data[..]), (5, &data[..]));
    }
    assert_eq!((script.borrow().looked_up, link.reconnections(), link.path()), (1, 0, "some/name"));
}

#[test]
fn what_was_not_delivered_is_sent_again_through_a_new_key() {
    for status in [
        Status::Broken(Reason::PeerRestart),
        Status::NotDelivered(Reason::PeerRestart),
        Status::NotDelivered(Reason::Unreachable),
        Status::Broken(Reason::Destroyed),
        Status::Broken(Reason::SelfRestart),
    ] {
        let script = script(&[Status::Ok, Status::NotReady, Status::Unknown(Reason::PeerRestart)], &[status]);
        let mut link = link();
        assert!(link.call(1, &[]).wait().is_ok(), "{status:?}");
        assert_eq!(link.reconnections(), 1);
        let handles: Vec<Handle> = script.borrow().called.iter().map(|call| call.1).collect();
        assert_eq!(handles, [handle(1), handle(2)]);
    }
}

#[test]
fn a_limit_is_waited_for_with_the_same_key() {
    let busy = [Status::Quota(Quota::QueuedBytes), Status::WouldBlock];
    let script = script(&[], &busy);
    let mut link = link();
    assert!(link.call(1, &[]).wait().is_ok());
    assert_eq!((script.borrow().looked_up, link.reconnections()), (1, 0));
}

#[test]
fn what_may_have_been_done_is_done_again_only_where_that_was_asked_for() {
    for reason in [Reason::PeerRestart, Reason::Unreachable, Reason::SelfRestart] {
        let unknown = [Status::Unknown(reason)];
        let script1 = script(&[], &unknown);
        let mut link1 = link();
        assert_eq!(link1.call(1, &[]).wait(), Err(Error::Unknown(reason)));
        assert_eq!(script1.borrow().called.len(), 1);
        assert!(link1.call(1, &[]).wait().is_ok());
        assert_eq!(link1.reconnections(), 1, "the next call finds the way");
        let script2 = script(&[], &unknown);
        let mut link2 = link();
        assert!(link2.call(1, &[]).wait_at_least_once().is_ok());
        assert_eq!((script2.borrow().called.len(), link2.reconnections()), (2, 1));
    }
}

#[test]
fn what_waiting_does_not_mend_surfaces_at_once() {
    for status in [
        Status::Broken(Reason::Revoked),
        Status::NotDelivered(Reason::Revoked),
        Status::Denied(Argument::TARGET),
        Status::NoSuchOperation,
        Status::TooBig,
    ] {
        for at_least_once in [false, true] {
            let script = script(&[], &[status]);
            let mut link = link();
            let before = time::now();
            let call = link.call(1, &[]);
            let outcome = if at_least_once { call.wait_at_least_once() } else { call.wait() };
            assert_eq!(outcome.map(drop), Error::check(status));
            assert!(time::now() - before < SECOND / 100);
            assert_eq!(script.borrow().called.len(), 1);
        }
    }
    script(&[Status::NotFound], &[]);
    assert_eq!(link().call(1, &[]).wait(), Err(Error::NotFound));
}

#[test]
fn it_gives_up_when_its_time_is_over_with_the_last_error_and_waits_longer_each_time() {
    let script1 = script(&[], &[Status::WouldBlock; 1000]);
    let mut link1 = link().patience(Duration::from_secs(60));
    let before = time::now();
    assert_eq!(link1.call(1, &[]).wait(), Err(Error::WouldBlock));
    let passed = time::now() - before;
    assert!((60 * SECOND..61 * SECOND).contains(&passed), "{passed}");
    // 10, 20, ... 640 ms and then a second each, of which at least half is waited, and all at most.
    let attempts = script1.borrow().called.len();
    assert!((64..=130).contains(&attempts), "{attempts}");
    // A call that may have been acted on says so, whatever came after.
    let unknown = [Status::Unknown(Reason::PeerRestart)];
    let not_ready: Vec<Status> = [Status::Ok].into_iter().chain([Status::NotReady; 1000]).collect();
    script(&not_ready, &unknown);
    let outcome = link().call(1, &[]).patience(Duration::from_secs(5)).wait_at_least_once();
    assert_eq!(outcome, Err(Error::Unknown(Reason::PeerRestart)));
    // One attempt is made in any case.
    script(&[], &[]);
    assert!(link().call(1, &[]).patience(Duration::ZERO).wait().is_ok());
}

#[test]
fn a_restore_breaks_the_key_and_the_link_finds_the_way() {
    let script = script(&[], &[]);
    let mut link = link();
    assert!(link.call(1, &[]).wait().is_ok());
    for count in 1..4 {
        host(|host| host.disconnect(true));
        assert!(link.call(1, &[]).wait().is_ok());
        assert_eq!(link.reconnections(), count);
    }
    host(|host| host.at_park.push_back(Box::new(|host| host.disconnect(true))));
    assert_eq!(link.call(1, &[]).wait(), Err(Error::Unknown(Reason::SelfRestart)));
    assert!(link.call(1, &[]).wait().is_ok());
    assert_eq!(script.borrow().looked_up, 5);
}
