//! Logs: text for people. A key to a log writes to the log of the district that it was granted to first.

use district_protocol::operation::log;
use district_protocol::rights::Rights;
use district_protocol::status::{Argument, Status};

use super::no_keys;
use crate::core::Core;
use crate::core::keys::Used;
use crate::core::request::{Outcome, Request, done};
use crate::effect::Effect;
use crate::object::ObjectId;

pub(crate) fn invoke(core: &mut Core, used: Used, object: ObjectId, request: &Request) -> Outcome {
    used.require(Rights::CALL)?;
    match request.header.operation {
        log::WRITE => {
            no_keys(request)?;
            if request.data().len() > log::LINE_MAX {
                return Err(Status::TooBig);
            }
            let text = std::str::from_utf8(request.data()).map_err(|_| Status::BadArgument(Argument::DATA))?;
            if let Some(owner) = core.objects[object].owner {
                let district = core.districts[owner].id;
                core.effects.push_back(Effect::Log { district, text: String::from(text) });
            }
            done()
        }
        _ => Err(Status::NoSuchOperation),
    }
}
