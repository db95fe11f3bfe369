//! A host that does not keep to the ABI: the program ends and says so.

use std::string::String;

use district_protocol::frame::{COMPLETION_HEADER, CompletionHeader, DeliveryHeader};
use district_protocol::layout::WINDOW_SIZE_MIN;
use district_protocol::status::Status;
use vm_memory::{Bytes, GuestAddress};

use super::{echoing, message};
use crate::channel::place;
use crate::machine::{Request, Wires, host, install};
use crate::{Key, next_event};

/// Runs a call whose completion the host gets wrong, and returns how the program ended.
fn ends_with(mut broker: impl FnMut(&mut Wires, &Request) + 'static) -> String {
    install(WINDOW_SIZE_MIN, move |wires, request| broker(wires, &request));
    place::with(|channel| channel.replace(None));
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
    place::with(|channel| channel.replace(None));
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
