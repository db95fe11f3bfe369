//! Stopping the guest for an instant, to copy what a checkpoint holds.
//!
//! The checkpoint thread gives an [`Order`] and kicks the vCPU thread; that one carries it out between two entries into
//! the guest, where the guest's state is complete, and goes on. It copies itself because waking the other thread while
//! the guest stands still would take longer than the copying.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use district_protocol::layout::BOOT_PAGE;
use kvm_ioctls::{VcpuFd, VmFd};

use crate::cpuid::Cpuid;
use crate::dirty::{self, DirtyPages};
use crate::machine::RAM_SLOT;
use crate::memory::Ram;
use crate::state::{Layout, MachineState};

/// What the vCPU thread is to copy.
pub(crate) struct Order {
    /// Pages that are known to be dirty; the log's are added.
    pub(crate) dirty: DirtyPages,
    /// Where pages go; as much of it as has been touched costs the guest no time.
    pub(crate) staging: Vec<u8>,
    /// With more pages than this the guest goes on at once.
    pub(crate) pages_max: u64,
    /// With more pages than that it stands still until it is released.
    pub(crate) hold: bool,
}

/// What has become of an [`Order`].
pub(crate) enum Captured {
    /// All pages of `dirty` are in `staging`, in ascending order.
    Complete { dirty: DirtyPages, staging: Vec<u8>, state: MachineState },
    /// They are too many to be copied. The guest stands still until it is released.
    Held { dirty: DirtyPages, state: MachineState },
    /// They were too many. All are in `dirty`, and the log is empty.
    TooMany { dirty: DirtyPages },
    /// KVM does not show its state; `dirty` is what is known to be dirty.
    Failed { dirty: DirtyPages, error: String },
}

enum Slot {
    Empty,
    Ordered(Order),
    Answered(Box<Captured>, Duration),
    /// Answered; the guest stands still.
    Holding,
    /// The guest's life is over.
    Closed,
}

/// The meeting place of the two threads.
pub(crate) struct Pause {
    ordered: AtomicBool,
    ran: AtomicBool,
    slot: Mutex<Slot>,
    changed: Condvar,
}

impl Pause {
    pub(crate) fn new() -> Self {
        Self {
            ordered: AtomicBool::new(false),
            ran: AtomicBool::new(false),
            slot: Mutex::new(Slot::Empty),
            changed: Condvar::new(),
        }
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an order; the vCPU thread has to be kicked after that. It comes back if there is no guest any more.
    pub(crate) fn order(&self, order: Order) -> Result<(), Order> {
        let mut slot = self.slot();
        if matches!(*slot, Slot::Closed) {
            return Err(order);
        }
        *slot = Slot::Ordered(order);
        self.ordered.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Lets a guest that is held go on.
    pub(crate) fn release(&self) {
        let mut slot = self.slot();
        if matches!(*slot, Slot::Holding) {
            *slot = Slot::Empty;
            self.changed.notify_all();
        }
    }

    /// Notes that the guest runs; for the vCPU thread, before each entry.
    pub(crate) fn runs(&self) {
        self.ran.store(true, Ordering::Relaxed);
    }

    /// Whether the guest has run since the last order.
    pub(crate) fn has_run(&self) -> bool {
        self.ran.load(Ordering::Relaxed)
    }

    /// Waits until the order has been carried out, and for how long the guest stood still. None: it never will be, since
    /// the guest's life is over.
    pub(crate) fn wait(&self) -> Option<(Captured, Duration)> {
        let mut slot = self.slot();
        loop {
            match std::mem::replace(&mut *slot, Slot::Empty) {
                Slot::Answered(captured, pause) => {
                    if matches!(*captured, Captured::Held { .. }) {
                        *slot = Slot::Holding;
                    }
                    return Some((*captured, pause));
                }
                Slot::Closed => {
                    *slot = Slot::Closed;
                    return None;
                }
                waiting => *slot = waiting,
            }
            slot = self.changed.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether there is an order.
    pub(crate) fn is_ordered(&self) -> bool {
        self.ordered.load(Ordering::SeqCst)
    }

    /// The order, for the vCPU thread.
    pub(crate) fn take(&self) -> Option<Order> {
        self.ordered.store(false, Ordering::SeqCst);
        self.ran.store(false, Ordering::Relaxed);
        let mut slot = self.slot();
        match std::mem::replace(&mut *slot, Slot::Empty) {
            Slot::Ordered(order) => Some(order),
            other => {
                *slot = other;
                None
            }
        }
    }

    /// Answers an order that was taken; if the guest is to be held, returns when it has been released.
    pub(crate) fn answer(&self, captured: Captured, pause: Duration) {
        let held = matches!(captured, Captured::Held { .. });
        let mut slot = self.slot();
        *slot = Slot::Answered(Box::new(captured), pause);
        self.changed.notify_all();
        while held && matches!(*slot, Slot::Answered(..) | Slot::Holding) {
            slot = self.changed.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// There will be no answers any more.
    pub(crate) fn close(&self) {
        *self.slot() = Slot::Closed;
        self.changed.notify_all();
    }
}

/// What the vCPU thread needs to carry out an order.
pub(crate) struct Source<'a> {
    pub(crate) vm: &'a VmFd,
    pub(crate) vcpu: &'a VcpuFd,
    pub(crate) ram: &'a Ram,
    pub(crate) cpuid: &'a Cpuid,
    pub(crate) layout: &'a Layout,
}

impl Source<'_> {
    /// Carries out `order`. The guest is not running, and KVM has completed its last operation.
    pub(crate) fn capture(&self, order: Order) -> Captured {
        let Order { mut dirty, mut staging, pages_max, hold } = order;
        match self.vm.get_dirty_log(RAM_SLOT, usize::try_from(self.ram.size()).unwrap_or(0)) {
            Ok(log) => dirty.add_log(&log),
            Err(error) => return Captured::Failed { dirty, error: format!("kvm does not say what is dirty: {error}") },
        }
        // Every life gets a new one.
        dirty.remove(BOOT_PAGE);
        let many = dirty.count() > pages_max;
        if many && !hold {
            return Captured::TooMany { dirty };
        }
        let state = match MachineState::save(self.vcpu, self.cpuid, self.layout) {
            Ok(state) => state,
            Err(error) => return Captured::Failed { dirty, error: error.to_string() },
        };
        if many {
            return Captured::Held { dirty, state };
        }
        staging.clear();
        let copied = dirty.iter().try_for_each(|page| self.ram.append_page(dirty::address(page), &mut staging));
        match copied {
            Ok(()) => Captured::Complete { dirty, staging, state },
            Err(error) => Captured::Failed { dirty, error: error.to_string() },
        }
    }
}
