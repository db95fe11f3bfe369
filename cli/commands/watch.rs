//! Following districts until all of them have ended.

use anyhow::{Result, bail};
use std::collections::BTreeMap;

use crate::api::client::Client;
use crate::api::event::{Event, EventKind};
use crate::api::info::State;
use crate::api::name::Name;

/// What is known about some districts.
#[derive(Debug)]
pub struct Watch {
    states: BTreeMap<Name, Option<State>>,
}

impl Watch {
    /// These districts, of which nothing is known yet.
    pub fn new(names: &[Name]) -> Watch {
        Watch { states: names.iter().map(|name| (name.clone(), None)).collect() }
    }

    /// Takes in what happened, and asks `client` where the event says that others are missing.
    pub fn observe(&mut self, event: &Event, client: &Client) -> Result<()> {
        if event.kind == EventKind::Dropped {
            for info in client.list()? {
                self.set(&info.name, Some(info.state));
            }
        }
        // A log line tells the state that its writer was in, and says nothing about an end.
        // The event that made a district fail comes just before the one that says so.
        let tells_state = match event.kind {
            EventKind::Log => false,
            EventKind::Failed => true,
            _ => event.state != Some(State::Failed),
        };
        if let Some(name) = &event.district
            && tells_state
        {
            self.set(name, event.state);
        }
        Ok(())
    }

    fn set(&mut self, name: &Name, state: Option<State>) {
        if let (Some(known), Some(state)) = (self.states.get_mut(name), state) {
            *known = Some(state);
        }
    }

    /// Whether all have ended.
    pub fn is_over(&self) -> bool {
        self.states.values().all(|state| state.is_some_and(State::is_over))
    }

    /// Those that failed for good.
    pub fn failed(&self) -> Vec<&Name> {
        self.states.iter().filter(|(_, state)| **state == Some(State::Failed)).map(|(name, _)| name).collect()
    }
}

/// Passes every event of `events` to `each`, until the districts of `watch` are over.
pub fn follow(
    client: &Client,
    events: crate::api::client::Events<'_>,
    watch: &mut Watch,
    mut each: impl FnMut(&Event) -> Result<()>,
) -> Result<()> {
    for event in events {
        let event = event?;
        each(&event)?;
        watch.observe(&event, client)?;
        if watch.is_over() {
            return Ok(());
        }
    }
    bail!("the daemon ended; what its districts do now is not known")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_over_when_the_last_one_is() {
        let names = [Name::new("a").unwrap(), Name::new("b").unwrap()];
        let mut watch = Watch::new(&names);
        assert!(!watch.is_over());
        watch.set(&names[0], Some(State::Exited));
        watch.set(&names[1], Some(State::BackingOff));
        watch.set(&Name::new("c").unwrap(), Some(State::Failed));
        assert!(!watch.is_over());
        watch.set(&names[1], Some(State::Failed));
        assert!(watch.is_over());
        assert_eq!(watch.failed(), [&names[1]]);
        watch.set(&names[1], Some(State::Running));
        assert!(!watch.is_over());
    }
}
