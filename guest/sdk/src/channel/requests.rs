//! Requests under way: each is a chain of two descriptors over one piece of the window, the request and then room for
//! its completion.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;

use district_protocol::channel::REQUEST_QUEUE;
use district_protocol::frame::{
    COMPLETION_HEADER, CompletionHeader, DATA_MAX, KEYS_MAX, REQUEST_HEADER, RequestHeader, RequestKind,
};
use district_protocol::handle::Handle;

use super::ring::{NEXT, Ring, WRITE};
use super::space::Space;
use super::window::Window;
use super::{HostFault, device};
use crate::Error;
use crate::boot::{self, Connection};

/// Bytes of the window that calls leave to everything else. A call may last as long as its server likes; replies and
/// other requests complete by themselves, so with room kept for the biggest of them, one always gets through.
const KEPT_FROM_CALLS: u64 = (REQUEST_HEADER + DATA_MAX + COMPLETION_HEADER) as u64;
/// One in this many places in the queue is kept likewise.
const KEPT_PLACES: usize = 8;

/// The guest's own name for a request: a serial, never used again, and the request's place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Token(pub(crate) u64);

const PLACE_BITS: u32 = 16;

impl Token {
    fn place(self) -> usize {
        usize::from(u16::try_from(self.0 & 0xffff).unwrap_or(0))
    }
}

/// What a request ended with, when it ended well.
#[derive(Debug)]
pub(crate) struct Completion {
    /// The connection that it came on, to which all handles in it belong.
    pub(crate) connection: Connection,
    /// The reply's result, a new handle, or what the operation says.
    pub(crate) result: u64,
    /// The reply's data.
    pub(crate) data: Vec<u8>,
    /// Handles of the keys that came with it.
    pub(crate) keys: Vec<Handle>,
}

#[derive(Debug)]
struct UnderWay {
    token: Token,
    offset: u64,
    bytes: u64,
    answer: u64,
    capacity: u32,
    is_call: bool,
    wanted: bool,
    given: Vec<Handle>,
}

#[derive(Debug)]
struct Finished {
    outcome: Result<Completion, Error>,
    announced: bool,
}

/// A request to submit.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    /// The header; token and data length are filled in later.
    pub(super) header: RequestHeader,
    /// The data, at most [`DATA_MAX`] bytes.
    pub(super) data: &'a [u8],
    /// Most bytes of data that the completion may have.
    pub(super) capacity: u32,
    /// Whether somebody will ask for the outcome.
    pub(super) wanted: bool,
}

impl Draft<'_> {
    fn answer_at(&self) -> u64 {
        // Completions begin at a multiple of 64.
        (REQUEST_HEADER + self.data.len()).next_multiple_of(64) as u64
    }

    fn bytes(&self) -> u64 {
        self.answer_at() + COMPLETION_HEADER as u64 + u64::from(self.capacity)
    }
}

/// All requests under way, and the outcomes that have not been asked for yet.
#[derive(Debug)]
pub(super) struct Requests {
    ring: Ring,
    space: Space,
    places: Vec<Option<UnderWay>>,
    free: Vec<u16>,
    finished: BTreeMap<Token, Finished>,
    unannounced: usize,
    serial: u64,
}

impl Requests {
    /// An empty table for this ring, with `space` of the window for frames.
    pub(super) fn new(ring: Ring, space: Range<u64>) -> Self {
        let places = ring.size() / 2;
        Requests {
            ring,
            space: Space::new(space),
            places: (0..places).map(|_| None).collect(),
            free: (0..places).rev().collect(),
            finished: BTreeMap::new(),
            unannounced: 0,
            serial: 1,
        }
    }

    /// The ring, for the device.
    pub(super) fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Goes on with a new ring and space after the connection has ended: everything under way has ended with `error`.
    pub(super) fn restart(&mut self, ring: Ring, space: Range<u64>, error: Error) {
        let fresh = Requests::new(ring, space);
        let old = core::mem::replace(self, fresh);
        self.finished = old.finished;
        self.unannounced = old.unannounced;
        self.serial = old.serial;
        for request in old.places.into_iter().flatten().filter(|request| request.wanted) {
            self.finish(request.token, Err(error));
        }
    }

    /// Whether `draft` can ever be submitted.
    pub(super) fn fits(&self, draft: &Draft<'_>) -> bool {
        draft.bytes() + self.kept_bytes(draft.header.kind) <= self.space.bytes()
    }

    fn kept_bytes(&self, kind: RequestKind) -> u64 {
        if kind == RequestKind::Call { KEPT_FROM_CALLS.min(self.space.bytes() / 4) } else { 0 }
    }

    fn has_room(&self, draft: &Draft<'_>) -> bool {
        let kind = draft.header.kind;
        let kept_places = if kind == RequestKind::Call { self.places.len() / KEPT_PLACES } else { 0 };
        self.free.len() > kept_places && self.space.free_bytes() >= draft.bytes() + self.kept_bytes(kind)
    }

    /// Sends `draft`, and with it takes charge of the handles in `given`: keys that the program has given away and that
    /// must be dropped if the request fails. Returns `None` if there is no room now.
    pub(super) fn submit(&mut self, window: &Window, draft: &Draft<'_>, given: &mut Vec<Handle>) -> Option<Token> {
        if !self.has_room(draft) {
            return None;
        }
        let offset = self.space.allocate(draft.bytes())?;
        let place = self.free.pop()?;
        let token = Token(self.serial << PLACE_BITS | u64::from(place));
        self.serial += 1;
        #[allow(clippy::cast_possible_truncation)] // at most DATA_MAX
        let data_len = draft.data.len() as u32;
        let header = RequestHeader { token: token.0, data_len, ..draft.header };
        window.write(offset, &header.encode());
        window.write(offset + REQUEST_HEADER as u64, draft.data);
        let answer = offset + draft.answer_at();
        let (head, tail) = (2 * place, 2 * place + 1);
        #[allow(clippy::cast_possible_truncation)] // 128 and 64
        let (request, completion) = (REQUEST_HEADER as u32, COMPLETION_HEADER as u32);
        self.ring.describe(window, head, window.address(offset), request + data_len, NEXT, tail);
        self.ring.describe(window, tail, window.address(answer), completion + draft.capacity, WRITE, 0);
        self.places[usize::from(place)] = Some(UnderWay {
            token,
            offset,
            bytes: draft.bytes(),
            answer,
            capacity: draft.capacity,
            is_call: header.kind == RequestKind::Call,
            wanted: draft.wanted,
            given: core::mem::take(given),
        });
        self.ring.offer(window, head);
        if self.ring.publish(window) {
            device::ring_doorbell(REQUEST_QUEUE);
        }
        Some(token)
    }

    /// Takes in all completions that are there, as long as the connection is this one. Handles that nobody will ever
    /// ask for go to `unwanted`.
    pub(super) fn collect(
        &mut self,
        window: &Window,
        connection: Connection,
        unwanted: &mut Vec<Handle>,
    ) -> Result<(), HostFault> {
        for _ in 0..self.ring.returned(window)? {
            let (head, len) = self.ring.peek(window, 0);
            let place = usize::try_from(head / 2).map_err(|_| HostFault("used ring names no request"))?;
            let Some(Some(request)) = self.places.get(place).filter(|_| head % 2 == 0) else {
                return Err(HostFault("used ring names no request"));
            };
            let (header, completion) = read_completion(window, connection, request, len)?;
            // Only now is it known to have been read whole. Whatever happens from here on, the request has this outcome.
            if boot::connection() != connection {
                return Ok(());
            }
            self.ring.take(1);
            let Some(request) = self.places[place].take() else { continue };
            self.space.release(request.offset, request.bytes);
            self.free.push(u16::try_from(place).unwrap_or(0));
            let outcome = Error::check(header.status).map(|()| completion);
            if outcome.is_err() {
                unwanted.extend(request.given);
            }
            match outcome {
                outcome if request.wanted => self.finish(request.token, outcome),
                Ok(completion) => unwanted.extend(completion.keys),
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn finish(&mut self, token: Token, outcome: Result<Completion, Error>) {
        self.finished.insert(token, Finished { outcome, announced: false });
        self.unannounced += 1;
    }

    /// The outcome of a request, if it is there; it is handed out once.
    pub(super) fn outcome(&mut self, token: Token) -> Option<Result<Completion, Error>> {
        let finished = self.finished.remove(&token)?;
        self.unannounced -= usize::from(!finished.announced);
        Some(finished.outcome)
    }

    /// A request whose outcome is there and has not been named by this before.
    pub(super) fn announce(&mut self) -> Option<Token> {
        if self.unannounced == 0 {
            return None;
        }
        let (&token, finished) = self.finished.iter_mut().find(|(_, finished)| !finished.announced)?;
        finished.announced = true;
        self.unannounced -= 1;
        Some(token)
    }

    /// Nobody will ask for this outcome any more. Returns it if it is there: keys may have come with it.
    pub(super) fn forget(&mut self, token: Token) -> Option<Completion> {
        match self.places.get_mut(token.place()) {
            Some(Some(request)) if request.token == token => request.wanted = false,
            _ => {}
        }
        self.outcome(token)?.ok()
    }

    /// Whether only calls are under way: the broker has taken everything else.
    pub(super) fn is_settled(&self) -> bool {
        self.places.iter().flatten().all(|request| request.is_call)
    }

    /// Whether there are completions to collect.
    pub(super) fn has_news(&self, window: &Window) -> Result<bool, HostFault> {
        Ok(self.ring.returned(window)? > 0)
    }

    /// Asks for a wake-up at the next completion; with `only_wanted`, only if somebody is going to ask for one that is
    /// under way. The rest is taken in at the next occasion: a server need not run again because its reply has left.
    pub(super) fn arm(&self, window: &Window, only_wanted: bool) {
        if only_wanted && !self.places.iter().flatten().any(|request| request.wanted) {
            self.ring.let_sleep(window);
        } else {
            self.ring.wake_at(window, 1);
        }
    }
}

fn read_completion(
    window: &Window,
    connection: Connection,
    request: &UnderWay,
    len: u32,
) -> Result<(CompletionHeader, Completion), HostFault> {
    let header = CompletionHeader::decode(&window.read::<COMPLETION_HEADER>(request.answer))
        .map_err(|_| HostFault("a completion cannot be decoded"))?;
    if header.token != request.token.0 {
        return Err(HostFault("a completion has another request's token"));
    }
    if header.data_len > request.capacity || u64::from(len) < COMPLETION_HEADER as u64 + u64::from(header.data_len) {
        return Err(HostFault("a completion is longer than its buffer or than what was written"));
    }
    let mut data = Vec::new();
    window.read_into(request.answer + COMPLETION_HEADER as u64, header.data_len as usize, &mut data);
    let keys = header.keys[..usize::from(header.key_count).min(KEYS_MAX)].to_vec();
    Ok((header, Completion { connection, result: header.result, data, keys }))
}
