//! What a program learns of its own restarts.
//!
//! A restored program goes on where it was, so nothing in its own course tells it that time has passed, that the calls it
//! had under way are over and that what it did last is undone. Whoever waits for events is told by [`crate::Event::Lost`],
//! whoever waits for a call by `SelfRestart`. For all else there is a hook, [`on_restart`], and a number, [`count`].

use alloc::boxed::Box;
use core::cell::{Cell, RefCell};
use core::fmt;

use district_protocol::boot::StartReason;

use crate::boot;
use crate::one_thread::one_thread;

/// How a life of the district began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// Number of that life.
    pub epoch: u64,
    /// Why it began; [`StartReason::BrokerRestart`] if since then the broker was replaced. `None`: this program's ABI
    /// has no such reason.
    pub reason: Option<StartReason>,
    /// Number of the checkpoint that it began from; 0: none.
    pub generation: u64,
    /// When that was taken, in nanoseconds since 1970; 0: none.
    pub checkpoint_time: u64,
}

impl fmt::Display for Restart {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "epoch {}", self.epoch)?;
        if let Some(reason) = self.reason {
            write!(out, ", {reason:?}")?;
        }
        if self.generation == 0 { Ok(()) } else { write!(out, ", generation {}", self.generation) }
    }
}

/// Forgets everything, as a program that has just begun.
#[cfg(test)]
pub(crate) fn forget() {
    STATE.with(|state| {
        state.epoch.set(0);
        state.count.set(0);
        drop(state.hook.take());
    });
}

type Hook = Box<dyn FnMut(Restart)>;

struct State {
    /// The last epoch that the program knows of; 0: none yet.
    epoch: Cell<u64>,
    count: Cell<u64>,
    hook: RefCell<Option<Hook>>,
    running: Cell<bool>,
}

one_thread! {
    static STATE: State = State {
        epoch: Cell::new(0),
        count: Cell::new(0),
        hook: RefCell::new(None),
        running: Cell::new(false),
    };
}

/// How the present life began.
pub fn current() -> Restart {
    boot::consistent(|| Restart {
        epoch: boot::epoch(),
        reason: boot::reason(),
        generation: boot::generation(),
        checkpoint_time: boot::checkpoint_time(),
    })
}

/// How often this memory has been restored, for programs that look now and then. Restores that come so
/// quickly that the program has not used this library in between count as one. Clones count on from what their original had.
pub fn count() -> u64 {
    notice();
    STATE.with(|state| state.count.get())
}

/// Lets `hook` run once after each restore, in place of any earlier hook: before the program gets any message or outcome
/// that it did not have when the checkpoint was taken, and before anything is sent that it begins to send after that. It
/// runs inside of whatever call of this library the program made first, so it must not wait for anything that the program
/// has borrowed. It may use the library; if the district is restored meanwhile, it runs again when it returns.
pub fn on_restart(hook: impl FnMut(Restart) + 'static) {
    notice();
    let old = STATE.with(|state| state.hook.replace(Some(Box::new(hook))));
    // Dropped here, where the cell is free: it may have keys.
    drop(old);
}

/// Looks whether the district was restored since the last time, and lets the hook run.
pub(crate) fn notice() {
    STATE.with(|state| {
        let known = state.epoch.get();
        if known == 0 {
            state.epoch.set(boot::epoch());
        } else if known != boot::epoch() && !state.running.replace(true) {
            state.follow();
            state.running.set(false);
        }
    });
}

impl State {
    fn follow(&self) {
        loop {
            let restart = current();
            if restart.epoch == self.epoch.replace(restart.epoch) {
                return;
            }
            self.count.set(self.count.get() + 1);
            let hook = self.hook.take();
            if let Some(mut hook) = hook {
                hook(restart);
                // Unless it has put another in its place.
                self.hook.borrow_mut().get_or_insert(hook);
            }
        }
    }
}
