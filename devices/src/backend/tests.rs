use std::io::{IoSlice, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::Duration;

use district_protocol::channel::FEATURES;
use district_protocol::frame::{CompletionHeader, DeliveryHeader, DeliveryKind, REQUEST_HEADER};
use district_protocol::frame::{RequestHeader, RequestKind};
use district_protocol::handle::Handle;
use district_protocol::layout::{WINDOW_BASE, WINDOW_SIZE_MIN};
use district_protocol::status::Status;
use rustix::event::epoll;
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::{FdFlags, fcntl_getfd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::*;
use crate::driver::{Driver, Geometry};
use crate::frontend::{ActivateError, Connection, activate};

mod hostile;

const GEOMETRY: Geometry = Geometry { queue_size: 8, request_data: 1024, completion_data: 1024, delivery_buffer: 512 };

fn window() -> Arc<Window> {
    Arc::new(Window::create(WINDOW_SIZE_MIN).unwrap())
}

/// Waits for the socket, and handles what has arrived, until there is a channel or an error.
fn run(backend: &mut Backend) -> Result<Box<Channel>, ChannelError> {
    loop {
        poll(&mut [PollFd::new(&backend.socket, PollFlags::IN)], None).unwrap();
        if let Progress::Ready(channel) = backend.process()? {
            return Ok(channel);
        }
    }
}

/// A driver and the channel that it has over a socket, as in a running system.
fn connected() -> (Driver, Connection, Backend, Box<Channel>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let window = window();
    let shared = Window::map(window.memfd().try_clone_to_owned().unwrap(), window.size()).unwrap();
    let driver = Driver::new(Arc::new(shared), GEOMETRY);
    let mut backend = Backend::new(ours, window).unwrap();
    let connecting = thread::spawn(move || (driver.connect(theirs).unwrap(), driver));
    let channel = run(&mut backend).unwrap();
    let (connection, driver) = connecting.join().unwrap();
    (driver, connection, backend, channel)
}

#[test]
fn a_handshake_gives_a_channel() {
    let (mut driver, _connection, mut backend, mut channel) = connected();
    assert!(matches!(backend.process(), Ok(Progress::Waiting)));
    let header = RequestHeader::new(RequestKind::Send, Handle::BOOTSTRAP);
    let chain = driver.request(&header, b"over two mappings").unwrap();
    let raw = channel.next_request().unwrap().unwrap();
    assert_eq!((raw.chain, &raw.bytes[REQUEST_HEADER..]), (chain, &b"over two mappings"[..]));
    channel.complete(chain, &CompletionHeader::new(Status::Ok, 0), b"").unwrap();
    channel.flush().unwrap();
    assert!(driver.wait(Duration::from_secs(10)));
    assert_eq!(driver.completion().unwrap().0, chain);
}

#[test]
fn its_eventfds_are_not_inherited_and_do_not_block() {
    let (_driver, _connection, _backend, channel) = connected();
    for fd in channel.kick_fds().into_iter().chain([channel.call_fd()]) {
        assert!(fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC));
    }
    assert!(fcntl_getfl(channel.call_fd()).unwrap().contains(OFlags::NONBLOCK));
}

#[test]
fn each_end_sees_the_other_close() {
    let (_driver, connection, mut backend, _channel) = connected();
    drop(connection);
    assert!(matches!(run(&mut backend), Err(ChannelError::Closed)));

    let (_driver, connection, backend, channel) = connected();
    // The channel alone does not keep the session open.
    drop(backend);
    poll(&mut [PollFd::new(&connection, PollFlags::IN)], None).unwrap();
    let mut fds = [PollFd::new(&connection, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
    assert!(fds[0].revents().contains(PollFlags::HUP));
    drop(channel);
}

/// A daemon that echoes requests, and delivers each to the guest as well, until the guest hangs up.
fn echo(mut backend: Backend, mut channel: Box<Channel>) {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let watch = |fd: BorrowedFd<'_>, events| epoll::add(&epoll, fd, epoll::EventData::new_u64(0), events).unwrap();
    watch(backend.socket.as_fd(), epoll::EventFlags::IN);
    for kick in channel.kick_fds() {
        watch(kick, epoll::EventFlags::IN | epoll::EventFlags::ET);
    }
    let mut undelivered = std::collections::VecDeque::new();
    loop {
        while let Some(raw) = channel.next_request().unwrap() {
            let header = RequestHeader::decode(&raw.bytes).unwrap();
            let data = &raw.bytes[REQUEST_HEADER..];
            channel.complete(raw.chain, &CompletionHeader::new(Status::Ok, header.token), data).unwrap();
            undelivered.push_back((header.token, data.to_vec()));
        }
        while let Some((token, data)) = undelivered.front() {
            if !channel.deliver(&delivery(*token), data).unwrap() {
                break;
            }
            undelivered.pop_front();
        }
        channel.flush().unwrap();
        let mut events = [MaybeUninit::uninit(); 4];
        epoll::wait(&epoll, &mut events, None).unwrap();
        match backend.process() {
            Ok(Progress::Waiting) => {}
            Err(ChannelError::Closed) => return,
            other => panic!("{other:?}"),
        }
    }
}

fn delivery(badge: u64) -> DeliveryHeader {
    DeliveryHeader {
        kind: DeliveryKind::Message,
        key_count: 0,
        buffers: 0,
        data_len: 0,
        export: 0,
        badge,
        operation: 0,
        reply: Handle(0),
        reply_capacity: 0,
        keys: [Handle(0); 4],
    }
}

/// Data of a length and content that goes with the number of its message.
fn data_of(number: u64) -> Vec<u8> {
    number.to_le_bytes().into_iter().cycle().take((number % 1000) as usize).collect()
}

#[test]
fn no_wake_up_is_lost_between_two_threads() {
    const MESSAGES: u64 = 20_000;
    let (mut driver, connection, backend, channel) = connected();
    let daemon = thread::spawn(move || echo(backend, channel));
    let (mut sent, mut completed, mut delivered) = (0, 0, 0);
    while completed < MESSAGES || delivered < MESSAGES {
        let header = |token| RequestHeader { token, ..RequestHeader::new(RequestKind::Call, Handle::BOOTSTRAP) };
        // A changing number of messages at a time, of changing lengths.
        for _ in 0..sent % 5 + 1 {
            let data = data_of(sent);
            if sent < MESSAGES && driver.request(&header(sent), &data).is_some() {
                sent += 1;
            }
        }
        let mut idle = true;
        while let Some((_, completion)) = driver.completion() {
            assert_eq!(completion.data, data_of(completion.header.token));
            completed += 1;
            idle = false;
        }
        while let Some(delivery) = driver.delivery() {
            assert_eq!(delivery.header.badge, delivered);
            assert_eq!(delivery.data, data_of(delivered));
            delivered += 1;
            idle = false;
        }
        if idle && (completed < MESSAGES || delivered < MESSAGES) {
            assert!(driver.wait(Duration::from_secs(10)), "{sent} sent, {completed} completed, {delivered} delivered");
        }
    }
    drop(connection);
    daemon.join().unwrap();
}

#[test]
fn a_daemon_that_ends_fails_the_activation() {
    let driver = Driver::new(window(), GEOMETRY);
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(ours);
    assert!(matches!(driver.connect(theirs), Err(ActivateError::Refused(_))));
}

#[test]
fn a_daemon_that_does_nothing_holds_nobody_up() {
    let driver = Driver::new(window(), GEOMETRY);
    let (ours, theirs) = UnixStream::pair().unwrap();
    // Would wait for ever if it waited for anything.
    let connection = driver.connect(theirs).unwrap();
    drop((ours, connection));
}

/// What has happened to this end of a socket.
fn events(end: &Connection) -> PollFlags {
    let mut fds = [PollFd::new(end, PollFlags::RDHUP)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
    fds[0].revents()
}

#[test]
fn half_a_hang_up_ends_the_session_and_is_answered_by_the_other_half() {
    let (_driver, connection, mut backend, channel) = connected();
    rustix::net::shutdown(&connection, rustix::net::Shutdown::Write).unwrap();
    assert!(matches!(run(&mut backend), Err(ChannelError::Closed)));
    assert!(events(&connection).is_empty(), "the daemon may still use the channel");
    drop(channel);
    drop(backend);
    assert!(events(&connection).contains(PollFlags::RDHUP));
}

#[test]
fn a_hang_up_before_the_handshake_was_read_leaves_no_channel() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut backend = Backend::new(ours, window()).unwrap();
    let connection = Driver::new(window(), GEOMETRY).connect(theirs).unwrap();
    rustix::net::shutdown(&connection, rustix::net::Shutdown::Write).unwrap();
    assert!(matches!(backend.process(), Err(ChannelError::Closed)));
}

#[test]
fn a_socket_on_which_it_could_not_wait_fails_the_activation() {
    let window = window();
    let driver = Driver::new(Arc::clone(&window), GEOMETRY);
    let (_ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let result = activate(theirs, &driver.setup(), &window, driver.kicks(), driver.call());
    assert!(matches!(result, Err(ActivateError::NonBlocking)));
}
