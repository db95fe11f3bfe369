//! `docs/abi.md` says the same as this crate: every row of its tables that begins with a name, an offset or a register of
//! the device is compared, and every number that has a row must have been found.

use std::collections::BTreeMap;

use district_protocol::boot::{ARGUMENTS_MAX, ARGUMENTS_OFFSET, BootPage, StartReason};
use district_protocol::channel;
use district_protocol::frame::*;
use district_protocol::handle::{Handle, SLOT_BITS};
use district_protocol::operation::{KeyKind, clock, directory, log, number, random, supervisor};
use district_protocol::rights::Rights;
use district_protocol::status::{Argument, Quota, Reason, Status};
use district_protocol::{ABI_VERSION, layout, shim};

const DOCUMENT: &str = include_str!("../../docs/abi.md");

/// A table: the last cell of its header, and its rows as name and numbers.
type Tables = BTreeMap<String, BTreeMap<String, Vec<u64>>>;

fn cells(line: &str) -> Option<Vec<&str>> {
    let line = line.strip_prefix('|')?.strip_suffix('|')?;
    Some(line.split('|').map(str::trim).collect())
}

fn parse_number(text: &str) -> Option<u64> {
    text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok())
}

/// All tables whose first column is a name or an offset, by the section heading before them and their last column.
fn tables() -> Tables {
    let mut tables = Tables::new();
    let (mut heading, mut current) = (String::new(), None);
    for line in DOCUMENT.lines() {
        if line.starts_with('#') {
            heading = line.trim_start_matches('#').trim().to_owned();
        }
        match cells(line).as_deref() {
            None => current = None,
            Some(header @ ["name" | "offset", ..]) => {
                let title = format!("{heading}: {}", header[header.len() - 1]);
                assert!(tables.insert(title.clone(), BTreeMap::new()).is_none(), "two tables {title}");
                current = Some(title);
            }
            Some([first, ..]) if first.starts_with("--") => {}
            Some(row) => {
                let Some(rows) = current.as_ref().and_then(|title| tables.get_mut(title)) else { continue };
                let Some(name) = row.iter().find_map(|cell| cell.strip_prefix('`')?.strip_suffix('`')) else {
                    continue;
                };
                let numbers = row[..3.min(row.len())].iter().filter_map(|cell| parse_number(cell)).collect();
                assert!(rows.insert(name.to_owned(), numbers).is_none(), "{name} stands twice in one table");
            }
        }
    }
    tables
}

/// Compares a table with what it should be, both ways.
fn check<'a>(tables: &mut Tables, title: &str, expected: impl IntoIterator<Item = (&'a str, Vec<u64>)>) {
    let found = tables.remove(title);
    let expected: BTreeMap<String, Vec<u64>> =
        expected.into_iter().map(|(name, numbers)| (name.to_owned(), numbers)).collect();
    assert_eq!(found, Some(expected), "{title}; not checked yet: {:?}", tables.keys());
}

fn numbered<'a>(rows: impl IntoIterator<Item = (&'a str, u64)>) -> impl Iterator<Item = (&'a str, Vec<u64>)> {
    rows.into_iter().map(|(name, value)| (name, vec![value]))
}

/// Where two encodings differ: offset and length.
fn difference(left: &[u8], right: &[u8]) -> Vec<u64> {
    let differs: Vec<usize> = (0..left.len()).filter(|&at| left[at] != right[at]).collect();
    let (first, last) = (differs[0], differs[differs.len() - 1]);
    assert_eq!(differs.len(), last - first + 1);
    vec![first as u64, (last - first + 1) as u64]
}

fn size_of_result<T>(_: impl Fn(&BootPage) -> T) -> u64 {
    size_of::<T>() as u64
}

macro_rules! named {
    ($($path:path),+ $(,)?) => {
        [$((stringify!($path).rsplit("::").next().unwrap_or_default().trim(), u64::from($path))),+]
    };
}

macro_rules! variants {
    ($kind:ident: $($name:ident),+ $(,)?) => {
        [$((stringify!($name), $kind::$name as u64)),+]
    };
}

#[test]
fn every_table_says_what_the_crate_says() {
    let mut tables = tables();
    memory(&mut tables);
    boot_page(&mut tables);
    device(&mut tables);
    frames(&mut tables);
    statuses(&mut tables);
    keys(&mut tables);
    assert!(tables.is_empty(), "tables that nobody has checked: {:?}", tables.keys());
}

fn memory(tables: &mut Tables) {
    use layout::*;
    let places = named![DEVICE_BASE, WINDOW_BASE, RAM_BASE, BOOT_PAGE, PROGRAM_BASE];
    check(tables, "2 Memory: what", numbered(places));
    let lengths = named![
        PAGE_SIZE,
        DEVICE_SIZE,
        STACK_SIZE,
        RAM_SIZE_MIN,
        RAM_SIZE_MAX,
        WINDOW_SIZE_MIN,
        WINDOW_SIZE_DEFAULT,
        WINDOW_SIZE_MAX,
    ];
    check(tables, "2 Memory: length of what", numbered(lengths));
}

fn boot_page(tables: &mut Tables) {
    macro_rules! fields {
        ($($name:ident),+ $(,)?) => {
            [$((stringify!($name), vec![
                core::mem::offset_of!(BootPage, $name) as u64,
                size_of_result(|page| page.$name),
            ])),+]
        };
    }
    let fields = fields![
        magic,
        abi_version,
        reason,
        district_id,
        epoch,
        generation,
        checkpoint_time,
        now,
        tsc_base,
        clock_scale,
        session,
        heap_base,
        heap_size,
        window_base,
        window_size,
        device_base,
        stack_base,
        stack_size,
        arguments_len,
        entropy,
    ];
    check(tables, "3 The boot page: what", fields);
    let reasons = variants![StartReason: Cold, Crash, Requested, RollBack, Clone, BrokerRestart];
    check(tables, "3 The boot page: meaning of `reason`", numbered(reasons));
    assert!(StartReason::from_raw(7).is_none(), "a reason without a row");
    let says = format!(
        "At offset {ARGUMENTS_OFFSET} stand the program's arguments, each followed by one NUL, {ARGUMENTS_MAX}"
    );
    assert!(DOCUMENT.contains(&says), "{says}");
    assert!(DOCUMENT.contains(&format!("ABI version: **{ABI_VERSION}**")));
}

fn device(tables: &mut Tables) {
    use channel::*;

    check(tables, "4 The shim: arguments and effect", numbered(named![shim::PARK, shim::EXIT]));
    assert!(DOCUMENT.contains(&format!("in RAM, {} bytes at most", shim::EXIT_MESSAGE_MAX)));
    assert_eq!(shim::NO_DEADLINE, u64::MAX);
    let numbers = named![
        DEVICE_ID,
        VENDOR_ID,
        REQUEST_QUEUE,
        DELIVERY_QUEUE,
        QUEUE_COUNT,
        QUEUE_SIZE_MAX,
        FEATURES,
        CONSUMED_OFFSET,
        WINDOW_HEADER_SIZE,
    ];
    let rows = numbers.into_iter().chain([("DELIVERY_BUFFER_MIN", DELIVERY_BUFFER_MIN as u64)]);
    check(tables, "5 The channel: what", numbered(rows));
    let config =
        [("ABI_VERSION", config::ABI_VERSION, 4), ("EPOCH", config::EPOCH, 8), ("WINDOW_SIZE", config::WINDOW_SIZE, 8)];
    check(
        tables,
        "5.1 Registers: configuration space, from register offset 0x100",
        config.map(|(name, offset, bytes)| (name, vec![offset, bytes])),
    );
}

/// The table of section 5.1, which has several registers in a row: their names and offsets.
fn register_table() -> BTreeMap<String, Option<u64>> {
    let header = |line: &str| cells(line).is_some_and(|cells| cells.starts_with(&["register", "offset"]));
    let mut registers = BTreeMap::new();
    for row in DOCUMENT.lines().skip_while(|line| !header(line)).skip(2).map_while(cells) {
        let [names, offsets] = [row[0], row[1]].map(|cell| cell.split(", ").collect::<Vec<_>>());
        assert_eq!(names.len(), offsets.len(), "{row:?}");
        for (name, offset) in names.into_iter().zip(offsets) {
            let name = name.trim_matches('`').to_owned();
            assert_eq!(registers.insert(name, parse_number(offset)), None, "{row:?} stands twice");
        }
    }
    registers
}

#[test]
fn the_table_of_registers_says_what_the_crate_says() {
    use channel::register::*;
    let expected = [
        ("MagicValue", MAGIC_VALUE),
        ("Version", VERSION),
        ("DeviceID", DEVICE_ID),
        ("VendorID", VENDOR_ID),
        ("DeviceFeatures", DEVICE_FEATURES),
        ("DeviceFeaturesSel", DEVICE_FEATURES_SELECT),
        ("DriverFeatures", DRIVER_FEATURES),
        ("DriverFeaturesSel", DRIVER_FEATURES_SELECT),
        ("QueueSel", QUEUE_SELECT),
        ("QueueNumMax", QUEUE_SIZE_MAX),
        ("QueueNum", QUEUE_SIZE),
        ("QueueReady", QUEUE_READY),
        ("QueueNotify", QUEUE_NOTIFY),
        ("InterruptStatus", INTERRUPT_STATUS),
        ("InterruptACK", INTERRUPT_ACKNOWLEDGE),
        ("Status", STATUS),
        ("QueueDescLow", QUEUE_DESCRIPTORS_LOW),
        ("QueueDescHigh", QUEUE_DESCRIPTORS_HIGH),
        ("QueueDriverLow", QUEUE_DRIVER_LOW),
        ("QueueDriverHigh", QUEUE_DRIVER_HIGH),
        ("QueueDeviceLow", QUEUE_DEVICE_LOW),
        ("QueueDeviceHigh", QUEUE_DEVICE_HIGH),
        ("configuration", CONFIG),
    ];
    let expected = expected.map(|(name, offset)| (name.to_owned(), Some(offset.into())));
    assert_eq!(register_table(), BTreeMap::from(expected));
}

#[test]
fn the_bits_of_the_status_are_what_the_crate_says() {
    use channel::status::*;
    let bits = [
        (ACKNOWLEDGE, "ACKNOWLEDGE"),
        (DRIVER, "DRIVER"),
        (DRIVER_OK, "DRIVER_OK"),
        (FEATURES_OK, "FEATURES_OK"),
        (NEEDS_RESET, "DEVICE_NEEDS_RESET"),
        (FAILED, "FAILED"),
    ];
    let says = bits.map(|(bit, name)| format!("{bit} {name}")).join(", ");
    assert!(DOCUMENT.contains(&format!("| {says} |")), "{says}");
    let low = format!("`DriverFeatures` = {:#x}", channel::FEATURES & 0xffff_ffff);
    let high = format!("`DriverFeatures` = {}.", channel::FEATURES >> 32);
    assert!(DOCUMENT.contains(&low) && DOCUMENT.contains(&high));
    for (after, status) in [("3. ", ACKNOWLEDGE | DRIVER), ("5. ", ACKNOWLEDGE | DRIVER | FEATURES_OK)] {
        assert!(DOCUMENT.contains(&format!("{after}`Status` = {status}")), "step {after}");
    }
    let going = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
    assert!(DOCUMENT.contains(&format!("7. `Status` = {going}.")));
}

fn frames(tables: &mut Tables) {
    let sizes = [
        ("REQUEST_HEADER", REQUEST_HEADER),
        ("COMPLETION_HEADER", COMPLETION_HEADER),
        ("DELIVERY_HEADER", DELIVERY_HEADER),
        ("DATA_MAX", DATA_MAX),
    ];
    check(tables, "6 Frames: what", numbered(sizes.map(|(name, size)| (name, size as u64))));
    assert!(DOCUMENT.contains(&format!("At most {KEYS_MAX} keys are in a frame.")));
    check(tables, "6.1 Request: what", request_fields());
    check(tables, "6.1 Request: a key slot", key_slot_fields());
    let kinds = variants![RequestKind: Call, Send, Reply, Notify, Cancel, Derive, Drop, Revoke, Watch, Export, Notifier, Identify];
    check(tables, "6.1 Request: what is asked, and the fields that it uses", numbered(kinds));
    assert!(RequestKind::from_raw(13).is_none(), "a kind without a row");
    check(tables, "6.1 Request: flags of `Derive`", numbered(named![FLAG_BADGE, FLAG_ONCE, FLAG_WEAK]));
    check(tables, "6.2 Completion: what", completion_fields());
    check(tables, "6.3 Delivery: what", delivery_fields());
    let kinds = variants![DeliveryKind: Message, Notification, Down, Cancelled, Unreferenced];
    check(tables, "6.3 Delivery: what it is", numbered(kinds));
    assert!(DeliveryKind::from_raw(6).is_none(), "a kind without a row");
}

const ONES: u64 = u64::MAX;

fn request_fields() -> Vec<(&'static str, Vec<u64>)> {
    let slot = |ones: bool| KeySlot { handle: Handle(if ones { ONES } else { 0 }), rights: 0, copy: false };
    let zero =
        RequestHeader { keys: [Some(slot(false)); KEYS_MAX], ..RequestHeader::new(RequestKind::Call, Handle(0)) };
    let at = |changed: RequestHeader| difference(&zero.encode(), &changed.encode());
    let no_keys = RequestHeader { keys: [None; KEYS_MAX], ..zero };
    let slots = [0, KEYS_MAX - 1].map(|index| {
        let mut keys = zero.keys;
        keys[index] = Some(slot(true));
        at(RequestHeader { keys, ..zero })[0]
    });
    vec![
        // The kind's upper byte is zero in all kinds, so that only its lower is seen to change.
        ("kind", vec![at(RequestHeader { kind: RequestKind::Send, ..zero })[0], 2]),
        ("key_count", at(no_keys)),
        ("flags", at(RequestHeader { flags: 0xff, ..zero })),
        ("data_len", at(RequestHeader { data_len: u32::MAX, ..zero })),
        ("token", at(RequestHeader { token: ONES, ..zero })),
        ("handle", at(RequestHeader { handle: Handle(ONES), ..zero })),
        ("operation", at(RequestHeader { operation: ONES, ..zero })),
        ("timeout", at(RequestHeader { timeout: ONES, ..zero })),
        ("argument", at(RequestHeader { argument: ONES, ..zero })),
        ("keys", vec![slots[0], (slots[1] - slots[0]) / (KEYS_MAX as u64 - 1) * KEYS_MAX as u64]),
    ]
}

fn key_slot_fields() -> Vec<(&'static str, Vec<u64>)> {
    let header = |slot| RequestHeader {
        keys: [Some(slot), None, None, None],
        ..RequestHeader::new(RequestKind::Call, Handle(0))
    };
    let zero = KeySlot { handle: Handle(0), rights: 0, copy: false };
    let at = |changed: KeySlot| {
        let found = difference(&header(zero).encode(), &header(changed).encode());
        vec![found[0] - 64, found[1]]
    };
    vec![
        ("handle", at(KeySlot { handle: Handle(ONES), ..zero })),
        ("rights", at(KeySlot { rights: u32::MAX, ..zero })),
        // Of its four bytes, only the lowest ever changes.
        ("copy", vec![at(KeySlot { copy: true, ..zero })[0], 4]),
    ]
}

fn completion_fields() -> Vec<(&'static str, Vec<u64>)> {
    let zero = CompletionHeader::new(Status::Ok, 0);
    let at = |changed: CompletionHeader| difference(&zero.encode(), &changed.encode());
    let status = CompletionHeader { status: Status::BadArgument(Argument(u16::MAX)), ..zero };
    let without_detail = CompletionHeader { status: Status::BadArgument(Argument(0)), ..zero };
    vec![
        ("status", at(without_detail)),
        ("detail", difference(&without_detail.encode(), &status.encode())),
        ("key_count", at(CompletionHeader { key_count: 4, ..zero })),
        ("data_len", at(CompletionHeader { data_len: u32::MAX, ..zero })),
        ("token", at(CompletionHeader { token: ONES, ..zero })),
        ("result", at(CompletionHeader { result: ONES, ..zero })),
        ("keys", at(CompletionHeader { keys: [Handle(ONES); KEYS_MAX], ..zero })),
    ]
}

fn delivery_fields() -> Vec<(&'static str, Vec<u64>)> {
    let zero = DeliveryHeader {
        kind: DeliveryKind::Message,
        key_count: 0,
        buffers: 0,
        data_len: 0,
        export: 0,
        badge: 0,
        operation: 0,
        reply: Handle(0),
        reply_capacity: 0,
        keys: [Handle(0); KEYS_MAX],
    };
    let at = |changed: DeliveryHeader| difference(&zero.encode(), &changed.encode());
    vec![
        // As for requests.
        ("kind", vec![at(DeliveryHeader { kind: DeliveryKind::Down, ..zero })[0], 2]),
        ("key_count", at(DeliveryHeader { key_count: 4, ..zero })),
        ("data_len", at(DeliveryHeader { data_len: u32::MAX, ..zero })),
        ("buffers", at(DeliveryHeader { buffers: u16::MAX, ..zero })),
        ("export", at(DeliveryHeader { export: ONES, ..zero })),
        ("badge", at(DeliveryHeader { badge: ONES, ..zero })),
        ("operation", at(DeliveryHeader { operation: ONES, ..zero })),
        ("reply", at(DeliveryHeader { reply: Handle(ONES), ..zero })),
        ("reply_capacity", at(DeliveryHeader { reply_capacity: u32::MAX, ..zero })),
        ("keys", at(DeliveryHeader { keys: [Handle(ONES); KEYS_MAX], ..zero })),
    ]
}

fn statuses(tables: &mut Tables) {
    let (argument, reason) = (Argument::TARGET, Reason::Revoked);
    let all = [
        ("Ok", Status::Ok),
        ("BadArgument", Status::BadArgument(argument)),
        ("TooBig", Status::TooBig),
        ("TooManyKeys", Status::TooManyKeys),
        ("NoSuchOperation", Status::NoSuchOperation),
        ("Denied", Status::Denied(argument)),
        ("NoKey", Status::NoKey(argument)),
        ("TooDeep", Status::TooDeep),
        ("Broken", Status::Broken(reason)),
        ("NotReady", Status::NotReady),
        ("NotFound", Status::NotFound),
        ("Quota", Status::Quota(Quota::Handles)),
        ("WouldBlock", Status::WouldBlock),
        ("Unknown", Status::Unknown(reason)),
        ("NotDelivered", Status::NotDelivered(reason)),
    ];
    let known = (0..=u16::MAX).filter(|&raw| (0..2).any(|detail| Status::from_raw(raw, detail).is_some())).count();
    assert_eq!(known, all.len(), "a status without a row");
    check(
        tables,
        "6.4 Statuses: group and meaning",
        numbered(all.map(|(name, status)| (name, status.to_raw().0.into()))),
    );
    let arguments = [
        ("TARGET", Argument::TARGET),
        ("OPERATION", Argument::OPERATION),
        ("DATA", Argument::DATA),
        ("HEADER", Argument::HEADER),
    ];
    let arguments = arguments.map(|(name, argument)| (name, argument.0.into()));
    check(tables, "6.4 Statuses: argument that a status speaks of", numbered(arguments));
    assert_eq!((Argument::key(0).0, Argument::key(3).0), (1, 4));
    let reasons = variants![Reason: Revoked, Destroyed, PeerRestart, SelfRestart, Unreachable, Used, Deadline, NoReply, Cancelled];
    check(tables, "6.4 Statuses: reason", numbered(reasons));
    assert!(Reason::from_raw(10).is_none(), "a reason without a row");
    let quotas = variants![Quota: Handles, Exports, QueuedBytes, Watches, Bindings, Frames, Calls];
    check(tables, "6.4 Statuses: quota", numbered(quotas));
    assert!(Quota::from_raw(8).is_none(), "a quota without a row");
}

fn keys(tables: &mut Tables) {
    let kinds = variants![KeyKind: Directory, Entry, Reply, Notify, Number, Log, Clock, Random, Supervisor];
    check(tables, "8 Keys and operations: kind of key", numbered(kinds));
    assert!(KeyKind::from_raw(10).is_none(), "a kind without a row");
    let rights: Vec<(String, u64)> =
        Rights::NAMES.iter().enumerate().map(|(bit, name)| (name.to_uppercase().replace('-', "_"), 1 << bit)).collect();
    check(tables, "8 Keys and operations: right", numbered(rights.iter().map(|(name, bit)| (name.as_str(), *bit))));
    assert_eq!((Rights::CALL.0, Rights::WRITE.0), (1, 1 << 12));
    let operations = [
        ("directory::LOOKUP", directory::LOOKUP),
        ("directory::LOOKUP_WAIT", directory::LOOKUP_WAIT),
        ("directory::LIST", directory::LIST),
        ("directory::BIND", directory::BIND),
        ("directory::REBIND", directory::REBIND),
        ("directory::UNBIND", directory::UNBIND),
        ("number::GET", number::GET),
        ("log::WRITE", log::WRITE),
        ("clock::NOW", clock::NOW),
        ("clock::SLEEP", clock::SLEEP),
        ("random::BYTES", random::BYTES),
        ("supervisor::CHECKPOINT", supervisor::CHECKPOINT),
    ];
    check(tables, "8 Keys and operations: answer", numbered(operations));
    for says in [
        format!("text in UTF-8, {} bytes at most", log::LINE_MAX),
        format!("1 to {} bytes", directory::PATH_MAX),
        format!("`{}`", directory::PUBLISH),
        format!("serial x 2^{SLOT_BITS} + serial mod 2^{SLOT_BITS}"),
    ] {
        assert!(DOCUMENT.contains(&says), "{says}");
    }
}
