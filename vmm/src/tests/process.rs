//! The vmm process as its daemons see it, on a thread of this process: the jail holds for each thread alone.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use district_devices::Window;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::session::{Session, device_driver, order};
use super::{Host, exited, guest, kvm_fd, program};
use crate::control::{ControlError, DaemonEnd, FromVmm, MESSAGE_MAX, Start, StartFiles, State, listen};
use crate::process::{ProcessError, serve};
use crate::report::Ended;

struct Vmm {
    path: PathBuf,
    thread: JoinHandle<Result<(), ProcessError>>,
}

impl Vmm {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("district-vmm-{}-{}.sock", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let listener = listen(&path).unwrap();
        Self { path, thread: std::thread::spawn(|| serve(listener)) }
    }

    /// A daemon that has been greeted.
    fn connect(&self) -> (DaemonEnd, State) {
        let daemon = DaemonEnd::connect(&self.path).unwrap();
        match receive(&daemon).unwrap() {
            FromVmm::Hello { pid, state } => {
                assert_eq!(pid, std::process::id());
                (daemon, state)
            }
            message => panic!("{message:?}"),
        }
    }

    fn assert_over(self) {
        self.thread.join().unwrap().unwrap();
        std::fs::remove_file(self.path).unwrap();
    }
}

fn receive(daemon: &DaemonEnd) -> Result<FromVmm, ControlError> {
    receive_with_window(daemon).map(|(message, _)| message)
}

fn receive_with_window(daemon: &DaemonEnd) -> Result<(FromVmm, Option<OwnedFd>), ControlError> {
    loop {
        if let Some(received) = daemon.receive()? {
            return Ok(received);
        }
        let timeout = Timespec { tv_sec: 10, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(daemon, PollFlags::IN)], Some(&timeout)).unwrap(), 1, "no answer");
    }
}

fn begin(daemon: &DaemonEnd, start: Start, code: &[u8]) -> Arc<Window> {
    let window = Window::create(start.window).unwrap();
    let program = program(code).file();
    daemon.prepare(host().cpuid.clone(), kvm_fd().as_fd()).unwrap();
    daemon.start(start, &StartFiles::program(&program.as_fd(), window.memfd())).unwrap();
    daemon.run().unwrap();
    Arc::new(window)
}

fn host() -> &'static Host {
    Host::get().unwrap()
}

guest!(leave, "mov eax, 2", "mov edi, 11", "xor edx, edx", "int3");
guest!(leave_when_woken, "mov eax, 1", "mov rdi, -1", "int3", "mov eax, 2", "mov edi, 12", "xor edx, edx", "int3");
guest!(
    wait_a_moment,
    "mov ecx, 200000000",
    "30: dec ecx",
    "jnz 30b",
    "mov eax, 2",
    "mov edi, 13",
    "xor edx, edx",
    "int3"
);

#[test]
fn a_district_runs_and_its_end_is_reported() {
    let Some(host) = Host::get() else { return };
    let vmm = Vmm::new();
    let (daemon, state) = vmm.connect();
    assert_eq!(state, State::Waiting);
    begin(&daemon, host.start(), leave());
    assert_eq!(receive(&daemon).unwrap(), FromVmm::Running);
    assert_eq!(receive(&daemon).unwrap(), FromVmm::Ended(exited(11)));
    vmm.assert_over();
}

#[test]
fn c40_a_district_outlives_its_daemon() {
    let Some(host) = Host::get() else { return };
    let vmm = Vmm::new();
    let (daemon, _) = vmm.connect();
    let window = begin(&daemon, host.start(), device_driver());
    let size = window.size();
    assert_eq!(receive(&daemon).unwrap(), FromVmm::Running);
    let (session, socket) = Session::new(&window);
    daemon.channel(socket.as_fd()).unwrap();
    drop(socket);
    let session = session.begin();
    // The daemon dies.
    drop((daemon, session, window));
    let daemon = DaemonEnd::connect(&vmm.path).unwrap();
    let (hello, window) = receive_with_window(&daemon).unwrap();
    let state = State::Running { district_id: *b"district of test", epoch: 7, generation: 0 };
    assert_eq!(hello, FromVmm::Hello { pid: std::process::id(), state });
    let window = Arc::new(Window::map(window.unwrap(), size).unwrap());
    let (session, socket) = Session::new(&window);
    daemon.channel(socket.as_fd()).unwrap();
    drop(socket);
    // The guest has noticed, and set its device up again.
    let _session = session.begin();
    daemon.stop().unwrap();
    assert_eq!(receive(&daemon).unwrap(), FromVmm::Ended(Ended::Stopped));
    vmm.assert_over();
}

#[test]
fn a_guest_that_resets_its_device_gets_the_next_session() {
    let Some(host) = Host::get() else { return };
    let vmm = Vmm::new();
    let (daemon, _) = vmm.connect();
    let window = begin(&daemon, host.start(), device_driver());
    assert_eq!(receive(&daemon).unwrap(), FromVmm::Running);
    for _ in 0..3 {
        let (session, socket) = Session::new(&window);
        daemon.channel(socket.as_fd()).unwrap();
        drop(socket);
        let session = session.begin();
        order(&window, 2);
        session.wake();
        session.assert_closed_by_the_guest();
    }
    let (session, socket) = Session::new(&window);
    daemon.channel(socket.as_fd()).unwrap();
    let session = session.begin();
    order(&window, 1);
    session.wake();
    assert_eq!(receive(&daemon).unwrap(), FromVmm::Ended(exited(1)), "the sessions that it left itself do not count");
    vmm.assert_over();
}

#[test]
fn a_newer_daemon_replaces_an_older_one() {
    let Some(host) = Host::get() else { return };
    let vmm = Vmm::new();
    let (older, _) = vmm.connect();
    let (newer, _) = vmm.connect();
    assert!(matches!(receive(&older), Err(ControlError::Closed)));
    begin(&newer, host.start(), leave());
    assert_eq!(receive(&newer).unwrap(), FromVmm::Running);
    assert_eq!(receive(&newer).unwrap(), FromVmm::Ended(exited(11)));
    vmm.assert_over();
}

#[test]
fn a_report_is_kept_until_a_daemon_takes_it() {
    let Some(host) = Host::get() else { return };
    let vmm = Vmm::new();
    let (daemon, _) = vmm.connect();
    begin(&daemon, host.start(), wait_a_moment());
    assert_eq!(receive(&daemon).unwrap(), FromVmm::Running);
    drop(daemon);
    // Some of these daemons die without reading what they are told.
    loop {
        match vmm.connect() {
            (_, State::Running { .. }) => {}
            (_, State::Ended { district_id, epoch, report }) => {
                assert_eq!((&district_id, epoch, report), (b"district of test", 7, exited(13)));
                return vmm.assert_over();
            }
            (_, State::Waiting) => panic!("forgot its district"),
        }
    }
}

#[test]
fn a_stop_ends_a_parked_guest_and_a_process_without_one() {
    let Some(host) = Host::get() else { return };
    for started in [true, false] {
        let vmm = Vmm::new();
        let (daemon, _) = vmm.connect();
        if started {
            begin(&daemon, host.start(), leave_when_woken());
            assert_eq!(receive(&daemon).unwrap(), FromVmm::Running);
        }
        daemon.stop().unwrap();
        assert_eq!(receive(&daemon).unwrap(), FromVmm::Ended(Ended::Stopped));
        vmm.assert_over();
    }
}

#[test]
fn what_cannot_be_built_is_reported() {
    let Some(host) = Host::get() else { return };
    for (expected, change) in [
        ("abi version 99: ", (|start: &mut Start| start.abi_version = 99) as fn(&mut Start)),
        ("start reason 0 ", |start| start.reason = 0),
        ("memory of 4096 bytes: ", |start| start.memory = 4096),
        ("window of 0 bytes: ", |start| start.window = 0),
        ("argument 1 contains a NUL", |start| start.arguments = vec!["a".into(), "b\0c".into()]),
        ("arguments of 4001 bytes", |start| start.arguments = vec!["x".repeat(4000)]),
        ("name of 256 bytes", |start| start.name = "n".repeat(256)),
    ] {
        let vmm = Vmm::new();
        let (daemon, _) = vmm.connect();
        let (mut start, window) = (host.start(), Window::create(host.start().window).unwrap());
        change(&mut start);
        daemon.prepare(host.cpuid.clone(), kvm_fd().as_fd()).unwrap();
        daemon.start(start, &StartFiles::program(&program(leave()).file().as_fd(), window.memfd())).unwrap();
        match receive(&daemon).unwrap() {
            FromVmm::Ended(Ended::Failed { error }) if error.starts_with(expected) => {}
            message => panic!("{expected}: {message:?}"),
        }
        vmm.assert_over();
    }
}

/// Sends bytes as they are.
fn send(daemon: &DaemonEnd, bytes: &[u8], fds: usize) {
    let fd = kvm_fd();
    let fds = vec![fd.as_fd(); fds];
    let mut space = vec![std::mem::MaybeUninit::uninit(); 1024];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    }
    rustix::net::sendmsg(daemon, &[std::io::IoSlice::new(bytes)], &mut ancillary, SendFlags::empty()).unwrap();
}

/// None of these is a message with what belongs to it.
const BROKEN: [(&[u8], usize); 11] = [
    (b"hello", 0),
    (b"\"Stop\"x", 0),
    (b"\"Stop\"", 1),
    (b"\"Stop\"", 20),
    (b"\"Channel\"", 0),
    (b"\"Channel\"", 2),
    (b"{\"Start\":{}}", 2),
    (b"{\"Prepare\":{}}", 1),
    (b"\xff\xfe", 0),
    (b"\"Quit\"", 0),
    (&[b' '; MESSAGE_MAX + 1], 0),
];

#[test]
fn broken_messages_end_the_connection_and_not_the_guest() {
    let Some(host) = Host::get() else { return };
    let vmm = Vmm::new();
    let (mut daemon, _) = vmm.connect();
    let _window = begin(&daemon, host.start(), leave_when_woken());
    assert_eq!(receive(&daemon).unwrap(), FromVmm::Running);
    for (bytes, fds) in BROKEN {
        send(&daemon, bytes, fds);
        assert!(matches!(receive(&daemon), Err(ControlError::Closed)), "{:?}", String::from_utf8_lossy(bytes));
        let state;
        (daemon, state) = vmm.connect();
        assert!(matches!(state, State::Running { .. }));
    }
    // One machine in a process's life.
    daemon.prepare(host.cpuid.clone(), kvm_fd().as_fd()).unwrap();
    assert!(matches!(receive(&daemon), Err(ControlError::Closed)));
    let (daemon, _) = vmm.connect();
    // A session that is none.
    let pipe: OwnedFd = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
    daemon.channel(pipe.as_fd()).unwrap();
    daemon.stop().unwrap();
    assert_eq!(receive(&daemon).unwrap(), FromVmm::Ended(Ended::Stopped));
    vmm.assert_over();
}

/// What could go on without a daemon is a guest; nobody would look for a process without one.
#[test]
fn without_a_guest_the_process_ends_with_its_connection() {
    let Some(host) = Host::get() else { return };
    let valid: [(&[u8], usize); 3] = [(b"\"Channel\"", 1), (b"\"Run\"", 0), (b"\"Taken\"", 0)];
    for (bytes, fds) in BROKEN.into_iter().chain(valid) {
        let vmm = Vmm::new();
        let (daemon, state) = vmm.connect();
        assert_eq!(state, State::Waiting);
        send(&daemon, bytes, fds);
        assert!(matches!(receive(&daemon), Err(ControlError::Closed)), "{:?}", String::from_utf8_lossy(bytes));
        vmm.assert_over();
    }
    for steps in 0..3 {
        let vmm = Vmm::new();
        let daemon = if steps == 0 { DaemonEnd::connect(&vmm.path).unwrap() } else { vmm.connect().0 };
        let window = Window::create(host.start().window).unwrap();
        if steps > 1 {
            daemon.prepare(host.cpuid.clone(), kvm_fd().as_fd()).unwrap();
            daemon.start(host.start(), &StartFiles::program(&program(leave()).file().as_fd(), window.memfd())).unwrap();
        }
        drop(daemon);
        vmm.assert_over();
    }
}

#[test]
fn a_host_without_kvm_is_reported_at_the_start() {
    let Some(host) = Host::get() else { return };
    let vmm = Vmm::new();
    let (daemon, _) = vmm.connect();
    daemon.prepare(host.cpuid.clone(), std::fs::File::open("/dev/null").unwrap().as_fd()).unwrap();
    let window = Window::create(host.start().window).unwrap();
    daemon.start(host.start(), &StartFiles::program(&program(leave()).file().as_fd(), window.memfd())).unwrap();
    match receive(&daemon).unwrap() {
        FromVmm::Ended(Ended::Failed { error }) if error.starts_with("cannot make a virtual machine: ") => {}
        message => panic!("{message:?}"),
    }
    vmm.assert_over();
}
