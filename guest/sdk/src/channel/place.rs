//! Where the channel is: a district has one. In tests, each thread has its own.

use core::cell::RefCell;

use super::Channel;

#[cfg(not(test))]
struct OneThread(RefCell<Option<Channel>>);

// SAFETY: a district has one thread of control and no interrupts.
#[cfg(not(test))]
unsafe impl Sync for OneThread {}

#[cfg(not(test))]
static CHANNEL: OneThread = OneThread(RefCell::new(None));

#[cfg(not(test))]
pub(super) fn with<R>(access: impl FnOnce(&RefCell<Option<Channel>>) -> R) -> R {
    access(&CHANNEL.0)
}

#[cfg(test)]
std::thread_local! {
    static CHANNEL: RefCell<Option<Channel>> = const { RefCell::new(None) };
}

#[cfg(test)]
pub(super) fn with<R>(access: impl FnOnce(&RefCell<Option<Channel>>) -> R) -> R {
    CHANNEL.with(access)
}
