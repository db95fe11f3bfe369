//! The channel against daemons that do not do what they should. Their guest is the test itself.

use district_protocol::channel::register::*;
use district_protocol::channel::status::NEEDS_RESET;
use district_protocol::layout::{WINDOW_BASE, WINDOW_SIZE_MIN};
use rustix::event::Timespec;

use super::*;

const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

fn channel() -> Channel {
    let window = Window::create(WINDOW_SIZE_MIN).unwrap();
    Channel::new(1, window, Arc::new(Events::new().unwrap()))
}

fn write(channel: &mut Channel, register: u32, value: u32) -> Written {
    channel.write(DEVICE_BASE + u64::from(register), &value.to_le_bytes())
}

fn status(channel: &Channel) -> u32 {
    let mut bytes = [0; 4];
    assert!(channel.read(DEVICE_BASE + u64::from(STATUS), &mut bytes));
    u32::from_le_bytes(bytes)
}

/// Sets the device up, from its reset state.
fn set_up(channel: &mut Channel) {
    let base = u32::try_from(WINDOW_BASE).unwrap();
    let negotiation =
        [(STATUS, 3), (DRIVER_FEATURES, 1 << 29), (DRIVER_FEATURES_SELECT, 1), (DRIVER_FEATURES, 1), (STATUS, 11)];
    let queues = [0, 1].into_iter().flat_map(|queue| {
        let at = base + 0x1000 * (queue + 1);
        [
            (QUEUE_SELECT, queue),
            (QUEUE_SIZE, 8),
            (QUEUE_DESCRIPTORS_LOW, at),
            (QUEUE_DRIVER_LOW, at + 0x400),
            (QUEUE_DEVICE_LOW, at + 0x800),
            (QUEUE_READY, 1),
        ]
    });
    for (register, value) in negotiation.into_iter().chain(queues).chain([(STATUS, 15)]) {
        assert!(matches!(write(channel, register, value), Written::Done));
    }
}

/// A session with a daemon that never does anything, which has this socket.
fn silent(channel: &mut Channel) -> (UnixStream, Arc<UnixStream>) {
    let (daemon, ours) = UnixStream::pair().unwrap();
    let ours = Arc::new(ours);
    assert!(!channel.offer(Arc::clone(&ours)));
    (daemon, ours)
}

fn left(channel: &mut Channel) -> Parting {
    match write(channel, STATUS, 0) {
        Written::Parting(parting) => parting,
        _ => panic!("no session to part from"),
    }
}

/// Whether all of the other end of this socket is closed.
fn is_closed(socket: &UnixStream) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::RDHUP)];
    poll(&mut fds, Some(&AT_ONCE)).unwrap();
    fds[0].revents().contains(PollFlags::HUP)
}

/// Whether the other end of this socket will say nothing more.
fn has_ended(socket: &UnixStream) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::RDHUP)];
    poll(&mut fds, Some(&AT_ONCE)).unwrap();
    fds[0].revents().contains(PollFlags::RDHUP)
}

#[test]
fn a_daemon_that_never_answers_does_not_hold_up_the_set_up() {
    // Whichever comes first, the daemon or the guest.
    let mut channel = channel();
    let (_daemon, _ours) = silent(&mut channel);
    set_up(&mut channel);
    assert_eq!(status(&channel), 15);
    left(&mut channel).wait(&AT_ONCE, || false);
    set_up(&mut channel);
    let (_daemon, _ours) = silent(&mut channel);
    assert_eq!(status(&channel), 15);
}

#[test]
fn a_daemon_that_does_not_let_go_does_not_hold_up_the_reset_for_ever() {
    let mut channel = channel();
    let (daemon, ours) = silent(&mut channel);
    set_up(&mut channel);
    left(&mut channel).wait(&Timespec { tv_sec: 0, tv_nsec: 1_000_000 }, || false);
    assert!(is_closed(&daemon), "what it says now, nobody hears");
    assert!(has_ended(&ours), "so that the control thread closes it");
    assert!(!channel.hung_up(&ours), "the session that the guest has left is not one that it has lost");
    assert_eq!(status(&channel), 0);
}

#[test]
fn a_reset_is_complete_when_the_daemon_has_let_go() {
    let mut channel = channel();
    let (daemon, _ours) = silent(&mut channel);
    set_up(&mut channel);
    let parting = left(&mut channel);
    let waiting = std::thread::spawn(move || parting.wait(&Timespec { tv_sec: 3600, tv_nsec: 0 }, || false));
    // The daemon sees that the guest has left, and is waited for.
    poll(&mut [PollFd::new(&daemon, PollFlags::RDHUP)], None).unwrap();
    assert!(!is_closed(&daemon) && !waiting.is_finished());
    drop(daemon);
    waiting.join().unwrap();
}

#[test]
fn the_next_session_can_be_offered_while_the_guest_leaves_the_last() {
    let mut channel = channel();
    let (_daemon, _ours) = silent(&mut channel);
    set_up(&mut channel);
    let parting = left(&mut channel);
    let (next, _ours) = silent(&mut channel);
    parting.wait(&AT_ONCE, || false);
    assert!(matches!(write(&mut channel, STATUS, 0), Written::Done), "the next session is as good as new");
    set_up(&mut channel);
    assert!(!has_ended(&next));
    assert_eq!(status(&channel) & NEEDS_RESET, 0);
}
