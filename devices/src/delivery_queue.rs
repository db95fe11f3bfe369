//! Queue 1: deliveries go out, each in as many of the guest's buffers as it needs.

use std::collections::VecDeque;
use std::sync::Arc;

use district_protocol::channel::{DELIVERY_BUFFER_MIN, DELIVERY_QUEUE};
use district_protocol::frame::{DATA_MAX, DELIVERY_HEADER, DeliveryHeader};

use crate::error::{ChannelError, RingFault};
use crate::ring::{Chain, Pieces, Ring};
use crate::setup::QueueSetup;
use crate::window::Window;

#[derive(Debug)]
pub(crate) struct DeliveryQueue {
    ring: Ring,
    /// Buffers that were taken from the ring to see how much they hold, oldest first. The guest sees no difference: they
    /// are still the device's, and are given back in this order.
    posted: VecDeque<Chain>,
    /// Bytes that all of `posted` hold together.
    room: u64,
}

impl DeliveryQueue {
    pub fn new(window: Arc<Window>, setup: &QueueSetup) -> Result<DeliveryQueue, ChannelError> {
        let ring = Ring::new(window, DELIVERY_QUEUE, setup)?;
        let posted = VecDeque::with_capacity(ring.size());
        Ok(DeliveryQueue { ring, posted, room: 0 })
    }

    pub fn deliver(&mut self, header: &DeliveryHeader, data: &[u8]) -> Result<bool, ChannelError> {
        let data_len = match u32::try_from(data.len()) {
            Ok(len) if data.len() <= DATA_MAX => len,
            _ => return Err(ChannelError::TooLong(data.len())),
        };
        let needed = (DELIVERY_HEADER + data.len()) as u64;
        while self.room < needed {
            if !self.take_buffer()? {
                return Ok(false);
            }
        }
        let header = DeliveryHeader { data_len, buffers: self.buffers_for(needed), ..*header }.encode();
        let mut pieces = Pieces([&header, data]);
        let mut left = needed;
        while left > 0
            && let Some(chain) = self.posted.pop_front()
        {
            self.room -= u64::from(chain.writable);
            self.ring.fill(&chain, &mut pieces)?;
            left = left.saturating_sub(chain.writable.into());
        }
        self.ring.publish()?;
        Ok(true)
    }

    /// Takes the next buffer that the guest has posted, if there is one.
    fn take_buffer(&mut self) -> Result<bool, ChannelError> {
        let Some(chain) = self.ring.next_chain()? else {
            return Ok(false);
        };
        let Chain { readable, writable, .. } = chain;
        if readable != 0 || (writable as usize) < DELIVERY_BUFFER_MIN {
            return Err(self.ring.fault(RingFault::DeliveryBuffer { writable, readable }));
        }
        self.room += u64::from(writable);
        self.posted.push_back(chain);
        Ok(true)
    }

    /// How many of the posted buffers, which hold enough, `needed` bytes take.
    fn buffers_for(&self, needed: u64) -> u16 {
        let mut left = needed;
        let mut buffers = 0;
        for chain in &self.posted {
            buffers += 1;
            left = left.saturating_sub(chain.writable.into());
            if left == 0 {
                break;
            }
        }
        buffers
    }

    pub fn wants_notification(&mut self) -> Result<bool, ChannelError> {
        self.ring.wants_notification()
    }
}
