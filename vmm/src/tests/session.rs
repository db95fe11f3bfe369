//! Sessions of the channel: the guest sets its device up, the daemon comes and goes.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use district_devices::{Backend, Channel, ChannelError, Progress, Window, driver};
use district_protocol::layout::WINDOW_BASE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{DATA, Guest, Host, exited, guest, program};
use crate::memory::Ram;

guest!(
    driver_of_device,
    "mov ebx, 0x10000000",
    // A new session: note it, count it, set the device up (virtio 1.2, 3.1.1 and 4.2.3.1).
    "20: mov r15, [0x40005050]",
    "mov dword ptr [0x40020008], 0",
    "inc dword ptr [0x40020000]",
    "mov dword ptr [rbx + 0x70], 0",
    // What the window says when the reset is complete.
    "mov rax, [0x20000108]",
    "mov [0x40020010], rax",
    "mov dword ptr [rbx + 0x70], 1",
    "mov dword ptr [rbx + 0x70], 3",
    "mov dword ptr [rbx + 0x24], 0",
    "mov dword ptr [rbx + 0x20], 0x20000000",
    "mov dword ptr [rbx + 0x24], 1",
    "mov dword ptr [rbx + 0x20], 1",
    "mov dword ptr [rbx + 0x70], 11",
    "xor ecx, ecx",
    "mov eax, 0x20001000",
    "21: mov [rbx + 0x30], ecx",
    "mov dword ptr [rbx + 0x38], 16",
    "mov [rbx + 0x80], eax",
    "add eax, 0x1000",
    "mov [rbx + 0x90], eax",
    "add eax, 0x1000",
    "mov [rbx + 0xa0], eax",
    "add eax, 0x1000",
    "mov dword ptr [rbx + 0x44], 1",
    "inc ecx",
    "cmp ecx, 2",
    "jne 21b",
    "mov dword ptr [rbx + 0x70], 15",
    "mov eax, [rbx + 0x70]",
    "mov [0x40020008], eax",
    "mov dword ptr [rbx + 0x50], 0",
    "mov dword ptr [rbx + 0x50], 1",
    // Park until the session changes, or the test says through the window: 1, end with its number; 2, reset again.
    "22: mov eax, 1",
    "mov rdi, -1",
    "int3",
    "cmp r15, [0x40005050]",
    "jne 20b",
    "mov eax, [0x20000100]",
    "mov dword ptr [0x20000100], 0",
    "cmp eax, 2",
    "je 20b",
    "cmp eax, 1",
    "jne 22b",
    "mov eax, 2",
    "mov edi, r15d",
    "xor edx, edx",
    "int3",
);

/// The guest's program, for tests of the whole process too.
pub(super) fn device_driver() -> &'static [u8] {
    driver_of_device()
}

/// Waits until `fd` is ready; a test that hangs here is stopped by its runner.
fn wait(fd: impl std::os::fd::AsFd) {
    let timeout = Timespec { tv_sec: 10, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap();
    assert_eq!(ready, 1, "nothing happens");
}

/// A daemon's half of a session.
pub(super) struct Session {
    backend: Backend,
    socket: UnixStream,
    channel: Option<Box<Channel>>,
}

impl Session {
    /// The daemon's half, and the socket for the vmm process.
    pub(super) fn new(window: &Arc<Window>) -> (Self, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let socket = ours.try_clone().unwrap();
        (Self { backend: Backend::new(ours, Arc::clone(window)).unwrap(), socket, channel: None }, theirs)
    }

    /// Goes through the handshake, and waits for the guest's doorbells.
    pub(super) fn begin(mut self) -> Self {
        while self.channel.is_none() {
            wait(&self.socket);
            if let Progress::Ready(channel) = self.backend.process().unwrap() {
                self.channel = Some(channel);
            }
        }
        for kick in self.channel.as_ref().unwrap().kick_fds() {
            wait(kick);
        }
        self
    }

    fn begin_elsewhere(self) -> JoinHandle<Self> {
        std::thread::spawn(move || self.begin())
    }

    /// Wakes the guest.
    pub(super) fn wake(&self) {
        rustix::io::write(self.channel.as_ref().unwrap().call_fd(), &1u64.to_ne_bytes()).unwrap();
    }

    pub(super) fn assert_closed_by_the_guest(mut self) {
        wait(&self.socket);
        assert!(matches!(self.backend.process(), Err(ChannelError::Closed)));
    }
}

/// What the guest does when it wakes.
pub(super) fn order(window: &Window, number: u32) {
    driver::write(window, WINDOW_BASE + 0x100, &number.to_le_bytes());
}

/// Waits until the guest has set its device up so many times.
fn set_up(ram: &Ram, times: u64) {
    while ram.read_u64(DATA).unwrap() < times || ram.read_u64(DATA + 8).unwrap() != 15 {
        std::thread::yield_now();
    }
}

#[test]
fn c40_a_broken_session_is_followed_by_the_next() {
    let Some(host) = Host::get() else { return };
    let guest = Guest::new(&host.start(), &program(device_driver()).file());
    let (ram, call, window) = (guest.ram(), guest.handle.call(), Arc::clone(&guest.window));
    let (thread, mut handle) = guest.spawn();
    // The guest comes first: its doorbells wait for the daemon.
    set_up(&ram, 1);
    let mut sessions = 0u8;
    for number in 1..=3u8 {
        let (session, socket) = Session::new(&window);
        let begun = session.begin_elsewhere();
        let socket = Arc::new(socket);
        handle.offer(Arc::clone(&socket)).unwrap();
        drop(begun.join().unwrap());
        handle.hung_up(&socket).unwrap();
        // Says nothing twice.
        handle.hung_up(&socket).unwrap();
        set_up(&ram, u64::from(number) + 1);
        sessions = number + 1;
    }
    order(&window, 1);
    call.write(1).unwrap();
    assert_eq!(thread.join().unwrap(), exited(sessions));
    assert_eq!(ram.read_u64(0x4000_5008).unwrap() >> 32, 6, "the reason is a new broker");
}

#[test]
fn a_reset_by_the_guest_ends_its_session_only() {
    let Some(host) = Host::get() else { return };
    let guest = Guest::new(&host.start(), &program(device_driver()).file());
    let (ram, call, window) = (guest.ram(), guest.handle.call(), Arc::clone(&guest.window));
    let (first, socket) = Session::new(&window);
    let socket = Arc::new(socket);
    let mut handle = guest.handle.clone();
    // The daemon comes first.
    handle.offer(Arc::clone(&socket)).unwrap();
    let (thread, _) = guest.spawn();
    let first = first.begin();
    order(&window, 2);
    call.write(1).unwrap();
    first.assert_closed_by_the_guest();
    handle.hung_up(&socket).unwrap();
    set_up(&ram, 2);
    let (second, socket) = Session::new(&window);
    let second = second.begin_elsewhere();
    handle.offer(Arc::new(socket)).unwrap();
    let second = second.join().unwrap();
    order(&window, 1);
    call.write(1).unwrap();
    assert_eq!(thread.join().unwrap(), exited(1), "still the first session's number");
    drop(second);
}

#[test]
fn a_reset_is_complete_when_the_daemon_has_let_go_of_the_queues() {
    const LAST_WORD: u64 = 0x1122_3344_5566_7788;
    let Some(host) = Host::get() else { return };
    let guest = Guest::new(&host.start(), &program(device_driver()).file());
    let (ram, call, window) = (guest.ram(), guest.handle.call(), Arc::clone(&guest.window));
    let (mut session, socket) = Session::new(&window);
    guest.handle.clone().offer(Arc::new(socket)).unwrap();
    let (thread, handle) = guest.spawn();
    session = session.begin();
    order(&window, 2);
    call.write(1).unwrap();
    wait(&session.socket);
    assert!(matches!(session.backend.process(), Err(ChannelError::Closed)));
    // The guest is in the middle of its reset, and its daemon may write until it hangs up.
    driver::write(&window, WINDOW_BASE + 0x108, &LAST_WORD.to_le_bytes());
    drop(session);
    set_up(&ram, 2);
    assert_eq!(ram.read_u64(DATA + 0x10).unwrap(), LAST_WORD);
    handle.stop(&thread).unwrap();
    assert_eq!(thread.join().unwrap(), crate::report::Ended::Stopped);
}

#[test]
fn a_daemon_that_refuses_the_queues_ends_the_session() {
    let Some(host) = Host::get() else { return };
    let guest = Guest::new(&host.start(), &program(device_driver()).file());
    let (ram, window) = (guest.ram(), Arc::clone(&guest.window));
    let (thread, mut handle) = guest.spawn();
    set_up(&ram, 1);
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(ours);
    let socket = Arc::new(theirs);
    handle.offer(Arc::clone(&socket)).unwrap();
    // As after the poll that reports it.
    handle.hung_up(&socket).unwrap();
    set_up(&ram, 2);
    handle.stop(&thread).unwrap();
    assert_eq!(thread.join().unwrap(), crate::report::Ended::Stopped);
    drop(window);
}
