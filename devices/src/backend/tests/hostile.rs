//! A vmm process that is not honest.

use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::event::{EventfdFlags, eventfd};
use vhost::vhost_user::message::FrontendReq;

use super::*;

/// A session with whatever a test wants to say in it.
struct Session {
    socket: UnixStream,
    backend: Backend,
    window: Arc<Window>,
}

fn session() -> Session {
    let (ours, socket) = UnixStream::pair().unwrap();
    let window = window();
    Session { socket, backend: Backend::new(ours, Arc::clone(&window)).unwrap(), window }
}

fn message(request: FrontendReq, body: &[u8]) -> Vec<u8> {
    let mut message = words32(&[request as u32, 1, u32::try_from(body.len()).unwrap()]);
    message.extend(body);
    message
}

fn words32(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn words64(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn an_eventfd() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

/// Where the hostile process says it maps the window.
const USER: u64 = 0x7f00_0000_0000;

/// One memory region of a memory table: guest address, size, user address, offset.
fn region(address: u64, size: u64, user: u64, offset: u64) -> Vec<u8> {
    words64(&[address, size, user, offset])
}

fn table(regions: &[Vec<u8>]) -> Vec<u8> {
    let mut body = words32(&[u32::try_from(regions.len()).unwrap(), 0]);
    regions.iter().for_each(|region| body.extend(region));
    body
}

fn good_table() -> Vec<u8> {
    table(&[region(WINDOW_BASE, WINDOW_SIZE_MIN, USER, 0)])
}

/// Ring addresses: index, flags, then descriptors, used, available, log.
fn addresses(index: u32, flags: u32, base: u64) -> Vec<u8> {
    let mut body = words32(&[index, flags]);
    body.extend(words64(&[base, base.wrapping_add(0x200), base.wrapping_add(0x100), 0]));
    body
}

impl Session {
    fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    fn send_with(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(fds).size()];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(fds)));
        let sent = sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::empty()).unwrap();
        assert_eq!(sent, bytes.len());
    }

    /// What comes of all that was sent: the error, in words.
    fn error(&mut self) -> String {
        match self.backend.process() {
            Err(error) => error.to_string(),
            Ok(progress) => panic!("{progress:?}"),
        }
    }

    fn is_waiting(&mut self) -> bool {
        matches!(self.backend.process(), Ok(Progress::Waiting))
    }

    fn begin(&mut self) {
        self.send(&message(FrontendReq::SET_OWNER, &[]));
        self.send(&message(FrontendReq::SET_FEATURES, &words64(&[FEATURES])));
        let memfd = self.window.memfd().try_clone_to_owned().unwrap();
        self.send_with(&message(FrontendReq::SET_MEM_TABLE, &good_table()), &[memfd.as_fd()]);
        assert!(self.is_waiting());
    }

    /// All about a ring of 8 that begins at `base`.
    fn set_up_ring_at(&mut self, index: u32, size: u32, base: u64) {
        self.send(&message(FrontendReq::SET_VRING_NUM, &words32(&[index, size])));
        self.send(&message(FrontendReq::SET_VRING_BASE, &words32(&[index, 0])));
        self.send(&message(FrontendReq::SET_VRING_ADDR, &addresses(index, 0, base)));
        self.send_with(&message(FrontendReq::SET_VRING_CALL, &words64(&[index.into()])), &[an_eventfd().as_fd()]);
        self.send_with(&message(FrontendReq::SET_VRING_KICK, &words64(&[index.into()])), &[an_eventfd().as_fd()]);
    }

    fn set_up_ring(&mut self, index: u32) {
        self.set_up_ring_at(index, 8, USER + 0x1000 * u64::from(index + 1));
    }
}

#[test]
fn a_handshake_by_hand_works() {
    let mut session = session();
    session.begin();
    session.set_up_ring(1);
    assert!(session.is_waiting());
    session.set_up_ring(0);
    assert!(matches!(session.backend.process(), Ok(Progress::Ready(_))));
    assert!(session.is_waiting());
}

#[test]
fn messages_that_are_none_end_the_session() {
    for (bytes, expected) in [
        (vec![0xff; 3], "handshake: partial message"),
        (vec![0xff; 11], "handshake: partial message"),
        (vec![0xff; 4096], "handshake: invalid operation: request that this device has no use for"),
        (vec![0; 12], "handshake: invalid operation: request that this device has no use for"),
        (words32(&[2, 1, u32::MAX]), "handshake: oversized message"),
        (message(FrontendReq::SET_OWNER, &[])[..11].to_vec(), "handshake: partial message"),
        (message(FrontendReq::SET_FEATURES, &[0; 8])[..12].to_vec(), "handshake: partial message"),
        (message(FrontendReq::SET_FEATURES, &[0; 8])[..19].to_vec(), "handshake: partial message"),
        (message(FrontendReq::SET_FEATURES, &[0; 41]), "handshake: oversized message"),
        (message(FrontendReq::SET_FEATURES, &[0; 7]), "handshake: invalid message"),
        (message(FrontendReq::SET_OWNER, &[0; 8]), "handshake: invalid message"),
        (words32(&[3, 5, 0]), "handshake: invalid message"),
        (words32(&[3, 2, 0]), "handshake: invalid message"),
    ] {
        let mut session = session();
        session.send(&bytes);
        let error = session.error();
        assert!(error.starts_with(expected), "{bytes:x?}: {error}");
    }
}

#[test]
fn half_a_message_ends_the_session_also_after_whole_ones() {
    let mut session = session();
    session.send(&message(FrontendReq::SET_OWNER, &[]));
    session.send(&message(FrontendReq::SET_FEATURES, &words64(&[FEATURES]))[..15]);
    assert_eq!(session.error(), "handshake: partial message");
}

#[test]
fn requests_that_the_device_has_no_use_for_end_the_session() {
    for (request, body) in [
        (FrontendReq::RESET_OWNER, &[][..]),
        (FrontendReq::GET_VRING_BASE, &[0; 8]),
        (FrontendReq::GET_PROTOCOL_FEATURES, &[]),
        (FrontendReq::SET_PROTOCOL_FEATURES, &[0; 8]),
        (FrontendReq::GET_QUEUE_NUM, &[]),
        (FrontendReq::SET_VRING_ENABLE, &[0; 8]),
        (FrontendReq::GET_CONFIG, &[0; 12]),
        (FrontendReq::RESET_DEVICE, &[]),
        (FrontendReq::GET_MAX_MEM_SLOTS, &[]),
        (FrontendReq::ADD_MEM_REG, &[0; 40]),
        (FrontendReq::REM_MEM_REG, &[0; 40]),
        (FrontendReq::SET_LOG_BASE, &[0; 16]),
        (FrontendReq::CHECK_DEVICE_STATE, &[]),
        (FrontendReq::GET_SHMEM_CONFIG, &[]),
        (FrontendReq::SEND_RARP, &[0; 8]),
        (FrontendReq::GET_STATUS, &[]),
    ] {
        let mut session = session();
        session.send(&message(request, body));
        assert_eq!(session.error(), "handshake: invalid operation: request that this device has no use for");
    }
    for request in [FrontendReq::SET_VRING_ERR, FrontendReq::SET_BACKEND_REQ_FD, FrontendReq::GPU_SET_SOCKET] {
        let mut session = session();
        let fd = session.socket.try_clone().unwrap();
        session.send_with(&message(request, &[0; 8]), &[fd.as_fd()]);
        assert_eq!(session.error(), "handshake: invalid operation: request that this device has no use for");
    }
}

#[test]
fn only_the_window_is_accepted_as_memory() {
    let good = region(WINDOW_BASE, WINDOW_SIZE_MIN, USER, 0);
    for wrong in [
        region(WINDOW_BASE + 4096, WINDOW_SIZE_MIN, USER, 0),
        region(WINDOW_BASE, WINDOW_SIZE_MIN - 4096, USER, 0),
        region(WINDOW_BASE, WINDOW_SIZE_MIN * 2, USER, 0),
        region(WINDOW_BASE, WINDOW_SIZE_MIN, USER, 4096),
        region(0, u64::MAX, 0, 0),
        region(WINDOW_BASE, WINDOW_SIZE_MIN, u64::MAX - 100, 0),
        region(WINDOW_BASE, 0, USER, 0),
    ] {
        let mut session = session();
        session.send_with(&message(FrontendReq::SET_MEM_TABLE, &table(&[wrong])), &[an_eventfd().as_fd()]);
        assert!(session.error().starts_with("handshake: "));
    }
    // None, two (which no honest message has room for), one without a file, and a second table.
    for body in [table(&[]), table(&[good.clone(), good.clone()]), good_table()] {
        let mut session = session();
        session.send(&message(FrontendReq::SET_MEM_TABLE, &body));
        assert!(session.error().starts_with("handshake: "));
    }
    let mut session = session();
    session.begin();
    session.send_with(&message(FrontendReq::SET_MEM_TABLE, &good_table()), &[an_eventfd().as_fd()]);
    assert_eq!(session.error(), "handshake: invalid operation: second memory table");
}

#[test]
fn only_what_the_device_offers_is_accepted_as_features() {
    for features in [0, FEATURES & !(1 << 29), FEATURES | 1 << 30, FEATURES | 1 << 28, u64::MAX] {
        let mut session = session();
        session.send(&message(FrontendReq::SET_FEATURES, &words64(&[features])));
        assert_eq!(session.error(), "handshake: virtio/protocol features mismatch", "{features:#x}");
    }
}

#[test]
fn wrong_rings_end_the_session() {
    let num = |index, size| message(FrontendReq::SET_VRING_NUM, &words32(&[index, size]));
    let base = |index, start| message(FrontendReq::SET_VRING_BASE, &words32(&[index, start]));
    let place = |index, flags, at| message(FrontendReq::SET_VRING_ADDR, &addresses(index, flags, at));
    for (messages, expected) in [
        (vec![num(2, 8)], "handshake: invalid operation: no such ring"),
        (vec![num(u32::MAX, 8)], "handshake: invalid operation: no such ring"),
        (vec![num(0, 0x1_0008)], "handshake: invalid parameters"),
        (vec![num(0, 8), num(0, 8)], "handshake: invalid operation: ring sized twice"),
        (vec![base(0, 1)], "handshake: invalid operation: ring that is not fresh"),
        (vec![base(1, 0), base(1, 0)], "handshake: invalid operation: ring started twice"),
        (vec![place(0, 1, USER)], "handshake: invalid operation: logging"),
        (vec![place(0, 0, USER + 1)], "handshake: invalid message"),
        (vec![place(0, 0, USER), place(0, 0, USER)], "handshake: invalid operation: ring placed twice"),
    ] {
        let mut session = session();
        session.begin();
        messages.iter().for_each(|message| session.send(message));
        assert_eq!(session.error(), expected);
    }
    let mut session = session();
    session.send(&place(0, 0, USER));
    assert_eq!(session.error(), "handshake: invalid operation: ring addresses before the memory table");
}

#[test]
fn rings_outside_of_the_window_end_the_session() {
    for (size, at) in [
        (8, USER - 0x1000),
        (8, USER + WINDOW_SIZE_MIN - 0x100),
        (8, 0),
        (8, u64::MAX - 0xfff),
        (8, WINDOW_BASE),
        (7, USER + 0x1000),
        (0, USER + 0x1000),
        (2048, USER + 0x1000),
    ] {
        let mut session = session();
        session.begin();
        session.set_up_ring(1);
        session.set_up_ring_at(0, size, at);
        assert!(session.error().starts_with("queue 0: "), "{size} at {at:#x}");
    }
}

#[test]
fn only_eventfds_are_accepted_as_eventfds() {
    let (pipe, _other) = io::pipe().unwrap();
    let memfd = rustix::fs::memfd_create("[eventfd]", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    for request in [FrontendReq::SET_VRING_KICK, FrontendReq::SET_VRING_CALL] {
        for fd in [pipe.as_fd(), memfd.as_fd(), epoll.as_fd()] {
            let mut session = session();
            session.send_with(&message(request, &words64(&[0])), &[fd]);
            assert_eq!(session.error(), "handshake: invalid operation: not an eventfd");
        }
        // Without one, in both ways, and with one where it says that there is none.
        for (body, fds) in [(0_u64, 0), (0x100, 0), (0x100, 1)] {
            let mut session = session();
            session.send_with(&message(request, &words64(&[body])), &vec![an_eventfd().as_fd(); fds]);
            assert!(session.error().starts_with("handshake: invalid "), "{body:#x} {fds}");
        }
        let mut session = session();
        for _ in 0..2 {
            session.send_with(&message(request, &words64(&[1])), &[an_eventfd().as_fd()]);
        }
        assert!(session.error().starts_with("handshake: invalid operation: second "));
        let mut session = self::session();
        session.send_with(&message(request, &words64(&[2])), &[an_eventfd().as_fd()]);
        assert_eq!(session.error(), "handshake: invalid operation: no such ring");
    }
}

#[test]
fn floods_of_file_descriptors_end_the_session_and_are_closed() {
    for count in [1, 2, 3, 32, 33, 253] {
        for request in [FrontendReq::SET_OWNER, FrontendReq::SET_VRING_KICK, FrontendReq::SET_MEM_TABLE] {
            let mut session = session();
            let (mut reader, writer) = io::pipe().unwrap();
            let body = if request == FrontendReq::SET_OWNER { vec![] } else { vec![0; 8] };
            session.send_with(&message(request, &body), &vec![writer.as_fd(); count]);
            drop(writer);
            let error = session.error();
            assert!(error.starts_with("handshake: "), "{count}: {error}");
            assert_eq!(error.contains("too many file descriptors"), count > 1, "{count}: {error}");
            // Only what still waits in the socket is open, and goes with it.
            drop(session);
            assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        }
    }
}

#[test]
fn file_descriptors_in_the_middle_of_a_message_end_the_session() {
    let mut session = session();
    let bytes = message(FrontendReq::SET_VRING_KICK, &words64(&[0]));
    session.send(&bytes[..HEADER]);
    session.send_with(&bytes[HEADER..], &[an_eventfd().as_fd()]);
    assert!(session.error().starts_with("handshake: "));
    let mut session = self::session();
    session.send_with(&bytes[..6], &[an_eventfd().as_fd()]);
    session.send(&bytes[6..]);
    assert_eq!(session.error(), "handshake: partial message");
}

#[test]
fn an_accepted_memory_table_keeps_no_file_open() {
    let mut session = session();
    let (mut reader, writer) = io::pipe().unwrap();
    session.send_with(&message(FrontendReq::SET_MEM_TABLE, &good_table()), &[writer.as_fd()]);
    drop(writer);
    assert!(session.is_waiting());
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

#[test]
fn nothing_may_be_said_after_the_handshake() {
    let more = [
        message(FrontendReq::GET_FEATURES, &[]),
        message(FrontendReq::SET_VRING_NUM, &words32(&[0, 8])),
        message(FrontendReq::SET_OWNER, &[]),
    ];
    for message in more {
        // Together with it, and later.
        for later in [false, true] {
            let mut session = session();
            session.begin();
            session.set_up_ring(0);
            session.set_up_ring(1);
            if later {
                assert!(matches!(session.backend.process(), Ok(Progress::Ready(_))));
            }
            session.send(&message);
            assert_eq!(session.error(), "handshake: invalid operation: message after the handshake");
        }
    }
    let mut session = session();
    session.begin();
    session.set_up_ring(0);
    session.set_up_ring(1);
    assert!(matches!(session.backend.process(), Ok(Progress::Ready(_))));
    session.send(b"x");
    assert_eq!(session.error(), "handshake: partial message");
}

#[test]
fn a_handshake_without_end_ends() {
    let mut session = session();
    for _ in 0..MESSAGES_MAX {
        session.send(&message(FrontendReq::GET_FEATURES, &[]));
    }
    assert!(session.is_waiting());
    session.send(&message(FrontendReq::GET_FEATURES, &[]));
    assert_eq!(session.error(), "handshake: invalid operation: too many messages");
}

#[test]
fn replies_that_nobody_reads_end_the_session() {
    let mut session = session();
    rustix::net::sockopt::set_socket_send_buffer_size(&session.backend.socket, 1).unwrap();
    for _ in 0..MESSAGES_MAX {
        session.send(&message(FrontendReq::GET_FEATURES, &[]));
    }
    assert_eq!(session.error(), "handshake: invalid operation: replies that nobody reads");
}

#[test]
fn a_frontend_that_goes_away_closes_the_session() {
    for sent in [vec![], message(FrontendReq::SET_OWNER, &[]), message(FrontendReq::GET_FEATURES, &[])] {
        let mut session = session();
        session.send(&sent);
        let Session { socket, mut backend, .. } = session;
        drop(socket);
        assert!(matches!(backend.process(), Err(ChannelError::Closed)), "{sent:x?}");
    }
}

proptest::proptest! {
    #[test]
    fn random_messages_neither_block_nor_pass(
        messages in proptest::collection::vec((0_u32..48, proptest::collection::vec(0_u8.., 0..48), 0_usize..3), 1..40),
    ) {
        let mut session = session();
        let fd = an_eventfd();
        for (request, body, fds) in messages {
            let mut bytes = words32(&[request, 1, u32::try_from(body.len()).unwrap()]);
            bytes.extend(body);
            session.send_with(&bytes, &vec![fd.as_fd(); fds]);
        }
        let passed = matches!(session.backend.process(), Ok(Progress::Ready(_)));
        proptest::prop_assert!(!passed);
    }
}
