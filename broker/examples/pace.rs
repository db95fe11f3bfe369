//! How long the core takes for a message and for a call, in nanoseconds. Run with `--release`.

use std::sync::Arc;
use std::time::Instant;

use district_broker::{Attach, Bootstrap, Core, Delivered, DistrictId, Effect, Grant, GrantTarget, Limits, RawRequest};
use district_protocol::frame::{KeySlot, RequestHeader, RequestKind};
use district_protocol::handle::Handle;
use district_protocol::operation::directory;
use district_protocol::rights::Rights;
use district_protocol::status::Status;

const SERVER: DistrictId = DistrictId([1; 16]);
const CLIENT: DistrictId = DistrictId([2; 16]);
const ROUNDS: u32 = 2_000_000;
const DATA: usize = 64;

fn attach(core: &mut Core, district: DistrictId) -> bool {
    let name: Arc<str> = Arc::from("service");
    let target = GrantTarget::Service { owner: SERVER, name: name.clone() };
    let attach = Attach {
        district,
        name: Arc::from("pace"),
        epoch: 1,
        serials: 1..1 << 40,
        epoch_first_serial: 1,
        limits: Limits { frames_per_second: u32::MAX, ..Limits::default() },
        grants: vec![Grant { name: name.clone(), target, rights: Rights::ALL }],
        publishes: vec![name],
        bootstrap: Bootstrap::OwnDirectory,
    };
    core.attach(0, attach).is_ok()
}

fn frame(mut header: RequestHeader, data: &[u8]) -> Vec<u8> {
    header.data_len = u32::try_from(data.len()).unwrap_or(0);
    [&header.encode(), data].concat()
}

fn request(core: &mut Core, district: DistrictId, bytes: Vec<u8>) {
    core.request(0, district, RawRequest { chain: 0, capacity: 65_536, bytes });
}

/// Makes a request that is answered at once: its result, and its key if there is one.
fn ask(core: &mut Core, district: DistrictId, bytes: Vec<u8>) -> (u64, Handle) {
    request(core, district, bytes);
    let answers = core.drain_effects().filter_map(|effect| match effect {
        Effect::Complete { header, .. } => Some(header),
        _ => None,
    });
    let header = answers.last();
    assert_eq!(header.map(|header| header.status), Some(Status::Ok));
    header.map_or((0, Handle(0)), |header| (header.result, header.keys[0]))
}

fn connect(core: &mut Core) -> Handle {
    let (entry, _) = ask(core, SERVER, frame(RequestHeader::new(RequestKind::Export, Handle(0)), b""));
    let look_up = |path: &[u8]| {
        let header = RequestHeader { operation: directory::LOOKUP, ..RequestHeader::new(RequestKind::Call, Handle(1)) };
        frame(header, path)
    };
    let (_, publisher) = ask(core, SERVER, look_up(b"publish/service"));
    let mut bind = RequestHeader { operation: directory::BIND, ..RequestHeader::new(RequestKind::Call, publisher) };
    bind.keys[0] = Some(KeySlot { handle: Handle(entry), rights: Rights::ALL.0, copy: true });
    ask(core, SERVER, frame(bind, b""));
    ask(core, CLIENT, look_up(b"service")).1
}

fn measure(what: &str, mut round: impl FnMut()) {
    for _ in 0..ROUNDS / 10 {
        round();
    }
    let start = Instant::now();
    for _ in 0..ROUNDS {
        round();
    }
    println!("{what}: {} ns", start.elapsed().as_nanos() / u128::from(ROUNDS));
}

fn main() {
    let mut core = Core::new();
    if !(attach(&mut core, SERVER) && attach(&mut core, CLIENT)) {
        return;
    }
    let key = connect(&mut core);
    let send = frame(RequestHeader::new(RequestKind::Send, key), &[7; DATA]);
    measure("copying the frame, as the shell does", || {
        std::hint::black_box(send.clone());
    });
    measure("send and its delivery", || {
        request(&mut core, CLIENT, send.clone());
        let placed = core.deliver(SERVER, |_, data| data.len() == DATA);
        assert_eq!(placed, Delivered::Placed);
        assert_eq!(core.drain_effects().count(), 2);
    });
    measure("send and its delivery, 64 at a time, each", {
        let mut waiting = 0;
        let (core, send) = (&mut core, &send);
        move || {
            request(core, CLIENT, send.clone());
            waiting += 1;
            if waiting == 64 {
                waiting = 0;
                while core.deliver(SERVER, |_, data| data.len() == DATA) == Delivered::Placed {}
                core.drain_effects().for_each(drop);
            }
        }
    });
    for (what, timeout) in [("call, delivery and reply", 0), ("the same with a deadline", 1_000_000)] {
        let call = frame(RequestHeader { timeout, ..RequestHeader::new(RequestKind::Call, key) }, &[7; DATA]);
        measure(what, || {
            request(&mut core, CLIENT, call.clone());
            let mut reply = Handle(0);
            core.deliver(SERVER, |header, _| {
                reply = header.reply;
                true
            });
            request(&mut core, SERVER, frame(RequestHeader::new(RequestKind::Reply, reply), &[7; DATA]));
            assert_eq!(core.drain_effects().count(), 3);
        });
    }
}
