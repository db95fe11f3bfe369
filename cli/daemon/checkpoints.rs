//! Checkpoints of districts that run: asking for them, and what their vmm processes say of them.

use district_broker::{DistrictId, NoCheckpoint};
use district_checkpoint::Depth;
use district_vmm::control::Checkpointed;

use super::event_loop::EventLoop;
use super::jobs;
use super::memory;
use crate::api::command::Reply;
use crate::api::event::{Event, EventKind, now_ms};
use crate::api::info::CheckpointInfo;
use crate::api::name::Name;
use crate::api::refusal::{Refusal, RefusalKind};

/// How long nothing is said of failures after one that was told of: nanoseconds.
const TELL_AGAIN: u64 = 10_000_000_000;

/// What is done when a checkpoint that holds everything up to now is durable, with its generation; or why there is none.
pub type WhenTaken = Box<dyn FnOnce(&mut EventLoop, usize, Result<u64, String>)>;

/// Requests for checkpoints of one life.
pub struct Requests {
    /// Number of the last one. They begin with the time, so that no answer to an earlier daemon's is taken for one to
    /// this one's.
    last: u64,
    /// How many there were.
    pub count: u64,
    waiting: Vec<(u64, WhenTaken)>,
    /// Those for which there is no log to write to yet.
    for_log: Vec<WhenTaken>,
}

impl Requests {
    /// Whether any waits for a log.
    pub fn wait_for_log(&self) -> bool {
        !self.for_log.is_empty()
    }

    /// Those that do, which wait no longer.
    pub fn take_waiting_for_log(&mut self) -> Vec<WhenTaken> {
        std::mem::take(&mut self.for_log)
    }
}

impl Default for Requests {
    fn default() -> Requests {
        Requests { last: now_ms().saturating_mul(1_000_000), count: 0, waiting: Vec::new(), for_log: Vec::new() }
    }
}

/// Why somebody who needs a checkpoint of a district gets none.
pub fn no_checkpoint(name: &Name, error: &str) -> Refusal {
    Refusal::new(RefusalKind::Conflict, format!("no checkpoint of district `{name}`: {error}"))
        .remedy("see `district ps`, and `checkpoints` in its manifest")
}

fn info(taken: &Checkpointed, epoch: u64) -> CheckpointInfo {
    CheckpointInfo {
        generation: taken.generation,
        parent: taken.parent,
        epoch,
        time_ms: taken.time / 1_000_000,
        data_pages: taken.data_pages,
        zero_pages: taken.zero_pages,
        bytes: taken.bytes,
        restorable: true,
        obstacle: None,
        pause_us: Some(taken.pause / 1000),
        total_us: Some(taken.total / 1000),
    }
}

impl EventLoop {
    /// Has a checkpoint taken, and `then` done.
    pub fn take_checkpoint(&mut self, slot: usize, then: WhenTaken) {
        let district = &mut self.slots[slot];
        let refused = match &mut district.life {
            None => Some("it is not running"),
            Some(_) if district.record.spec.checkpoints.is_none() => Some("no checkpoints are taken of it"),
            Some(life) if life.report.is_some() || life.killed.is_some() => Some("its life is over"),
            Some(life) if life.lacks_log => {
                life.requests.for_log.push(then);
                return self.next_segment(slot);
            }
            Some(life) => {
                life.requests.last += 1;
                life.requests.count += 1;
                match life.control.checkpoint(life.requests.last) {
                    Ok(()) => {
                        life.requests.waiting.push((life.requests.last, then));
                        return;
                    }
                    Err(_) => Some("its vmm process does not listen"),
                }
            }
        };
        then(self, slot, Err(refused.unwrap_or_default().to_owned()));
    }

    /// Takes a checkpoint because the district's program has asked for it.
    pub fn checkpoint_for_guest(&mut self, district: DistrictId) {
        let ticket = self.core.checkpoint_begins(district);
        let Some(slot) = self.slot_of(district).filter(|slot| self.slots[*slot].record.spec.checkpoints.is_some())
        else {
            return self.core.checkpointed(self.now, ticket, Err(NoCheckpoint::Never));
        };
        self.take_checkpoint(
            slot,
            Box::new(move |event_loop, _, taken| {
                event_loop.core.checkpointed(event_loop.now, ticket, taken.map_err(|_| NoCheckpoint::Failed));
                event_loop.carry_out();
            }),
        );
    }

    /// A checkpoint is durable.
    pub fn checkpointed(&mut self, slot: usize, covers: u64, checkpoint: Checkpointed) {
        let district = &mut self.slots[slot];
        district.memory.note(checkpoint);
        if district.record.pinned.take().is_some() {
            self.save(slot);
        }
        let Some(life) = &mut self.slots[slot].life else { return };
        let (first, number) = (life.segments == 0 && life.taken == 0, life.number);
        life.taken += 1;
        life.failure_told = None;
        if EventLoop::is_full(checkpoint.log_bytes) {
            self.next_segment(slot);
        } else if first && life.generation != 0 {
            // What earlier lives have left in the log is not needed for long.
            self.migrate(slot);
        }
        self.covered(slot, number, covers, &Ok(checkpoint.generation));
    }

    /// Tells all requests up to `covers`.
    pub fn covered(&mut self, slot: usize, number: u64, covers: u64, result: &Result<u64, String>) {
        let Some(life) = &mut self.slots[slot].life else { return };
        let waiting = std::mem::take(&mut life.requests.waiting);
        let (done, waiting) = waiting.into_iter().partition(|(request, _)| *request <= covers);
        life.requests.waiting = waiting;
        self.tell_all(slot, number, done, result);
    }

    /// Tells these requests, if the life that they are of is not over.
    pub fn tell_all(&mut self, slot: usize, number: u64, done: Vec<(u64, WhenTaken)>, result: &Result<u64, String>) {
        for (_, then) in done {
            // Each may end the district.
            if !self.slots.contains(slot) || self.slots[slot].life.as_ref().is_none_or(|life| life.number != number) {
                return;
            }
            then(self, slot, result.clone());
        }
    }

    /// No checkpoint will be taken of this life any more. To be called while it still is the district's.
    pub fn no_more_checkpoints(&mut self, slot: usize) {
        let Some(life) = &mut self.slots[slot].life else { return };
        let number = life.number;
        let for_log = life.requests.take_waiting_for_log().into_iter().map(|then| (0, then));
        let waiting = std::mem::take(&mut life.requests.waiting).into_iter().chain(for_log).collect();
        self.tell_all(slot, number, waiting, &Err("its life is over".to_owned()));
    }

    /// There is no checkpoint.
    pub fn not_checkpointed(&mut self, slot: usize, covers: u64, error: String, needs_log: bool) {
        let error = super::logs::escape(&error);
        self.checkpoint_failed(slot, &error);
        if needs_log {
            if let Some(life) = &mut self.slots[slot].life {
                life.lacks_log = true;
            }
            self.next_segment(slot);
        }
        if let Some(life) = &self.slots[slot].life {
            let number = life.number;
            self.covered(slot, number, covers, &Err(error));
        }
    }

    /// Says that there is no checkpoint: at once, and of one that goes on failing now and then.
    pub fn checkpoint_failed(&mut self, slot: usize, error: &str) {
        let now = self.now;
        let district = &mut self.slots[slot];
        let told = district.life.as_mut().and_then(|life| {
            let told = life.failure_told.filter(|told| now.saturating_sub(*told) < TELL_AGAIN);
            life.failure_told = told.or(Some(now));
            told
        });
        if told.is_some() {
            return;
        }
        log::warn!("district {}: no checkpoint: {error}", district.name);
        let text = format!("no checkpoint, it goes on: {error}");
        let event =
            Event::now(EventKind::CheckpointFailed, district.name.clone(), district.epoch, district.state, text);
        self.publish(&event);
    }

    /// Takes a checkpoint because somebody asks for it.
    pub fn checkpoint_by_request(&mut self, slot: usize, reply: Reply<CheckpointInfo>) {
        self.take_checkpoint(
            slot,
            Box::new(|event_loop, slot, taken| {
                let district = &event_loop.slots[slot];
                let name = &district.name;
                let answer = taken.map_err(|error| no_checkpoint(name, &error));
                let found = |generation| district.memory.taken.iter().rev().find(|it| it.generation == generation);
                reply.send(answer.map(|generation| match found(generation) {
                    Some(taken) => info(taken, district.epoch),
                    // It was taken before this daemon came, and nothing has happened since.
                    None => CheckpointInfo { generation, epoch: district.epoch, ..CheckpointInfo::default() },
                }));
            }),
        );
    }

    /// Answers which checkpoints a district has.
    pub fn list_checkpoints(&mut self, slot: usize, reply: Reply<Vec<CheckpointInfo>>) {
        let district = &self.slots[slot];
        let (state, id, size) = (self.host.directory.path().to_owned(), district.id, district.record.spec.memory);
        let files = district.memory.files.clone();
        let taken: Vec<_> = district.memory.taken.iter().copied().collect();
        self.files_job(reply, move |_| {
            let _lock = jobs::lock(&files);
            let path = memory::directory(&state, id);
            if !path.exists() {
                return Ok(Vec::new());
            }
            let lineage = memory::lineage(&state, id, size, Depth::Heads)?;
            let image = lineage.image().map_or(0, |image| image.stamp.generation);
            let obstacle = |found: &district_checkpoint::GenerationInfo| match found.stamp.generation {
                _ if found.restorable => None,
                _ if !found.intact => Some("damaged"),
                generation if generation < image => Some("older than the image of the memory"),
                _ => Some("it builds on one that is missing or damaged"),
            };
            let info = |found: &district_checkpoint::GenerationInfo| {
                let cost = taken.iter().find(|cost| cost.generation == found.stamp.generation);
                CheckpointInfo {
                    generation: found.stamp.generation,
                    parent: found.stamp.parent,
                    epoch: found.stamp.epoch,
                    time_ms: found.stamp.time / 1_000_000,
                    data_pages: found.data_pages,
                    zero_pages: found.zero_pages,
                    bytes: found.bytes,
                    restorable: found.restorable,
                    obstacle: obstacle(found).map(str::to_owned),
                    pause_us: cost.map(|cost| cost.pause / 1000),
                    total_us: cost.map(|cost| cost.total / 1000),
                }
            };
            Ok(lineage.generations().iter().map(info).collect())
        });
    }
}
