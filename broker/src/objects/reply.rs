//! Reply keys take a `Reply` and nothing else.

use district_protocol::status::Status;

use crate::core::request::Outcome;

pub(crate) fn invoke() -> Outcome {
    Err(Status::NoSuchOperation)
}
