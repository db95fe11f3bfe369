//! The channel against a device side written by others (`virtio-queue`) and a scripted broker.

mod calls;
mod connections;
mod deliveries;
mod directory;
mod host_faults;
mod link;
mod restores;

use std::cell::RefCell;
use std::rc::Rc;
use std::vec::Vec;

use district_protocol::frame::{DeliveryHeader, DeliveryKind, KEYS_MAX, RequestHeader, RequestKind};
use district_protocol::handle::Handle;

use crate::machine::{Request, Wires, handle, host, install};

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

/// A program that has just begun, on a machine that has too.
fn fresh(window: u64, broker: impl FnMut(&mut Wires, Request) + 'static) {
    super::place::with(|channel| channel.replace(None));
    crate::restart::forget();
    install(window, broker);
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
