//! Messages on their way out, and their outcomes.

use core::time::Duration;

use alloc::vec::Vec;

use district_protocol::frame::RequestKind;
use district_protocol::handle::Handle;
use district_protocol::rights::Rights;
use district_protocol::shim::NO_DEADLINE;
use district_protocol::status::Reason;

use crate::channel::{self, Completion, DEADLINE_GRACE, KeyName, Outgoing, Token};
use crate::{Error, Key, time};

/// Bytes that a reply may have where the caller says nothing else.
const REPLY_CAPACITY: u32 = 4096;

/// How a call ended that was answered.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The number that the other side answered with.
    pub result: u64,
    /// The data that came with it.
    pub data: Vec<u8>,
    /// The keys that came with it.
    pub keys: Vec<Key>,
}

impl Reply {
    /// The only key of the reply.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there are none or several.
    pub fn into_key(self) -> Result<Key, Error> {
        let [key] = <[Key; 1]>::try_from(self.keys).map_err(|_| Error::NotFound)?;
        Ok(key)
    }
}

impl From<Completion> for Reply {
    fn from(completion: Completion) -> Reply {
        let keys = Key::received_all(completion.keys, completion.connection);
        Reply { result: completion.result, data: completion.data, keys }
    }
}

/// A message that is being made: [`Key::call`], [`Key::send`], [`Key::notify`], [`Key::reply`]. Nothing is sent before
/// one of [`Self::wait`], [`Self::start`] and [`Self::detach`].
#[derive(Debug)]
#[must_use = "nothing is sent before `wait`, `start` or `detach`"]
pub struct Invocation<'a> {
    kind: RequestKind,
    /// `None`: an answer that nobody wants.
    target: Option<KeyName>,
    operation: u64,
    data: &'a [u8],
    keys: Vec<(KeyName, u32, bool)>,
    /// Keys that the program has given away, and the reply key.
    given: Vec<Key>,
    reply_capacity: u32,
    timeout: Option<Duration>,
}

impl<'a> Invocation<'a> {
    pub(crate) fn new(kind: RequestKind, target: Option<KeyName>, operation: u64, data: &'a [u8]) -> Self {
        let reply_capacity = if kind == RequestKind::Call { REPLY_CAPACITY } else { 0 };
        let (keys, given) = (Vec::new(), Vec::new());
        Invocation { kind, target, operation, data, keys, given, reply_capacity, timeout: None }
    }

    pub(crate) fn reply(key: Option<Key>, result: u64, data: &'a [u8]) -> Self {
        let mut invocation = Invocation::new(RequestKind::Reply, key.as_ref().map(Key::name), result, data);
        invocation.given.extend(key);
        invocation
    }

    /// Ends the call, if it has not ended by itself, this long after the broker has taken it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Passes a copy of this key on. Needs its rights `TRANSFER` and `DUPLICATE`.
    pub fn key(self, key: &Key) -> Self {
        self.key_with(key, Rights::ALL)
    }

    /// Passes a copy of this key on, with those of its rights that are among `rights`.
    pub fn key_with(mut self, key: &Key, rights: Rights) -> Self {
        self.keys.push((key.name(), rights.0, true));
        self
    }

    /// Gives this key away. If the message fails it is dropped. Needs its right `TRANSFER`.
    pub fn give(mut self, key: Key) -> Self {
        self.keys.push((key.name(), Rights::ALL.0, false));
        self.given.push(key);
        self
    }

    /// Makes room for this many bytes of reply data instead of 4,096.
    pub fn reply_capacity(mut self, bytes: u32) -> Self {
        self.reply_capacity = bytes;
        self
    }

    /// Sends the message and waits for the outcome.
    ///
    /// # Errors
    /// Any. Without a timeout a call lasts as long as its target likes.
    pub fn wait(self) -> Result<Reply, Error> {
        let deadline = self.deadline();
        self.submit(true, Some(deadline))?.wait()
    }

    /// Sends the message; the outcome is the ticket's.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] if there is no room for another message just now, and whatever is known at once.
    pub fn start(self) -> Result<Ticket, Error> {
        self.submit(true, None)
    }

    /// Sends the message, waiting at most for room to do it, and does not care for the outcome.
    ///
    /// # Errors
    /// What is known at once.
    pub fn detach(self) -> Result<(), Error> {
        let deadline = self.deadline();
        self.submit(false, Some(deadline)).map(drop)
    }

    fn deadline(&self) -> u64 {
        self.timeout.map_or(NO_DEADLINE, |timeout| time::deadline(timeout).saturating_add(DEADLINE_GRACE))
    }

    fn submit(self, wanted: bool, until: Option<u64>) -> Result<Ticket, Error> {
        let deadline = self.deadline();
        if self.target.is_none() {
            return Ok(Ticket { state: State::Nothing, deadline });
        }
        let outgoing = Outgoing {
            operation: self.operation,
            timeout: self.timeout,
            data: self.data,
            keys: &self.keys,
            reply_capacity: self.reply_capacity,
            wanted,
            ..Outgoing::new(self.kind, self.target)
        };
        let mut given: Vec<Handle> = self.given.iter().map(Key::handle).collect();
        let token = channel::with(|channel| channel.submit(&outgoing, &mut given, until))?;
        // They are the request's now.
        self.given.into_iter().for_each(|key| _ = key.into_name());
        let state = if wanted { State::UnderWay(token) } else { State::Nothing };
        Ok(Ticket { state, deadline })
    }
}

/// Names a request that was started, to recognise it in [`crate::Event::Finished`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TicketId(pub(crate) u64);

/// Entitles to the outcome of one message. Dropping it means that nobody cares for the outcome; the message goes on.
#[derive(Debug)]
pub struct Ticket {
    state: State,
    deadline: u64,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// There is nothing to wait for: an answer that nobody wants.
    Nothing,
    UnderWay(Token),
    /// The outcome has been handed out.
    Spent,
}

impl Ticket {
    /// This ticket's name.
    pub fn id(&self) -> TicketId {
        match self.state {
            State::UnderWay(token) => TicketId(token.0),
            State::Nothing | State::Spent => TicketId(0),
        }
    }

    /// Waits for the outcome.
    ///
    /// # Errors
    /// Any. If the broker itself does not end the call by its deadline, [`Error::Unknown`]. If [`Self::poll`] has given
    /// the outcome before, [`Error::Broken`].
    pub fn wait(mut self) -> Result<Reply, Error> {
        let token = match self.state {
            State::Nothing => return Ok(Reply::default()),
            State::Spent => return Err(Error::Broken(Reason::Used)),
            State::UnderWay(token) => token,
        };
        let outcome = channel::with(|channel| channel.wait_for(token, self.deadline));
        // Without an outcome the ticket's end makes sure that a late one is thrown away.
        let outcome = outcome.ok_or(Error::Unknown(Reason::Deadline))?;
        self.state = State::Spent;
        outcome.map(Reply::from)
    }

    /// The outcome if it is there; it is handed out once.
    pub fn poll(&mut self) -> Option<Result<Reply, Error>> {
        let outcome = match self.state {
            State::Nothing => Ok(Reply::default()),
            State::Spent => return None,
            State::UnderWay(token) => channel::with(|channel| channel.poll(token))?.map(Reply::from),
        };
        self.state = State::Spent;
        Some(outcome)
    }

    /// Asks the broker to end the call. Its outcome then is [`Error::NotDelivered`] or [`Error::Unknown`], unless it
    /// has ended before.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] if there is no room to ask just now.
    pub fn cancel(&self) -> Result<(), Error> {
        let State::UnderWay(token) = self.state else { return Ok(()) };
        let outgoing = Outgoing { argument: token.0, wanted: false, ..Outgoing::new(RequestKind::Cancel, None) };
        channel::with(|channel| channel.submit(&outgoing, &mut Vec::new(), None)).map(drop)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let State::UnderWay(token) = self.state {
            channel::with(|channel| channel.forget(token));
        }
    }
}
