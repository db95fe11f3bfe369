//! Where the channel is: a district has one. In tests, each thread has its own.

use core::cell::RefCell;

use super::Channel;
use crate::one_thread::one_thread;

one_thread! {
    static CHANNEL: RefCell<Option<Channel>> = RefCell::new(None);
}

pub(super) fn with<R>(access: impl FnOnce(&RefCell<Option<Channel>>) -> R) -> R {
    CHANNEL.with(access)
}
