//! Calls that wait for checkpoints. Each is answered by the first checkpoint of its district that began after the call
//! had been made, so that the memory in it has the call; calls that come while one is under way wait for the next.

use district_protocol::frame::CompletionHeader;
use district_protocol::status::{Argument, Status};

use super::Core;
use super::request::Request;
use crate::call::{CallId, Stage};
use crate::district::DistrictIx;
use crate::effect::{Data, DistrictId, Effect};
use crate::key::KeyId;

/// What asking for a checkpoint costs of the frames per second, whoever the holder asks it of: with the usual limit, some
/// two hundred a second.
const CHECKPOINT_FRAMES: u64 = 5_000;

/// Names one checkpoint while it is under way, from [`Core::checkpoint_begins`] to [`Core::checkpointed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointTicket {
    district: DistrictId,
    /// Calls with this number and lower ones are in it. As all districts count together, none of a later session is.
    last: u64,
}

/// Why a checkpoint that calls wait for does not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoCheckpoint {
    /// The district has no checkpoints. The calls end [`Status::Denied`].
    Never,
    /// It could not be taken or written, and the district goes on. The calls end [`Status::WouldBlock`].
    Failed,
}

impl NoCheckpoint {
    fn status(self) -> Status {
        match self {
            NoCheckpoint::Never => Status::Denied(Argument::OPERATION),
            NoCheckpoint::Failed => Status::WouldBlock,
        }
    }
}

/// What is known of one district's checkpoints, as far as calls wait for them.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    /// The shell has been asked for one that has not begun.
    asked: bool,
    /// Number of the last call that is in the newest one that has begun.
    begun: u64,
    /// Who waits, with the calls' numbers; oldest first.
    waiters: Vec<(u64, CallId)>,
}

impl Checkpoints {
    /// Whether one has begun that has the call with this number in it.
    pub(crate) fn has_begun(&self, number: u64) -> bool {
        number <= self.begun
    }

    pub(crate) fn forget(&mut self, call: CallId) {
        self.waiters.retain(|(_, waiter)| *waiter != call);
    }

    /// Whether this call waits.
    pub(crate) fn has(&self, call: CallId) -> bool {
        self.waiters.iter().any(|(_, waiter)| *waiter == call)
    }

    /// How many calls wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Whether all who wait are in a checkpoint that has begun or that the shell knows to begin.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.asked || self.waiters.iter().all(|(number, _)| self.has_begun(*number))
    }
}

impl Core {
    /// A checkpoint of a district begins, for calls or for any other reason: its guest has not been stopped for it yet,
    /// and all requests that the core was given so far are going to be in it. One of each district at a time.
    pub fn checkpoint_begins(&mut self, district: DistrictId) -> CheckpointTicket {
        let last = self.checkpoint_calls;
        if let Some(d) = self.attached(district) {
            let checkpoints = &mut self.districts[d].checkpoints;
            checkpoints.asked = false;
            checkpoints.begun = last;
        }
        CheckpointTicket { district, last }
    }

    /// A checkpoint is durable, and has this generation; or will not be. Ends the calls that are in it; those of another
    /// session than it was begun in have ended before.
    pub fn checkpointed(&mut self, now: u64, ticket: CheckpointTicket, result: Result<u64, NoCheckpoint>) {
        self.expire(now);
        let Some(d) = self.attached(ticket.district) else { return };
        let waiters = &mut self.districts[d].checkpoints.waiters;
        let later = waiters.partition_point(|(number, _)| *number <= ticket.last);
        let rest = waiters.split_off(later);
        let answered = std::mem::replace(waiters, rest);
        for (_, call) in answered {
            let call = self.close_call(call, false);
            let Some(caller) = call.caller else { continue };
            let header = match result {
                Ok(generation) => {
                    CompletionHeader { result: generation, ..CompletionHeader::new(Status::Ok, call.token) }
                }
                Err(why) => CompletionHeader::new(why.status(), call.token),
            };
            self.complete(caller, call.chain, header, Data::default());
        }
    }

    /// Lets a call wait for a checkpoint of `of`. There is room for it.
    pub(crate) fn await_checkpoint(&mut self, d: DistrictIx, of: DistrictIx, via: KeyId, request: &Request) {
        // It goes to a disk that others write to, too.
        let now = self.now;
        self.districts[d].bucket.charge(now, CHECKPOINT_FRAMES);
        self.checkpoint_calls += 1;
        let number = self.checkpoint_calls;
        let call = self.open_call(d, request, 0);
        self.suspend(call, via, Stage::Checkpoint { of, number });
        let district = &mut self.districts[of];
        district.checkpoints.waiters.push((number, call));
        if !std::mem::replace(&mut district.checkpoints.asked, true) && !district.closing {
            self.effects.push_back(Effect::Checkpoint(district.id));
        }
    }
}
