//! What a manifest grants, as the broker takes it.

use std::sync::Arc;

use anyhow::{Context, Result};
use district_broker::{Bootstrap, DistrictId, Grant, GrantTarget, Limits};
use district_protocol::rights::Rights;

use crate::api::name::Name;
use crate::api::spec::{self, Published, Spec, Target};

/// The names of a district's first directory. `id_of` finds other districts.
pub fn grants(spec: &Spec, id_of: impl Fn(&Name) -> Option<DistrictId>) -> Result<Vec<Grant>> {
    let grant = |(name, grant): (&String, &spec::Grant)| {
        let target = match &grant.to {
            Target::Log => GrantTarget::Log,
            Target::Clock => GrantTarget::Clock,
            Target::Random => GrantTarget::Random,
            Target::Checkpoint => GrantTarget::Checkpoint,
            Target::Number(number) => GrantTarget::Number(*number),
            Target::Published(published) => {
                let (owner, name) = service(published, &id_of)?;
                GrantTarget::Service { owner, name }
            }
        };
        Ok(Grant { name: Arc::from(name.as_str()), target, rights: grant.rights.unwrap_or(Rights::ALL) })
    };
    spec.grants.iter().map(grant).collect()
}

/// What handle 1 leads to.
pub fn bootstrap(spec: &Spec, id_of: impl Fn(&Name) -> Option<DistrictId>) -> Result<Bootstrap> {
    match &spec.bootstrap {
        None => Ok(Bootstrap::OwnDirectory),
        Some(published) => {
            let (owner, name) = service(published, &id_of)?;
            Ok(Bootstrap::Service { owner, name })
        }
    }
}

fn service(published: &Published, id_of: impl Fn(&Name) -> Option<DistrictId>) -> Result<(DistrictId, Arc<str>)> {
    let owner = id_of(&published.district)
        .with_context(|| format!("it has a grant of {published}, and no district {} is known", published.district))?;
    Ok((owner, Arc::from(published.name.as_str())))
}

/// The limits, with the usual ones where the manifest says nothing.
pub fn limits(limits: &spec::Limits) -> Limits {
    let usual = Limits::default();
    Limits {
        handles: limits.handles.unwrap_or(usual.handles),
        exports: limits.exports.unwrap_or(usual.exports),
        queued_bytes: limits.queued_bytes.unwrap_or(usual.queued_bytes),
        watches: limits.watches.unwrap_or(usual.watches),
        bindings: limits.bindings.unwrap_or(usual.bindings),
        frames_per_second: limits.frames_per_second.unwrap_or(usual.frames_per_second),
        calls: limits.calls.unwrap_or(usual.calls),
    }
}
