//! Supervisors: a key looks after the district that it was granted to first, whoever holds it.

use district_protocol::operation::supervisor;
use district_protocol::rights::Rights;
use district_protocol::status::{Reason, Status};

use super::{no_data, no_keys};
use crate::core::Core;
use crate::core::keys::Used;
use crate::core::request::{Outcome, Request};
use crate::district::DistrictIx;
use crate::object::ObjectId;

pub(crate) fn invoke(core: &mut Core, d: DistrictIx, used: Used, object: ObjectId, request: &Request) -> Outcome {
    used.require(Rights::CALL)?;
    match request.header.operation {
        supervisor::CHECKPOINT => {
            no_keys(request)?;
            no_data(request)?;
            let of = core.objects[object].owner.ok_or(Status::Broken(Reason::Destroyed))?;
            core.room_for_call(d, 0)?;
            core.await_checkpoint(d, of, used.key, request);
            Ok(None)
        }
        _ => Err(Status::NoSuchOperation),
    }
}
