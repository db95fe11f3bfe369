//! What is encoded is what is decoded, and what cannot be a frame is refused with the status that says why.

#![allow(clippy::cast_possible_truncation)]

use district_protocol::frame::{
    COMPLETION_HEADER, CompletionHeader, DATA_MAX, DELIVERY_HEADER, DeliveryHeader, DeliveryKind, FrameError, KEYS_MAX,
    KeySlot, REQUEST_HEADER, RequestHeader, RequestKind,
};
use district_protocol::handle::{Handle, SERIAL_MAX};
use district_protocol::status::{Argument, Quota, Reason, Status};

fn request() -> RequestHeader {
    let mut header = RequestHeader::new(RequestKind::Call, Handle::from_serial(77));
    header.data_len = DATA_MAX as u32;
    header.token = 0x0123_4567_89ab_cdef;
    header.operation = u64::MAX;
    header.timeout = 5;
    header.argument = 9;
    header.keys[0] = Some(KeySlot { handle: Handle(5), rights: 7, copy: true });
    header.keys[1] = Some(KeySlot { handle: Handle(6), rights: 0, copy: false });
    header
}

fn all_statuses() -> impl Iterator<Item = Status> {
    (0..=u16::MAX).flat_map(|status| (0..12).filter_map(move |detail| Status::from_raw(status, detail)))
}

#[test]
fn requests_come_back_whole() {
    for raw in 1..=12 {
        let mut header = request();
        header.kind = RequestKind::from_raw(raw).unwrap();
        assert_eq!(RequestHeader::decode(&header.encode()), Ok(header));
    }
}

#[test]
fn completions_and_deliveries_come_back_whole() {
    for status in all_statuses() {
        let mut header = CompletionHeader::new(status, 3);
        header.data_len = 17;
        header.result = u64::MAX;
        header.key_count = 4;
        header.keys = [Handle(1), Handle(2), Handle(3), Handle(u64::MAX)];
        assert_eq!(CompletionHeader::decode(&header.encode()), Ok(header));
    }
    for raw in 1..=5 {
        let header = DeliveryHeader {
            kind: DeliveryKind::from_raw(raw).unwrap(),
            key_count: 3,
            buffers: 17,
            data_len: DATA_MAX as u32,
            export: 1,
            badge: 2,
            operation: 3,
            reply: Handle(4),
            reply_capacity: 5,
            keys: [Handle(6), Handle(7), Handle(8), Handle(0)],
        };
        assert_eq!(DeliveryHeader::decode(&header.encode()), Ok(header));
    }
}

#[test]
fn each_status_has_numbers_of_its_own() {
    let statuses: Vec<_> = all_statuses().collect();
    // Eight have no detail, three name an argument (any number is one, 12 are tried), three have one of 9 reasons, and
    // there are 7 quotas.
    assert_eq!(statuses.len(), 8 + 3 * 12 + 3 * 9 + 7);
    for status in statuses {
        let (raw, detail) = status.to_raw();
        assert_eq!(Status::from_raw(raw, detail), Some(status));
    }
    assert_eq!(Status::from_raw(0x301, 0), None);
    assert_eq!(Status::from_raw(0x401, 10), None);
    assert_eq!(Quota::from_raw(8), None);
    assert_eq!(Reason::from_raw(0), None);
}

#[test]
fn short_frames_are_too_short() {
    for len in 0..REQUEST_HEADER {
        assert_eq!(RequestHeader::decode(&request().encode()[..len]), Err(FrameError::TooShort));
    }
    assert_eq!(CompletionHeader::decode(&[0; COMPLETION_HEADER - 1]), Err(FrameError::TooShort));
    assert_eq!(DeliveryHeader::decode(&[0; DELIVERY_HEADER - 1]), Err(FrameError::TooShort));
}

#[test]
fn each_wrong_field_of_a_request_has_its_status() {
    let refused = |at: usize, value: u8| {
        let mut bytes = request().encode();
        bytes[at] = value;
        RequestHeader::decode(&bytes)
    };
    let bad = |argument| Err(FrameError::Refused(Status::BadArgument(argument)));
    assert_eq!(refused(0, 0), bad(Argument::HEADER), "kind 0");
    assert_eq!(refused(0, 13), bad(Argument::HEADER), "kind 13");
    assert_eq!(refused(1, 1), bad(Argument::HEADER), "kind 257");
    assert_eq!(refused(2, KEYS_MAX as u8 + 1), Err(FrameError::Refused(Status::TooManyKeys)));
    assert_eq!(refused(3, 8), bad(Argument::HEADER), "unknown flag");
    assert_eq!(refused(4, 1), Err(FrameError::Refused(Status::TooBig)), "65,537 bytes");
    assert_eq!(refused(7, 255), Err(FrameError::Refused(Status::TooBig)), "4 GiB");
    for at in 48..64 {
        assert_eq!(refused(at, 1), bad(Argument::HEADER), "reserved byte {at}");
    }
    assert_eq!(refused(64 + 12, 2), bad(Argument::key(0)), "copy is neither 0 nor 1");
    assert_eq!(refused(80 + 15, 1), bad(Argument::key(1)), "copy is neither 0 nor 1");
}

#[test]
fn c10_hardly_any_number_has_the_form_of_a_handle() {
    assert_eq!(Handle::from_serial(1).serial(), Some(1));
    assert_eq!(Handle::from_serial(SERIAL_MAX).serial(), Some(SERIAL_MAX));
    assert_eq!(Handle::BOOTSTRAP.serial(), None);
    assert_eq!(Handle(0).serial(), None);
    // Neighbours of a handle differ in the slot alone and so are none.
    for serial in [1, 2, (1 << 20) - 2, (1 << 20) + 1, SERIAL_MAX - 1] {
        let Handle(raw) = Handle::from_serial(serial);
        for other in [raw - 1, raw + 1] {
            assert_eq!(Handle(other).serial(), None);
        }
    }
}
