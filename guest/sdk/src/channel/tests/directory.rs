//! What the library looks up in the directory by itself: the log, and where to publish.

use std::cell::RefCell;
use std::rc::Rc;
use std::string::String;
use std::vec::Vec;

use district_protocol::frame::{CompletionHeader, RequestKind};
use district_protocol::handle::Handle;
use district_protocol::layout::{WINDOW_SIZE_DEFAULT, WINDOW_SIZE_MIN};
use district_protocol::operation::{directory, log};
use district_protocol::status::Status;

use super::Seen;
use crate::channel::settle;
use crate::machine::{handle, host, install};
use crate::{Directory, Rights, export};

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
    settle();
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
