//! Taking checkpoints of a running guest: what is dirty, the instant in which the guest stands still, and the log.
//!
//! 1. The guest is stopped, and if few pages are dirty they are copied, with the processor's state, and it goes on.
//! 2. If there are many it goes on at once, and they are written to the log while it runs. Those that it writes to
//!    meanwhile are dirty again; that is repeated until they are few, and then it is stopped as in 1. A page that was
//!    caught half written is among them, and of two versions in one checkpoint the later counts.
//! 3. What was copied goes to the log, and the commit after it; all of it is flushed once.
//!
//! Where the guest outruns the copying for good, it stands still until all is written. Pages of a checkpoint that fails
//! are dirty again.

pub(crate) mod thread;

use std::fs::File;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use district_checkpoint::{CommitInfo, Run, SegmentWriter, is_zero, runs};
use district_protocol::layout::{BOOT_PAGE, PAGE_SIZE};
use kvm_ioctls::VmFd;
use rustix::time::{ClockId, clock_gettime};

use crate::channel::Events;
use crate::control::{Checkpointed, Checkpoints};
use crate::dirty::{self, DirtyPages};
use crate::kick::Kick;
use crate::machine::RAM_SLOT;
use crate::memory::Ram;
use crate::pause::{Captured, Order, Pause};

/// With so many dirty pages at most the guest waits until they are copied.
const PAUSE_PAGES_MAX: u64 = 512;
/// So often pages are written while the guest runs, at most.
const ROUNDS_MAX: u32 = 8;
/// Pages that are copied and written at a time.
const BATCH: usize = 64;
/// Bytes of staging that are there before the guest is stopped.
const STAGING_MIN: usize = BATCH * PAGE;
/// Bytes of a page.
const PAGE: usize = 4096;
const _: () = assert!(PAGE as u64 == PAGE_SIZE);

/// What taking checkpoints of a guest needs of its machine.
pub(crate) struct Parts {
    pub(crate) vm: Arc<VmFd>,
    pub(crate) ram: Arc<Ram>,
    pub(crate) kick: Arc<Kick>,
    pub(crate) events: Arc<Events>,
    pub(crate) pause: Arc<Pause>,
    /// The thread that runs the guest.
    pub(crate) vcpu: Arc<JoinHandle<()>>,
    /// What the first checkpoint has to hold beside what the guest writes.
    pub(crate) written: DirtyPages,
}

/// Takes checkpoints of one life of a district.
pub(crate) struct Checkpointer {
    parts: Parts,
    log: Option<SegmentWriter<File>>,
    epoch: u64,
    next: u64,
    parent: u64,
    /// Known to be dirty, and not in the log's last checkpoint.
    dirty: DirtyPages,
    staging: Vec<u8>,
    /// The newest checkpoint of this life.
    generation: Option<u64>,
}

/// Why there is no checkpoint.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error("the district's life is over")]
    Over,
    #[error("there is no log to write to")]
    NoLog,
    #[error("{0}")]
    Kvm(String),
    #[error(transparent)]
    Log(#[from] district_checkpoint::WriteError),
}

impl CheckpointError {
    /// Whether the next one needs another segment.
    pub(crate) fn needs_log(&self) -> bool {
        matches!(self, Self::NoLog | Self::Log(_))
    }
}

impl Checkpointer {
    pub(crate) fn new(parts: Parts, log: Option<SegmentWriter<File>>, epoch: u64, plan: &Checkpoints) -> Self {
        let dirty = parts.written.clone();
        let (next, parent) = (plan.next_generation, plan.parent);
        Self { parts, log, epoch, next, parent, dirty, staging: Vec::new(), generation: None }
    }

    /// From now on checkpoints go to another segment.
    pub(crate) fn set_log(&mut self, log: SegmentWriter<File>) {
        self.log = Some(log);
    }

    /// How many pages would be in a checkpoint now.
    pub(crate) fn count_dirty(&mut self) -> Result<u64, CheckpointError> {
        self.collect()?;
        Ok(self.dirty.count())
    }

    /// Whether the guest may have run since the last checkpoint.
    pub(crate) fn has_run(&self) -> bool {
        self.generation.is_none() || self.parts.pause.has_run()
    }

    /// The newest checkpoint of this life, if nothing has happened since.
    pub(crate) fn unchanged(&self) -> Option<u64> {
        self.generation.filter(|_| !self.parts.pause.has_run())
    }

    /// Takes a checkpoint. On an error there is none, and the guest goes on as if nothing had been.
    pub(crate) fn take(&mut self) -> Result<Checkpointed, CheckpointError> {
        let mut log = self.log.take().filter(|log| !log.has_failed()).ok_or(CheckpointError::NoLog)?;
        let mut taken = DirtyPages::none(self.parts.ram.size());
        let result = self.take_into(&mut log, &mut taken);
        // Also as it is when writing has failed, so that what it holds stays known.
        self.log = Some(log);
        if result.is_err() {
            self.dirty.merge(&taken);
        }
        // Released at the end: the guest may stand still until here.
        self.parts.pause.release();
        // What an idle district does not need.
        if self.staging.capacity() > BATCH * PAGE * 2 {
            self.staging = Vec::new();
        }
        result
    }
}

impl Checkpointer {
    fn take_into(
        &mut self,
        log: &mut SegmentWriter<File>,
        taken: &mut DirtyPages,
    ) -> Result<Checkpointed, CheckpointError> {
        let begin = Instant::now();
        let generation = self.next;
        self.next += 1;
        let mut checkpoint = log.begin(generation, self.parent)?;
        let (mut captured, mut pause) = self.stop_guest(PAUSE_PAGES_MAX, false)?;
        let mut rounds = 0;
        let (dirty, state) = loop {
            match captured {
                Captured::Complete { dirty, staging, state } => {
                    self.staging = staging;
                    break (dirty, state);
                }
                Captured::Held { dirty, state } => {
                    let begin = Instant::now();
                    taken.merge(&dirty);
                    self.write_pages(&dirty, &mut checkpoint)?;
                    self.parts.pause.release();
                    pause += begin.elapsed();
                    self.staging.clear();
                    break (DirtyPages::none(self.parts.ram.size()), state);
                }
                Captured::TooMany { dirty } => self.dirty = dirty,
                Captured::Failed { dirty, error } => {
                    self.dirty = dirty;
                    return Err(CheckpointError::Kvm(error));
                }
            }
            self.write_while_it_runs(&mut checkpoint, taken, &mut rounds)?;
            let (next, more) = self.stop_guest(PAUSE_PAGES_MAX, rounds >= ROUNDS_MAX)?;
            captured = next;
            pause += more;
        };
        let time = now();
        taken.merge(&dirty);
        let pages = compact(&dirty, &mut self.staging);
        let state = state.encode();
        let info = CommitInfo { time, epoch: self.epoch };
        let written = checkpoint.put_and_commit(&pages, &self.staging, &info, &state)?;
        self.generation = Some(generation);
        let parent = std::mem::replace(&mut self.parent, generation);
        Ok(Checkpointed {
            generation,
            parent,
            time,
            data_pages: written.data_pages,
            zero_pages: written.zero_pages,
            bytes: written.bytes,
            log_bytes: log.committed(),
            pause: nanoseconds(pause),
            total: nanoseconds(begin.elapsed()),
        })
    }

    /// Stops the guest for an instant; `self.dirty` goes with the order and comes back with the answer.
    fn stop_guest(&mut self, pages_max: u64, hold: bool) -> Result<(Captured, Duration), CheckpointError> {
        let dirty = std::mem::replace(&mut self.dirty, DirtyPages::none(self.parts.ram.size()));
        let mut staging = std::mem::take(&mut self.staging);
        // Touched now, so that the guest need not wait for it.
        staging.resize(STAGING_MIN, 0);
        let order = Order { dirty, staging, pages_max, hold };
        if let Err(order) = self.parts.pause.order(order) {
            self.dirty = order.dirty;
            return Err(CheckpointError::Over);
        }
        // It may be anywhere: in the guest, waiting, or on its way. An error means that it is gone; then nobody waits.
        let _ = self.parts.events.attention.write(1);
        let _ = self.parts.kick.interrupt(&self.parts.vcpu);
        self.parts.pause.wait().ok_or(CheckpointError::Over)
    }

    /// Writes what is dirty until it is little, or that does not help.
    fn write_while_it_runs(
        &mut self,
        checkpoint: &mut district_checkpoint::Checkpoint<'_, File>,
        taken: &mut DirtyPages,
        rounds: &mut u32,
    ) -> Result<(), CheckpointError> {
        while *rounds < ROUNDS_MAX && self.dirty.count() > PAUSE_PAGES_MAX / 2 {
            *rounds += 1;
            taken.merge(&self.dirty);
            let dirty = std::mem::replace(&mut self.dirty, DirtyPages::none(self.parts.ram.size()));
            self.write_pages(&dirty, checkpoint)?;
            self.collect()?;
        }
        Ok(())
    }

    /// Writes pages as they are now.
    fn write_pages(
        &mut self,
        dirty: &DirtyPages,
        checkpoint: &mut district_checkpoint::Checkpoint<'_, File>,
    ) -> Result<(), CheckpointError> {
        let mut pages = dirty.iter().peekable();
        let mut zeros = Vec::with_capacity(BATCH);
        let mut data = std::mem::take(&mut self.staging);
        while pages.peek().is_some() {
            data.clear();
            zeros.clear();
            for page in pages.by_ref().take(BATCH) {
                let start = data.len();
                let copied = self.parts.ram.append_page(dirty::address(page), &mut data);
                copied.map_err(|error| CheckpointError::Kvm(error.to_string()))?;
                let zero = is_zero(&data[start..]);
                data.truncate(if zero { start } else { start + PAGE });
                zeros.push((u64::from(page), zero));
            }
            checkpoint.put(&runs(zeros.iter().copied()).collect::<Vec<_>>(), &data)?;
        }
        self.staging = data;
        Ok(())
    }

    /// Adds to `self.dirty` what the guest has written to.
    fn collect(&mut self) -> Result<(), CheckpointError> {
        let size = usize::try_from(self.parts.ram.size()).unwrap_or(0);
        let log = self.parts.vm.get_dirty_log(RAM_SLOT, size);
        let log = log.map_err(|error| CheckpointError::Kvm(format!("kvm does not say what is dirty: {error}")))?;
        self.dirty.add_log(&log);
        self.dirty.remove(BOOT_PAGE);
        Ok(())
    }
}

/// Removes zero pages from `staging`, which has all of `dirty`, and says which are left.
fn compact(dirty: &DirtyPages, staging: &mut Vec<u8>) -> Vec<Run> {
    let mut kept = 0;
    let mut pages = Vec::new();
    for (page, at) in dirty.iter().zip((0..).step_by(PAGE)) {
        let zero = is_zero(&staging[at..at + PAGE]);
        if !zero {
            staging.copy_within(at..at + PAGE, kept);
            kept += PAGE;
        }
        pages.push((u64::from(page), zero));
    }
    staging.truncate(kept);
    runs(pages).collect()
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Realtime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
