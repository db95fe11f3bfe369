//! Queue 0: requests come in, and each is completed in its own chain.

use std::sync::Arc;

use district_protocol::channel::REQUEST_QUEUE;
use district_protocol::frame::{COMPLETION_HEADER, CompletionHeader, DATA_MAX, REQUEST_HEADER};

use crate::error::{ChannelError, RingFault};
use crate::ring::{Chain, Pieces, Ring};
use crate::setup::QueueSetup;
use crate::window::Window;

/// Bytes of writable room that a request needs at least, and those that can be used at most.
#[allow(clippy::cast_possible_truncation)] // 64 and 65,600
const ROOM: (u32, u32) = (COMPLETION_HEADER as u32, (COMPLETION_HEADER + DATA_MAX) as u32);

/// A request as the guest has posted it; nothing in it is checked but its length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRequest {
    /// Names the request towards [`crate::Channel::complete`], once.
    pub chain: u16,
    /// Most bytes of data that its completion can have.
    pub capacity: u32,
    /// What the guest wrote: at most `REQUEST_HEADER + DATA_MAX` bytes, maybe less than a header.
    pub bytes: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct RequestQueue {
    ring: Ring,
    /// By index of their first descriptor, the chains of the requests that are not completed.
    outstanding: Box<[Option<Chain>]>,
}

impl RequestQueue {
    pub fn new(window: Arc<Window>, setup: &QueueSetup) -> Result<RequestQueue, ChannelError> {
        let ring = Ring::new(window, REQUEST_QUEUE, setup)?;
        let outstanding = vec![None; ring.size()].into();
        Ok(RequestQueue { ring, outstanding })
    }

    pub fn next_request(&mut self) -> Result<Option<RawRequest>, ChannelError> {
        let Some(chain) = self.ring.next_chain()? else {
            return Ok(None);
        };
        if chain.readable as usize > REQUEST_HEADER + DATA_MAX {
            return Err(self.ring.fault(RingFault::RequestLength(chain.readable)));
        }
        let Some(capacity) = data_capacity(&chain) else {
            return Err(self.ring.fault(RingFault::CompletionRoom(chain.writable)));
        };
        let bytes = self.ring.gather(&chain)?;
        if let Some(slot) = self.outstanding.get_mut(usize::from(chain.head)) {
            *slot = Some(chain);
        }
        Ok(Some(RawRequest { chain: chain.head, capacity, bytes }))
    }

    pub fn complete(&mut self, chain: u16, header: &CompletionHeader, data: &[u8]) -> Result<(), ChannelError> {
        let slot = self.outstanding.get_mut(usize::from(chain));
        let chain = slot.and_then(Option::take).ok_or(ChannelError::NotOutstanding(chain))?;
        let capacity = data_capacity(&chain).unwrap_or(0);
        let data_len = u32::try_from(data.len()).map_or(capacity, |len| len.min(capacity));
        let header = CompletionHeader { data_len, ..*header }.encode();
        self.ring.fill(&chain, &mut Pieces([&header, &data[..data_len as usize]]))?;
        self.ring.publish()
    }

    pub fn wants_notification(&mut self) -> Result<bool, ChannelError> {
        self.ring.wants_notification()
    }
}

/// Bytes of data that a completion in this chain can have, if there is room for a completion at all.
fn data_capacity(chain: &Chain) -> Option<u32> {
    let (min, max) = ROOM;
    chain.writable.min(max).checked_sub(min)
}
