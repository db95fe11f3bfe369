use super::*;
use crate::tests::elf::{EXECUTE, Elf, READ, WRITE, file};

const AT: u64 = PROGRAM_BASE;

/// A program that is fine.
fn good() -> Elf {
    Elf::new(AT).segment(AT, READ | EXECUTE, &[0x90; 100]).larger_segment(AT + 0x1000, READ | WRITE, &[1; 10], 0x3000)
}

fn read(bytes: &[u8]) -> Result<Image, ImageError> {
    Image::read(&file(bytes))
}

/// The good program with some bytes of its headers changed.
fn patched(at: usize, with: &[u8]) -> Result<Image, ImageError> {
    let mut bytes = good().bytes();
    bytes[at..at + with.len()].copy_from_slice(with);
    read(&bytes)
}

fn refused(elf: &Elf) -> ImageError {
    read(&elf.bytes()).unwrap_err()
}

#[test]
fn a_good_program_is_read() {
    let image = read(&good().bytes()).unwrap();
    assert_eq!((image.entry, image.segments.len()), (AT, 2));
    assert_eq!(image.segments[0].addresses, AT..AT + 100);
    assert_eq!(image.segments[0].access, Access::ReadExecute);
    assert_eq!(image.segments[1].access, Access::ReadWrite);
    assert_eq!(image.end(), AT + 0x4000);
    // Order, other headers and empty segments make no difference.
    let other = Elf::new(AT)
        .other(7)
        .larger_segment(AT + 0x1000, READ | WRITE, &[1; 10], 0x3000)
        .segment(0, READ, &[])
        .segment(AT, READ | EXECUTE, &[0x90; 100]);
    assert_eq!(read(&other.bytes()).unwrap().end(), image.end());
}

#[test]
fn other_files_are_refused() {
    for bytes in [&b""[..], b"\x7fELF", b"#!/bin/sh\nexit 0\n", &[0; 4096]] {
        assert_eq!(read(bytes), Err(ImageError::NotElf));
    }
    assert_eq!(patched(4, &[1]), Err(ImageError::Class(1)));
    assert_eq!(patched(5, &[2]), Err(ImageError::Encoding(2)));
    assert_eq!(patched(18, &[183, 0]), Err(ImageError::Machine(183)));
    assert_eq!(patched(16, &[3, 0]), Err(ImageError::Type(3)));
    assert!(patched(16, &[3, 0]).unwrap_err().to_string().contains("-static -no-pie"));
    assert_eq!(refused(&good().other(3)), ImageError::Dynamic);
}

#[test]
fn headers_that_contradict_themselves_are_refused() {
    assert!(matches!(read(&good().bytes()[..40]), Err(ImageError::Malformed(_))));
    assert!(matches!(patched(32, &u64::MAX.to_le_bytes()), Err(ImageError::Malformed(_))));
    assert!(matches!(patched(32, &0x8000u64.to_le_bytes()), Err(ImageError::Malformed(_))));
    assert!(matches!(patched(54, &[1, 0]), Err(ImageError::Malformed(_))));
    assert!(matches!(patched(56, &[0xff, 0xff]), Err(ImageError::Malformed(_))));
    // More bytes in the file than in memory.
    assert!(matches!(patched(64 + 40, &5u64.to_le_bytes()), Err(ImageError::Malformed(_))));
}

#[test]
fn segments_must_be_where_segments_may_be() {
    let end = RAM_BASE + RAM_SIZE_MAX;
    for (address, size) in [
        (0, 1),
        (AT - 1, 1),
        (RAM_BASE, 0x1000),
        (end, 1),
        (end - 1, 2),
        (u64::MAX, 1),
        (AT, u64::MAX),
        (AT, u64::MAX - AT),
    ] {
        let elf = good().larger_segment(address, READ, &[0], size);
        assert!(matches!(refused(&elf), ImageError::Outside(at, _) if at == address), "{address:#x} {size:#x}");
    }
    assert_eq!(refused(&Elf::new(AT)), ImageError::Empty);
    assert_eq!(refused(&Elf::new(AT).segment(AT, READ | EXECUTE, &[])), ImageError::Empty);
}

#[test]
fn segments_must_not_overlap_or_mix_permissions_on_a_page() {
    let overlap = |elf: &Elf| matches!(refused(elf), ImageError::Overlap(..));
    assert!(overlap(&good().segment(AT + 99, READ | EXECUTE, &[0])));
    assert!(overlap(&good().segment(AT + 100, READ, &[0])), "same page as code");
    assert!(overlap(&good().segment(AT + 0x2000, READ | WRITE, &[0])));
    let shared = good().segment(AT + 100, READ | EXECUTE, &[0]);
    assert_eq!(read(&shared.bytes()).unwrap().segments.len(), 3, "same permissions may share a page");
    assert_eq!(refused(&good().segment(AT + 0x8000, WRITE | EXECUTE, &[0])), ImageError::WritableCode(AT + 0x8000));
    assert_eq!(refused(&good().segment(AT + 0x8000, 0, &[0])), ImageError::NoPermission(AT + 0x8000));
}

#[test]
fn the_entry_point_must_be_code() {
    for entry in [0, AT - 1, AT + 100, AT + 0x1000, u64::MAX] {
        assert_eq!(patched(24, &entry.to_le_bytes()), Err(ImageError::Entry(entry)));
    }
}

#[test]
fn a_file_that_is_cut_off_says_what_is_missing() {
    let bytes = good().bytes();
    let found = bytes.len() as u64 - 1;
    let error = read(&bytes[..bytes.len() - 1]).unwrap_err();
    assert_eq!(error, ImageError::Truncated { address: AT + 0x1000, found, needed: found + 1 });
    let headers = read(&bytes[..100]).unwrap_err();
    assert!(matches!(headers, ImageError::Malformed(_)), "{headers:?}");
}

#[test]
fn many_headers_are_read() {
    let mut elf = good();
    for number in 0..200 {
        elf = elf.segment(AT + 0x10_0000 + number * 0x1000, READ, &[1]);
    }
    assert_eq!(read(&elf.bytes()).unwrap().segments.len(), 202);
}
