//! Messages on their way, and the queues in which a district finds them.

use std::collections::VecDeque;

use district_protocol::frame::KEYS_MAX;
use district_protocol::handle::Handle;
use district_protocol::rights::Rights;
use district_protocol::status::Reason;

use crate::call::CallId;
use crate::district::DistrictIx;
use crate::key::KeyId;
use crate::list::{Link, List};
use crate::object::ObjectId;
use crate::slab::Id;

/// Number of a message.
pub(crate) type MessageId = Id<Message>;

/// A key in a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Carried {
    /// The sender's key, or for a copy a child of it that nobody holds yet.
    pub key: KeyId,
    pub copy: bool,
    /// What the receiver's key keeps of its rights.
    pub mask: Rights,
}

/// A message that is queued.
#[derive(Debug, Default)]
pub(crate) struct Message {
    /// `None`: the slot is free.
    pub sender: Option<DistrictIx>,
    pub receiver: Option<DistrictIx>,
    pub via: Option<KeyId>,
    pub export: u64,
    pub badge: u64,
    pub operation: u64,
    /// The request's frame, header and data.
    pub frame: Vec<u8>,
    pub keys: [Option<Carried>; KEYS_MAX],
    pub call: Option<CallId>,
    /// Place among the messages through `via`.
    pub through: Link<Message>,
    /// Place in the receiver's queue for this sender.
    pub lane: Link<Message>,
}

impl Message {
    /// Handles that the receiver needs for it.
    pub(crate) fn handles(&self) -> u32 {
        let keys: u32 = self.keys.iter().flatten().map(|_| 1).sum();
        keys + u32::from(self.call.is_some())
    }

    /// What it counts against its sender's limit.
    pub(crate) fn cost(&self) -> u64 {
        self.frame.len() as u64 + crate::limits::Limits::MESSAGE_COST
    }
}

/// Something that the broker itself tells a district. How many there can be is bounded by what they are about: each
/// holds on to a watch, a handle or an export until it is delivered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Notice {
    Down { cookie: u64, reason: Reason },
    Cancelled { reply: Handle },
    Unreferenced(ObjectId),
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Notifiers,
    Sender(DistrictIx),
}

#[derive(Debug, Default)]
struct Lane {
    queue: List<Message>,
    in_turn: bool,
}

/// What waits for one district: notices first, because a `Down` comes before anything of the peer's next epoch; then one
/// item of each sender in turn, the notifiers together being one.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    pub notices: VecDeque<Notice>,
    pub notifiers: VecDeque<ObjectId>,
    /// By the sender's number.
    lanes: Vec<Lane>,
    turns: VecDeque<Source>,
    notifiers_in_turn: bool,
    /// Everything together.
    pub waiting: u32,
    /// Whether deliveries stand still until more serials are reserved.
    pub starved: bool,
}

impl Inbox {
    pub(crate) fn push_message(
        &mut self,
        messages: &mut crate::slab::Slab<Message>,
        sender: DistrictIx,
        message: MessageId,
    ) {
        if self.lanes.len() <= sender.index() {
            self.lanes.resize_with(sender.index() + 1, Lane::default);
        }
        let lane = &mut self.lanes[sender.index()];
        lane.queue.push(messages, message, |message| &mut message.lane);
        if !std::mem::replace(&mut lane.in_turn, true) {
            self.turns.push_back(Source::Sender(sender));
        }
    }

    pub(crate) fn remove_message(
        &mut self,
        messages: &mut crate::slab::Slab<Message>,
        sender: DistrictIx,
        message: MessageId,
    ) {
        self.lanes[sender.index()].queue.remove(messages, message, |message| &mut message.lane);
    }

    pub(crate) fn push_notifier(&mut self, object: ObjectId) {
        self.notifiers.push_back(object);
        if !std::mem::replace(&mut self.notifiers_in_turn, true) {
            self.turns.push_back(Source::Notifiers);
        }
    }

    /// The oldest message of a sender.
    pub(crate) fn first_of(&self, sender: DistrictIx) -> Option<MessageId> {
        self.lanes.get(sender.index())?.queue.first
    }

    /// Whose turn it is, if anybody but the notices waits.
    pub(crate) fn turn(&mut self) -> Option<Source> {
        while let Some(source) = self.turns.front().copied() {
            if self.has(source) {
                return Some(source);
            }
            self.turns.pop_front();
            self.set_in_turn(source, false);
        }
        None
    }

    /// Ends the turn of the source that [`Inbox::turn`] named.
    pub(crate) fn end_turn(&mut self) {
        let Some(source) = self.turns.pop_front() else { return };
        let again = self.has(source);
        self.set_in_turn(source, again);
        if again {
            self.turns.push_back(source);
        }
    }

    /// A sender is gone, its queue empty: its number may be somebody else's next.
    pub(crate) fn forget(&mut self, sender: DistrictIx) {
        if self.lanes.get(sender.index()).is_some_and(|lane| lane.in_turn) {
            self.turns.retain(|source| *source != Source::Sender(sender));
            self.set_in_turn(Source::Sender(sender), false);
        }
    }

    fn has(&self, source: Source) -> bool {
        match source {
            Source::Notifiers => !self.notifiers.is_empty(),
            Source::Sender(sender) => self.first_of(sender).is_some(),
        }
    }

    fn set_in_turn(&mut self, source: Source, value: bool) {
        match source {
            Source::Notifiers => self.notifiers_in_turn = value,
            Source::Sender(sender) => self.lanes[sender.index()].in_turn = value,
        }
    }
}
