//! The thread that takes a district's checkpoints: when the daemon asks, and when its plan says so, also while no daemon
//! is there.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use district_checkpoint::SegmentWriter;
use seccompiler::{BpfProgram, apply_filter};

use super::{CheckpointError, Checkpointer, Parts};
use crate::control::{Checkpoints, FromVmm};

/// How often the pages of a guest that is to be checkpointed after so many are counted.
const COUNT_EVERY: Duration = Duration::from_millis(50);
/// Results that nobody has fetched, at most. The oldest is forgotten then: the newest says all that one must know.
const NEWS_MAX: usize = 64;

/// What the control thread wants.
pub(crate) enum Work {
    /// There is a guest; first, and once.
    Guest(Box<Guest>),
    /// A checkpoint for this request and all before it.
    Take(u64),
    /// A new segment for the log.
    Log(OwnedFd),
}

/// A guest whose checkpoints are to be taken.
pub(crate) struct Guest {
    pub(crate) parts: Parts,
    pub(crate) log: OwnedFd,
    pub(crate) epoch: u64,
    pub(crate) plan: Checkpoints,
}

/// Where the thread leaves results for the control thread.
pub(crate) struct News {
    queue: Mutex<VecDeque<FromVmm>>,
    /// Readable when there are any.
    pub(crate) event: OwnedFd,
}

impl News {
    pub(crate) fn new(event: OwnedFd) -> Self {
        Self { queue: Mutex::new(VecDeque::new()), event }
    }

    fn tell(&self, message: FromVmm) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() == NEWS_MAX {
            queue.pop_front();
        }
        queue.push_back(message);
        // Fails only when 2^64 of them wait.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// All results since the last time.
    pub(crate) fn take(&self) -> VecDeque<FromVmm> {
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
        std::mem::take(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How many requests may wait; the control thread never waits for this one.
pub(crate) const WORK_MAX: usize = 64;
/// The control thread's end.
pub(crate) type Orders = SyncSender<Work>;

/// Waits for a guest and takes its checkpoints until the control thread is gone.
pub(crate) fn run(filter: &BpfProgram, work: &Receiver<Work>, news: &News) {
    let jailed = apply_filter(filter);
    let Ok(Work::Guest(guest)) = work.recv() else { return };
    if let Err(error) = jailed {
        return news.tell(FromVmm::NoCheckpoint { covers: 0, error: error.to_string(), needs_log: false });
    }
    let Guest { parts, log, epoch, plan } = *guest;
    let mut taker = Taker {
        checkpointer: Checkpointer::new(parts, None, epoch, &plan),
        plan,
        covers: 0,
        next: Instant::now() + plan.every(),
        news,
    };
    taker.set_log(log);
    while taker.turn(work) {}
}

/// An error with all that it comes from.
fn in_full(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

struct Taker<'a> {
    checkpointer: Checkpointer,
    plan: Checkpoints,
    /// The newest request.
    covers: u64,
    /// When the plan wants one.
    next: Instant,
    news: &'a News,
}

impl Taker<'_> {
    /// Waits for work or the time, and does it. False: the control thread is gone.
    fn turn(&mut self, work: &Receiver<Work>) -> bool {
        let wait = self.wait();
        let first = match wait {
            None => work.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(wait) => work.recv_timeout(wait),
        };
        match first {
            Ok(first) => {
                let mut wanted = self.note(first);
                // One checkpoint answers all that have been asked for.
                loop {
                    match work.try_recv() {
                        Ok(more) => wanted |= self.note(more),
                        Err(TryRecvError::Empty) => break,
                        Err(TryRecvError::Disconnected) => return false,
                    }
                }
                if wanted {
                    self.take();
                }
            }
            Err(RecvTimeoutError::Timeout) => self.time(),
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        true
    }

    fn wait(&self) -> Option<Duration> {
        let every = (self.plan.every_ms != 0).then(|| self.next.saturating_duration_since(Instant::now()));
        let count = (self.plan.dirty_pages != 0).then_some(COUNT_EVERY);
        [every, count].into_iter().flatten().min()
    }

    fn note(&mut self, work: Work) -> bool {
        match work {
            Work::Guest(_) => false,
            Work::Take(request) => {
                self.covers = self.covers.max(request);
                true
            }
            Work::Log(log) => {
                self.set_log(log);
                false
            }
        }
    }

    fn set_log(&mut self, log: OwnedFd) {
        match SegmentWriter::open(log.into()) {
            Ok(log) => self.checkpointer.set_log(log),
            Err(error) => {
                let (covers, error) = (self.covers, in_full(&error));
                self.news.tell(FromVmm::NoCheckpoint { covers, error, needs_log: false });
            }
        }
    }

    /// Does what the plan says.
    fn time(&mut self) {
        let due = self.plan.every_ms != 0 && Instant::now() >= self.next;
        if due {
            self.next = Instant::now() + self.plan.every();
        }
        let many = self.plan.dirty_pages != 0
            && self.checkpointer.has_run()
            && self.checkpointer.count_dirty().is_ok_and(|count| count >= self.plan.dirty_pages);
        if many || due && self.checkpointer.has_run() {
            self.take();
        }
    }

    fn take(&mut self) {
        let covers = self.covers;
        if let Some(generation) = self.checkpointer.unchanged() {
            return self.news.tell(FromVmm::Unchanged { covers, generation });
        }
        let message = match self.checkpointer.take() {
            Ok(checkpoint) => FromVmm::Checkpointed { covers, checkpoint },
            // That its life is over is about to be told, and answers whoever waits for a checkpoint of it.
            Err(CheckpointError::Over) => return,
            Err(error) => FromVmm::NoCheckpoint { covers, needs_log: error.needs_log(), error: in_full(&error) },
        };
        self.news.tell(message);
    }
}
