//! Serving: objects that this district offers to others, and everything that arrives unasked.

use core::cell::RefCell;
use core::time::Duration;

use alloc::vec::Vec;

use district_protocol::frame::{DeliveryHeader, DeliveryKind, RequestKind};
use district_protocol::handle::Handle;
use district_protocol::shim::NO_DEADLINE;
use district_protocol::status::Reason;

use crate::boot::Connection;
use crate::channel::{self, Delivery, News, Outgoing};
use crate::{Directory, Error, Invocation, Key, TicketId, key, time};

/// Makes an object that this district serves, and the first key to it. `name` comes with every message to it.
///
/// # Errors
/// [`Error::Quota`].
pub fn export(name: u64) -> Result<Key, Error> {
    make(RequestKind::Export, name)
}

/// Makes an object that collects notifications, and the first key to it. `name` comes with every notification.
///
/// # Errors
/// [`Error::Quota`].
pub fn notifier(name: u64) -> Result<Key, Error> {
    make(RequestKind::Notifier, name)
}

/// Makes an object and publishes a key to it, as often as the connection ends while it does: `publish("counter", 0)`.
/// The key that it returns is the district's own.
///
/// # Errors
/// Those of [`export`] and [`Directory::publish`].
pub fn publish(name: &str, object: u64) -> Result<Key, Error> {
    loop {
        let published = export(object).and_then(|key| Directory::bootstrap().publish(name, &key).map(|_| key));
        match published {
            Err(error) if error.connection_lost() => {}
            published => return published,
        }
    }
}

fn make(kind: RequestKind, name: u64) -> Result<Key, Error> {
    let made = key::manage(&Outgoing { argument: name, ..Outgoing::new(kind, None) })?;
    Ok(Key::received(Handle(made.result), made.connection))
}

/// What a district can be told.
#[derive(Debug)]
pub enum Event {
    /// A message to an object that this district exports.
    Message(Message),
    /// Bits that were set at a notifier since the last time.
    Notification {
        /// The notifier's name.
        notifier: u64,
        /// The bits.
        bits: u64,
    },
    /// A watched key broke.
    Down {
        /// What [`Key::watch`] was given.
        cookie: u64,
        /// Why.
        reason: Option<Reason>,
    },
    /// The caller of a message gave up: the message with this [`Message::reply_handle`] needs no answer any more.
    Cancelled {
        /// The reply key, now of no use.
        reply: Handle,
    },
    /// Nobody holds a key to this object any more.
    Unreferenced {
        /// The object's name.
        export: u64,
    },
    /// A request that was started and not waited for has its outcome: [`crate::Ticket::poll`].
    Finished(TicketId),
    /// All keys but the bootstrap key are broken, and all exports gone, because the district was restored or the
    /// broker replaced. Whoever serves exports and publishes again.
    Lost(Reason),
}

/// A message that arrived. Dropping it without an answer tells the caller that there will be none.
#[derive(Debug)]
pub struct Message {
    /// The object that it is for, by the name that [`export`] was given.
    pub export: u64,
    /// The badge of the key that it came through; 0: none.
    pub badge: u64,
    /// What is asked.
    pub operation: u64,
    /// The data.
    pub data: Vec<u8>,
    /// The keys.
    pub keys: Vec<Key>,
    /// Most bytes of data that an answer can have.
    pub reply_capacity: u32,
    reply: RefCell<Answer>,
}

#[derive(Debug, Default)]
enum Answer {
    /// The sender wants none.
    Unwanted,
    /// With this key.
    Due(Key),
    /// Given, or the key for it taken.
    #[default]
    Spent,
}

impl Message {
    fn new(connection: Connection, header: &DeliveryHeader, data: Vec<u8>) -> Message {
        let due = || Answer::Due(Key::received(header.reply, connection));
        let answer = if header.reply.0 == 0 { Answer::Unwanted } else { due() };
        let keys = header.keys.iter().take(usize::from(header.key_count)).copied();
        Message {
            export: header.export,
            badge: header.badge,
            operation: header.operation,
            data,
            keys: Key::received_all(keys, connection),
            reply_capacity: header.reply_capacity,
            reply: RefCell::new(answer),
        }
    }

    /// Answers, without waiting. If nobody wants an answer, it does nothing.
    ///
    /// # Errors
    /// [`Error::Broken`] if the message was answered before, or its connection has ended; what is known at once.
    pub fn reply(&self, result: u64, data: &[u8]) -> Result<(), Error> {
        self.answer(result, data)?.detach()
    }

    /// An answer to be completed, for instance with keys.
    ///
    /// # Errors
    /// [`Error::Broken`] if the message was answered before.
    pub fn answer<'a>(&self, result: u64, data: &'a [u8]) -> Result<Invocation<'a>, Error> {
        let key = match self.reply.take() {
            Answer::Due(key) => Some(key),
            Answer::Spent => return Err(Error::Broken(Reason::Used)),
            Answer::Unwanted => {
                self.reply.replace(Answer::Unwanted);
                None
            }
        };
        Ok(Invocation::reply(key, result, data))
    }

    /// The key that answers this message, to be passed on or used later.
    pub fn take_reply_key(&self) -> Option<Key> {
        match self.reply.take() {
            Answer::Due(key) => Some(key),
            other => {
                self.reply.replace(other);
                None
            }
        }
    }

    /// The handle of the reply key, as long as the message has it.
    pub fn reply_handle(&self) -> Option<Handle> {
        if let Answer::Due(key) = &*self.reply.borrow() { Some(key.handle()) } else { None }
    }
}

/// Waits for the next event, for ever or for `timeout`.
pub fn next_event(timeout: Option<Duration>) -> Option<Event> {
    let deadline = timeout.map_or(NO_DEADLINE, time::deadline);
    let news = channel::with(|channel| channel.next(deadline))?;
    Some(match news {
        News::Lost(reason) => Event::Lost(reason),
        News::Finished(token) => Event::Finished(TicketId(token.0)),
        News::Delivery(Delivery { connection, header, data }) => match header.kind {
            DeliveryKind::Message => Event::Message(Message::new(connection, &header, data)),
            DeliveryKind::Notification => Event::Notification { notifier: header.export, bits: header.operation },
            DeliveryKind::Down => {
                let reason = u16::try_from(header.operation).ok().and_then(Reason::from_raw);
                Event::Down { cookie: header.badge, reason }
            }
            DeliveryKind::Cancelled => Event::Cancelled { reply: header.reply },
            DeliveryKind::Unreferenced => Event::Unreferenced { export: header.export },
        },
    })
}
