//! Entries: keys to other districts. All operations are the exporter's to know.

use crate::core::Core;
use crate::core::keys::Used;
use crate::core::request::{Outcome, Request};
use crate::district::DistrictIx;
use crate::object::ObjectId;

pub(crate) fn invoke(core: &mut Core, d: DistrictIx, used: Used, object: ObjectId, request: Request) -> Outcome {
    core.post(d, used, object, request)
}
