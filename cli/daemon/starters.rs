//! Whoever waits for districts to begin: for a job that reads a log, and until their epochs are durable.

use super::event_loop::EventLoop;
use super::requests::not_started;
use crate::api::command::Reply;
use crate::api::info::DistrictInfo;
use crate::api::refusal::{Refusal, RefusalKind};

/// Somebody who has asked for a start of these districts.
pub struct Starter {
    slots: Vec<usize>,
    /// Why the first of them that cannot begin cannot.
    error: Option<Refusal>,
    reply: StarterReply,
}

/// How to tell him.
pub enum StarterReply {
    One(Reply<DistrictInfo>),
    All(Reply<Vec<DistrictInfo>>),
}

impl EventLoop {
    /// Answers when none of these districts is beginning any more: now, if none is.
    pub fn answer_when_begun(&mut self, slots: Vec<usize>, reply: StarterReply) {
        self.starters.push(Starter { slots, error: None, reply });
        self.answer_starters();
    }

    /// A start has failed.
    pub fn tell_starters(&mut self, slot: usize, error: &anyhow::Error) {
        let name = &self.slots[slot].name;
        for starter in self.starters.iter_mut().filter(|starter| starter.slots.contains(&slot)) {
            starter.error.get_or_insert_with(|| not_started(name, error));
        }
    }

    /// Answers all whose districts have begun, or have not and never will.
    pub fn answer_starters(&mut self) {
        let is_over = |slot: &usize| !self.slots.contains(*slot) || !self.slots[*slot].is_beginning();
        for starter in self.starters.extract_if(.., |starter| starter.slots.iter().all(is_over)) {
            let known = starter.slots.iter().filter(|slot| self.slots.contains(**slot));
            let mut infos = known.map(|slot| self.slots[*slot].info(self.now));
            match (starter.reply, starter.error) {
                (StarterReply::One(reply), Some(error)) => reply.send(Err(error)),
                (StarterReply::All(reply), Some(error)) => reply.send(Err(error)),
                (StarterReply::One(reply), None) => {
                    let gone =
                        || Refusal::new(RefusalKind::NotFound, "the district is gone").remedy("see `district ps`");
                    reply.send(infos.next().ok_or_else(gone));
                }
                (StarterReply::All(reply), None) => reply.send(Ok(infos.collect())),
            }
        }
    }
}
