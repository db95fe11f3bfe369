//! Numbers: 64 bits that a key stands for.

use district_protocol::operation::number;
use district_protocol::rights::Rights;
use district_protocol::status::Status;

use super::{no_data, no_keys};
use crate::core::keys::Used;
use crate::core::request::{Answer, Outcome, Request};

pub(crate) fn invoke(used: Used, value: u64, request: &Request) -> Outcome {
    used.require(Rights::CALL)?;
    match request.header.operation {
        number::GET => {
            no_keys(request)?;
            no_data(request)?;
            Ok(Some(Answer::result(value)))
        }
        _ => Err(Status::NoSuchOperation),
    }
}
