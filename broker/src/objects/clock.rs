//! The clock: tells the time, and waits for it.

use district_protocol::operation::clock;
use district_protocol::rights::Rights;
use district_protocol::status::Status;

use super::{fixed, no_data, no_keys};
use crate::call::Stage;
use crate::core::Core;
use crate::core::keys::Used;
use crate::core::request::{Answer, Outcome, Request};
use crate::district::DistrictIx;

pub(crate) fn invoke(core: &mut Core, d: DistrictIx, used: Used, request: &Request) -> Outcome {
    used.require(Rights::CALL)?;
    match request.header.operation {
        clock::NOW => {
            no_keys(request)?;
            no_data(request)?;
            Ok(Some(Answer::result(core.now)))
        }
        clock::SLEEP => {
            no_keys(request)?;
            let until = core.now.saturating_add(u64::from_le_bytes(fixed(request)?));
            if until == core.now {
                return Ok(Some(Answer::result(core.now)));
            }
            core.room_for_call(d, 0)?;
            let call = core.open_call(d, request, 0);
            core.set_call_timer(call, until);
            core.suspend(call, used.key, Stage::Sleeping { until });
            Ok(None)
        }
        _ => Err(Status::NoSuchOperation),
    }
}
