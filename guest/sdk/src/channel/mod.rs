//! The district's one connection to everything else (`docs/abi.md`, sections 5 and 6).
//!
//! What belongs to one connection (queues, requests under way, keys) is worthless on the next. Connections end without
//! warning, also between two instructions of this very code, and then everything read from the window is suspect. So
//! after each look into the window the connection is compared with the one that the boot page names; if it has changed,
//! whatever was read is forgotten. What was read whole before that stays true, but the handles in it do not: they carry
//! the connection that they came on (`KeyName`), and go out on no other. Only on the same connection is a broken rule the host's fault.

mod deliveries;
mod device;
mod outgoing;
mod place;
mod requests;
mod ring;
mod space;
#[cfg(test)]
mod tests;
mod window;

use alloc::vec::Vec;
use core::time::Duration;

use district_protocol::channel::{QUEUE_SIZE_MAX, WINDOW_HEADER_SIZE};
use district_protocol::frame::{DATA_MAX, RequestHeader, RequestKind};
use district_protocol::handle::Handle;
use district_protocol::shim::NO_DEADLINE;
use district_protocol::status::Reason;

use crate::boot::{self, Connection};
use crate::log::LogKey;
use crate::{Error, machine, restart, time};
pub(crate) use deliveries::Delivery;
use deliveries::{BUFFER, BUFFERS_MIN, Deliveries};
pub(crate) use outgoing::{KeyName, Outgoing};
pub(crate) use requests::{Completion, Token};
use requests::{Draft, Requests};
use ring::Ring;
use window::Window;

/// Exit code of a program that found its host not to keep to the ABI.
pub(crate) const HOST_FAULT: u8 = 102;
/// Dropped keys are collected until there are this many, or the district parks.
const DROP_BATCH: usize = 32;
/// How much longer than the broker the program itself waits for a call to end by its deadline. The broker knows better
/// how the call ended; only if it is not there is this the way out.
pub(crate) const DEADLINE_GRACE: u64 = 100_000_000;
/// How long a program that ends waits for the broker to take what it has sent.
const SETTLE: Duration = Duration::from_secs(1);

/// What the host did against the ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HostFault(&'static str);

/// What [`Channel::next`] has found.
#[derive(Debug)]
pub(crate) enum News {
    /// Something arrived.
    Delivery(Delivery),
    /// A request that nobody is waiting for has ended.
    Finished(Token),
    /// The connection has ended; there is another.
    Lost(Reason),
}

/// The channel.
#[derive(Debug)]
pub(crate) struct Channel {
    connection: Connection,
    window: Window,
    requests: Requests,
    deliveries: Deliveries,
    dropped: Vec<Handle>,
    /// Why the last connection ended, until the program has been told.
    lost: Option<Reason>,
    log: LogKey,
}

/// Writes the queues of a new connection into the window, which the device must not be using.
fn lay_out() -> (Window, Ring, core::ops::Range<u64>, Deliveries) {
    let (address, size) = boot::window();
    let window = Window::new(address, size);
    // A quarter of the window for deliveries; requests get a descriptor for each KiB.
    #[allow(clippy::cast_possible_truncation)] // at most QUEUE_SIZE_MAX
    let up_to_max = |count: u64| count.min(u64::from(QUEUE_SIZE_MAX)) as u16;
    let buffers = up_to_max(size / 4 / BUFFER).max(BUFFERS_MIN);
    let delivery_queue = buffers.next_power_of_two();
    let request_queue = up_to_max((size / 1024).next_power_of_two());
    let at = WINDOW_HEADER_SIZE;
    let requests = Ring::new(&window, at, request_queue);
    let at = (at + Ring::bytes(request_queue)).next_multiple_of(64);
    let deliveries = Ring::new(&window, at, delivery_queue);
    let at = (at + Ring::bytes(delivery_queue)).next_multiple_of(BUFFER);
    let deliveries = Deliveries::new(&window, deliveries, at, buffers);
    let space = at + u64::from(buffers) * BUFFER..size;
    (window, requests, space, deliveries)
}

impl Channel {
    fn connect() -> Self {
        let connection = boot::connection();
        let (window, requests, space, deliveries) = lay_out();
        let requests = Requests::new(requests, space);
        let channel =
            Channel { connection, window, requests, deliveries, dropped: Vec::new(), lost: None, log: LogKey::Unknown };
        // In its reset state when a life begins.
        channel.start_device();
        channel
    }

    /// If the connection ends meanwhile, half of it may go to a device that a restore has already reset; the next look at
    /// the connection then begins again.
    fn start_device(&self) {
        device::start(&self.window, self.requests.ring(), self.deliveries.ring());
    }

    /// Sets everything up anew as long as the connection is not the present one.
    fn follow_connection(&mut self) {
        loop {
            let present = boot::connection();
            if present == self.connection {
                return;
            }
            let reason = self.connection.lost_because(present);
            if self.lost != Some(Reason::SelfRestart) {
                self.lost = Some(reason);
            }
            self.connection = present;
            self.dropped.clear();
            self.log = LogKey::Unknown;
            device::reset();
            let (window, requests, space, deliveries) = lay_out();
            self.window = window;
            self.deliveries = deliveries;
            self.requests.restart(requests, space, Error::Unknown(reason));
            self.start_device();
        }
    }

    /// The host broke a rule, unless the connection it was about is no more.
    fn fault(&mut self, HostFault(what): HostFault) {
        if boot::connection() == self.connection {
            machine::exit(HOST_FAULT, what);
        }
        self.follow_connection();
    }

    /// What is known about the log's key.
    pub(crate) fn log_key(&mut self) -> LogKey {
        self.follow_connection();
        self.log
    }

    /// Learns about the log's key what was found out on this connection. One that is replaced is given up.
    pub(crate) fn set_log_key(&mut self, connection: Connection, log: LogKey) {
        if connection != self.connection {
            return;
        }
        if let LogKey::Known(old) = core::mem::replace(&mut self.log, log) {
            self.drop_later(old);
        }
    }

    /// The log's key is of no use any more.
    pub(crate) fn forget_log_key(&mut self) {
        self.set_log_key(self.connection, LogKey::Unknown);
    }

    /// Takes in what the broker has completed.
    fn collect(&mut self) {
        self.follow_connection();
        let collected = self.requests.collect(&self.window, self.connection, &mut self.dropped);
        match collected {
            Ok(()) => self.follow_connection(),
            Err(fault) => self.fault(fault),
        }
    }

    /// Sends a request, waiting for room until `deadline`; without one, [`Error::WouldBlock`] if there is none now. On
    /// success the handles in `given` belong to the request, which drops them if it fails.
    pub(crate) fn submit(
        &mut self,
        outgoing: &Outgoing<'_>,
        given: &mut Vec<Handle>,
        deadline: Option<u64>,
    ) -> Result<Token, Error> {
        let Some(deadline) = deadline else {
            self.collect();
            return self.try_submit(outgoing, given);
        };
        let mut attempt = |channel: &mut Self| match channel.try_submit(outgoing, given) {
            Err(Error::WouldBlock) => None,
            result => Some(result),
        };
        self.wait(deadline, false, &mut attempt).unwrap_or(Err(Error::NotDelivered(Reason::Deadline)))
    }

    fn try_submit(&mut self, outgoing: &Outgoing<'_>, given: &mut Vec<Handle>) -> Result<Token, Error> {
        if outgoing.data.len() > DATA_MAX {
            return Err(Error::TooBig);
        }
        if self.dropped.len() >= DROP_BATCH {
            self.send_drops();
        }
        let draft = Draft {
            header: outgoing.header(self.connection)?,
            data: outgoing.data,
            capacity: outgoing.reply_capacity,
            wanted: outgoing.wanted,
        };
        if !self.requests.fits(&draft) {
            return Err(Error::TooBig);
        }
        self.requests.submit(&self.window, &draft, given).ok_or(Error::WouldBlock)
    }

    /// The outcome of a request if it has ended; it is handed out once.
    pub(crate) fn poll(&mut self, token: Token) -> Option<Result<Completion, Error>> {
        self.collect();
        self.requests.outcome(token)
    }

    /// Waits for the outcome of a request until `deadline`.
    pub(crate) fn wait_for(&mut self, token: Token, deadline: u64) -> Option<Result<Completion, Error>> {
        self.wait(deadline, false, &mut |channel| channel.requests.outcome(token))
    }

    /// Nobody will ask for the outcome of this request any more.
    pub(crate) fn forget(&mut self, token: Token) {
        let Some(unwanted) = self.requests.forget(token) else { return };
        for handle in unwanted.keys {
            self.drop_later(KeyName { handle, connection: unwanted.connection });
        }
    }

    /// Gives up a key some time soon.
    pub(crate) fn drop_later(&mut self, key: KeyName) {
        if key.handle != Handle::BOOTSTRAP && key.connection == self.connection {
            self.dropped.push(key.handle);
        }
    }

    /// Waits until `deadline` for anything that the program did not ask for.
    pub(crate) fn next(&mut self, deadline: u64) -> Option<News> {
        self.wait(deadline, true, &mut |channel| {
            if let Some(reason) = channel.lost.take() {
                return Some(News::Lost(reason));
            }
            if let Some(token) = channel.requests.announce() {
                return Some(News::Finished(token));
            }
            channel.take_delivery().map(News::Delivery)
        })
    }

    fn take_delivery(&mut self) -> Option<Delivery> {
        let taken = self.deliveries.take(&self.window, self.connection);
        if boot::connection() != self.connection {
            self.follow_connection();
            return None;
        }
        match taken {
            Ok(Some(delivery)) => {
                self.deliveries.count_consumed(&self.window);
                if self.deliveries.should_publish() {
                    self.deliveries.publish(&self.window);
                }
                Some(delivery)
            }
            Ok(None) => None,
            Err(fault) => {
                self.fault(fault);
                None
            }
        }
    }

    /// Parks until `ready` has something or `deadline` has come. Completions are taken in each time. While `serving`,
    /// deliveries wake the district, and completions that somebody wants; otherwise all completions do.
    fn wait<T>(&mut self, deadline: u64, serving: bool, ready: &mut dyn FnMut(&mut Self) -> Option<T>) -> Option<T> {
        loop {
            self.collect();
            if let Some(value) = ready(self) {
                return Some(value);
            }
            if deadline != NO_DEADLINE && time::now() >= deadline {
                return None;
            }
            self.send_drops();
            self.deliveries.publish(&self.window);
            self.requests.arm(&self.window, serving);
            self.deliveries.arm(&self.window, serving);
            // The wish for a wake-up must be visible before the last look, as in `Ring::publish`.
            core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
            if !self.has_news(serving) {
                machine::park(deadline);
            }
        }
    }

    fn has_news(&mut self, serving: bool) -> bool {
        let news = self.requests.has_news(&self.window).and_then(|news| {
            Ok(news || self.lost.is_some() && serving || serving && self.deliveries.has_news(&self.window)?)
        });
        // If the connection ends after this, the next park returns at once (docs/abi.md, section 7).
        match news {
            Ok(news) => news || boot::connection() != self.connection,
            Err(fault) => {
                self.fault(fault);
                true
            }
        }
    }

    /// Tells the broker which keys are given up, as far as there is room.
    fn send_drops(&mut self) {
        while let Some(&handle) = self.dropped.last() {
            let header = RequestHeader::new(RequestKind::Drop, handle);
            let draft = Draft { header, data: &[], capacity: 0, wanted: false };
            if self.requests.submit(&self.window, &draft, &mut Vec::new()).is_none() {
                return;
            }
            self.dropped.pop();
        }
    }
}

/// Uses the channel, connecting first if nobody has used it yet. `access` must not drop keys: that uses it too. If the
/// district was restored the program's hook runs first, before it uses what `access` has found and before it asks for more.
pub(crate) fn with<R>(access: impl FnOnce(&mut Channel) -> R) -> R {
    restart::notice();
    let found = place::with(|channel| access(channel.borrow_mut().get_or_insert_with(Channel::connect)));
    restart::notice();
    found
}

/// Waits, not for long, until the broker has taken everything that was sent without waiting for it.
pub(crate) fn settle() {
    place::with(|channel| {
        if let Ok(mut channel) = channel.try_borrow_mut()
            && let Some(channel) = channel.as_mut()
        {
            channel.wait(time::deadline(SETTLE), false, &mut |channel| channel.requests.is_settled().then_some(()));
        }
    });
}
