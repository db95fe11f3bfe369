//! Random bytes. The core has none: the shell fills them in.

use district_protocol::frame::DATA_MAX;
use district_protocol::operation::random;
use district_protocol::rights::Rights;
use district_protocol::status::Status;

use super::{fixed, no_keys};
use crate::core::Core;
use crate::core::keys::Used;
use crate::core::request::{Outcome, Request};
use crate::district::DistrictIx;
use crate::effect::Effect;

pub(crate) fn invoke(core: &mut Core, d: DistrictIx, used: Used, request: &Request) -> Outcome {
    used.require(Rights::CALL)?;
    match request.header.operation {
        random::BYTES => {
            no_keys(request)?;
            let count = u32::from_le_bytes(fixed(request)?);
            if count as usize > DATA_MAX || count > request.capacity {
                return Err(Status::TooBig);
            }
            let district = core.districts[d].id;
            let token = request.header.token;
            core.effects.push_back(Effect::FillRandom { district, chain: request.chain, token, count });
            Ok(None)
        }
        _ => Err(Status::NoSuchOperation),
    }
}
