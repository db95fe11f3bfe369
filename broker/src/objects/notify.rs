//! Notify keys: bits at a district that waits for them. They are joined until they are delivered, so that setting them
//! never waits and none is lost.

use district_protocol::frame::RequestHeader;
use district_protocol::rights::Rights;
use district_protocol::status::{Argument, Reason, Status};

use crate::core::Core;
use crate::core::request::{Outcome, done};
use crate::district::DistrictIx;
use crate::key::Target;
use crate::object::ObjectKind;

/// A notify key takes a `Notify` and nothing else.
pub(crate) fn invoke() -> Outcome {
    Err(Status::NoSuchOperation)
}

/// `Notify`.
pub(crate) fn notify(core: &mut Core, d: DistrictIx, header: &RequestHeader) -> Outcome {
    let used = core.find_used(d, header.handle)?;
    used.require(Rights::NOTIFY)?;
    let Target::Object(id) = core.keys[used.key].target else { return Err(Status::Denied(Argument::TARGET)) };
    let object = &mut core.objects[id];
    let (ObjectKind::Notifier { bits, queued }, Some(owner)) = (object.kind, object.owner) else {
        return Err(Status::Broken(Reason::Destroyed));
    };
    object.kind = ObjectKind::Notifier { bits: bits | header.operation, queued: true };
    if !queued {
        core.districts[owner].inbox.push_notifier(id);
        core.announce(owner);
    }
    if core.keys[used.key].once {
        core.spend_used(d, used);
    }
    done()
}
