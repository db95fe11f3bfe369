//! The broker's end of a district's two queues.
//!
//! How to use it, from an event loop that watches [`Channel::kick_fds`] edge-triggered: at a kick, and once when the
//! channel is new, take [`Channel::next_request`] until `None`, and try again to deliver what found no room; then
//! [`Channel::flush`]. A kick is never read; it only ends the waiting.
//!
//! Nothing a guest puts into its queues does more than end its own session (`RingFault`), and no call does more work
//! than the queue has descriptors and the frame has bytes. The one thing that this file has to trust the vmm process
//! for is that its call eventfd stays non-blocking: the flag is shared with whoever else holds the eventfd, and the vmm
//! process is kept from clearing it by its system call filter.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use district_protocol::channel::QUEUE_COUNT;
use district_protocol::frame::{CompletionHeader, DeliveryHeader};
use rustix::io::Errno;

use crate::delivery_queue::DeliveryQueue;
use crate::error::ChannelError;
use crate::request_queue::{RawRequest, RequestQueue};
use crate::setup::ChannelSetup;
use crate::window::Window;

/// A channel in use. After any error but [`ChannelError::NotOutstanding`] and [`ChannelError::TooLong`] it is to be
/// dropped.
#[derive(Debug)]
pub struct Channel {
    window: Arc<Window>,
    requests: RequestQueue,
    deliveries: DeliveryQueue,
    kicks: [OwnedFd; QUEUE_COUNT as usize],
    call: OwnedFd,
}

impl Channel {
    /// The channel whose queues are where `setup` says, which is checked here. `kicks` and `call` are eventfds, `call` a
    /// non-blocking one.
    pub fn new(
        window: Arc<Window>,
        setup: &ChannelSetup,
        kicks: [OwnedFd; QUEUE_COUNT as usize],
        call: OwnedFd,
    ) -> Result<Channel, ChannelError> {
        setup.check(window.size())?;
        let [requests, deliveries] = &setup.queues;
        Ok(Channel {
            requests: RequestQueue::new(Arc::clone(&window), requests)?,
            deliveries: DeliveryQueue::new(Arc::clone(&window), deliveries)?,
            window,
            kicks,
            call,
        })
    }

    /// The doorbells of the request queue and the delivery queue, to be watched edge-triggered and never read.
    pub fn kick_fds(&self) -> [BorrowedFd<'_>; QUEUE_COUNT as usize] {
        self.kicks.each_ref().map(AsFd::as_fd)
    }

    /// The next request. `None` only after the guest was asked to ring the doorbell at its next one and the queue was
    /// looked at once more: after `None` it is safe to wait for the doorbell.
    pub fn next_request(&mut self) -> Result<Option<RawRequest>, ChannelError> {
        self.requests.next_request()
    }

    /// Completes the request with this [`RawRequest::chain`]. Data beyond its [`RawRequest::capacity`] is cut off;
    /// `data_len` of the header is set to what was written. The guest is told at the next [`Channel::flush`].
    pub fn complete(&mut self, chain: u16, header: &CompletionHeader, data: &[u8]) -> Result<(), ChannelError> {
        self.requests.complete(chain, header, data)
    }

    /// Delivers a frame to the guest, if it has posted buffers enough for all of it. If not (`false`) nothing has
    /// happened, and its next post rings the doorbell of the delivery queue. `buffers` and `data_len` of the header are
    /// set to what was written. The guest is told at the next [`Channel::flush`].
    pub fn deliver(&mut self, header: &DeliveryHeader, data: &[u8]) -> Result<bool, ChannelError> {
        self.deliveries.deliver(header, data)
    }

    /// Wakes the guest, once, if it wants to be told about what was completed and delivered since the last call.
    pub fn flush(&mut self) -> Result<(), ChannelError> {
        let completed = self.requests.wants_notification()?;
        let delivered = self.deliveries.wants_notification()?;
        if !completed && !delivered {
            return Ok(());
        }
        match rustix::io::write(&self.call, &1_u64.to_ne_bytes()) {
            // A counter that is full wakes its reader as well as one more would.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(errno) => Err(ChannelError::Host { doing: "wake the guest", source: io::Error::from(errno) }),
        }
    }

    /// What wakes the guest, for tests.
    #[cfg(any(test, feature = "driver"))]
    pub fn call_fd(&self) -> BorrowedFd<'_> {
        self.call.as_fd()
    }

    /// How many deliveries the guest says it has consumed in this session. Untrusted: it may be any number.
    pub fn consumed(&self) -> u64 {
        self.window.consumed()
    }
}

#[cfg(test)]
mod tests;
