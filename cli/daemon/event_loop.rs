//! The event loop: all of a daemon's state, and what it does when something is ready. One thread; nothing in it waits
//! for anybody but the disk.

use std::collections::{HashMap, VecDeque};
use std::ops::{Index, IndexMut};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use district_broker::{Core, DistrictId, Effect};
use district_devices::Channel;
use district_vmm::features::Standby;

use super::clock::Clock;
use super::district::District;
use super::jobs::Jobs;
use super::life_file::{self, LifeFile};
use super::memory::Seal;
use super::snapshots;
use super::starters::Starter;
use super::stock::{Maker, Stock};
use super::store::Store;
use super::traffic::Pending;
use super::watched::{Due, Ready, Timers, Watched};
use crate::api::command::{Leave, Reply};
use crate::api::event::Event;
use crate::api::feed::Feed;
use crate::api::mailbox::Inbox;
use crate::api::name::Name;
use crate::state_dir::StateDir;

/// What the event loop is given.
pub struct Host {
    pub directory: StateDir,
    /// Whether vmm processes end with this one.
    pub tied: bool,
    /// Kept, not used.
    pub _standby: Standby,
    pub store: Store,
    pub inbox: Inbox,
}

/// The districts of the catalogue. A slot is not used again while the daemon runs.
#[derive(Default)]
pub struct Slots {
    slots: Vec<Option<District>>,
}

impl Slots {
    /// All districts, with their slots.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &District)> {
        self.slots.iter().enumerate().filter_map(|(slot, district)| Some((slot, district.as_ref()?)))
    }

    /// Whether there is a district in this slot.
    pub fn contains(&self, slot: usize) -> bool {
        self.slots.get(slot).is_some_and(Option::is_some)
    }

    fn numbers(&self) -> Vec<usize> {
        self.iter().map(|(slot, _)| slot).collect()
    }
}

// A slot number comes from the maps of the event loop, which forget it before the slot is emptied.
#[allow(clippy::expect_used)]
impl Index<usize> for Slots {
    type Output = District;

    fn index(&self, slot: usize) -> &District {
        self.slots[slot].as_ref().expect("a slot in use")
    }
}

#[allow(clippy::expect_used)]
impl IndexMut<usize> for Slots {
    fn index_mut(&mut self, slot: usize) -> &mut District {
        self.slots[slot].as_mut().expect("a slot in use")
    }
}

/// A running daemon's state.
pub struct EventLoop {
    pub host: Host,
    pub clock: Clock,
    /// The time at which the present round began.
    pub now: u64,
    pub core: Core,
    pub effects: Vec<Effect>,
    pub watched: Watched,
    pub timers: Timers,
    pub slots: Slots,
    pub names: HashMap<Name, usize>,
    pub ids: HashMap<DistrictId, usize>,
    /// Life number -> slot.
    pub lives: HashMap<u64, usize>,
    pub life_count: u64,
    pub sending: Pending,
    pub receiving: Pending,
    pub touched: Pending,
    pub feeds: Vec<Feed>,
    pub stock: Stock,
    pub jobs: Jobs,
    /// Who waits for districts to begin.
    pub starters: Vec<Starter>,
    /// Images that were found to be as they were written since this daemon runs, the newest first.
    pub verified: VecDeque<Seal>,
    /// Set when the daemon is to end.
    pub ending: Option<(Leave, Vec<Reply<()>>)>,
}

impl EventLoop {
    /// Takes in the catalogue and finds the vmm processes that an earlier daemon has left.
    pub fn new(host: Host, maker: Maker) -> Result<EventLoop> {
        let clock = Clock::new();
        let watched = Watched::new().context("no epoll can be had")?;
        watched.add(host.inbox.as_raw_fd(), Ready::Inbox)?;
        let jobs = Jobs::new().context("no eventfd can be had")?;
        watched.add(jobs.as_raw_fd(), Ready::Jobs)?;
        super::process::make_directory(host.directory.path())
            .with_context(|| format!("{}: cannot be made", host.directory.path().join("run").display()))?;
        life_file::make_directory(host.directory.path())
            .with_context(|| format!("{}: cannot be made", host.directory.path().join("districts").display()))?;
        let mut event_loop = EventLoop {
            now: clock.now(),
            clock,
            host,
            core: Core::new(),
            effects: Vec::new(),
            watched,
            timers: Timers::default(),
            slots: Slots::default(),
            names: HashMap::new(),
            ids: HashMap::new(),
            lives: HashMap::new(),
            life_count: 0,
            sending: Pending::default(),
            receiving: Pending::default(),
            touched: Pending::default(),
            feeds: Vec::new(),
            stock: Stock::new(maker),
            jobs,
            starters: Vec::new(),
            verified: VecDeque::new(),
            ending: None,
        };
        event_loop.take_in_catalogue()?;
        Ok(event_loop)
    }

    fn take_in_catalogue(&mut self) -> Result<()> {
        for binding in self.host.store.bindings()? {
            self.core.restore_binding(binding);
        }
        for (name, record) in self.host.store.districts()? {
            let name = Name::new(&name).map_err(|wrong| anyhow::anyhow!("the catalogue is damaged: {}", wrong.what))?;
            let lives = LifeFile::open(self.host.directory.path(), DistrictId(record.id));
            // One that is damaged is this district's trouble, and is told whoever starts it.
            let epoch = lives.map(|lives| lives.epoch()).unwrap_or_else(|error| {
                log::error!("district {name}: {error:#}");
                0
            });
            self.add_district(District::new(name, record, epoch));
        }
        self.end_strangers()?;
        let known = self.ids.keys().map(DistrictId::to_string).collect();
        life_file::remove_strangers(self.host.directory.path(), &known);
        snapshots::remove_unfinished(self.host.directory.path());
        for slot in self.slots.numbers() {
            self.adopt(slot);
        }
        self.fill_stock();
        Ok(())
    }

    /// Adds a district to the catalogue in memory.
    pub fn add_district(&mut self, district: District) -> usize {
        let slot = self.slots.slots.len();
        self.names.insert(district.name.clone(), slot);
        self.ids.insert(district.id, slot);
        self.slots.slots.push(Some(district));
        slot
    }

    /// Forgets a district that has no life.
    pub fn drop_district(&mut self, slot: usize) {
        if let Some(district) = self.slots.slots[slot].take() {
            self.names.remove(&district.name);
            self.ids.remove(&district.id);
            for pending in [&mut self.sending, &mut self.receiving, &mut self.touched] {
                pending.forget(slot);
            }
        }
    }

    /// Runs until a command ends it.
    pub fn run(mut self) -> Result<()> {
        loop {
            let busy = self.turn();
            let timeout = if busy { Some(0) } else { self.timeout() };
            let ready = self.watched.wait(timeout).context("waiting for events failed")?;
            self.now = self.clock.now();
            for ready in ready {
                self.dispatch(ready);
            }
            self.core.expire(self.now);
            self.carry_out();
            while let Some(due) = self.timers.pop(self.now) {
                self.due(due);
            }
            if self.is_over() {
                // Dropping the replies before this would say that the daemon ends before it has.
                for reply in self.ending.take().map(|(_, replies)| replies).unwrap_or_default() {
                    reply.send(Ok(()));
                }
                return Ok(());
            }
        }
    }

    fn timeout(&self) -> Option<u64> {
        let next = [self.timers.next(), self.core.next_deadline()].into_iter().flatten().min()?;
        Some(next.saturating_sub(self.clock.now()))
    }

    fn dispatch(&mut self, ready: Ready) {
        match ready {
            Ready::Inbox => {
                let commands: Vec<_> = self.host.inbox.take().collect();
                for command in commands {
                    self.command(command);
                }
            }
            Ready::Jobs => {
                for then in self.jobs.take() {
                    then(self);
                }
            }
            Ready::Control(life) => self.control_ready(life),
            Ready::Process(life) => self.process_ended(life),
            Ready::Backend(life) => self.backend_ready(life),
            Ready::Kick(life) => self.kicked(life),
        }
    }

    fn due(&mut self, due: Due) {
        match due {
            Due::Restart(slot) => self.restart_due(slot),
            Due::Started(life) => self.must_have_started(life),
            Due::Stopped(life) => self.must_have_stopped(life),
            Due::Serials(slot) => self.reserve_serials(slot),
            Due::Session(life) => self.session_due(life),
        }
    }

    fn is_over(&self) -> bool {
        let is_quiet = match &self.ending {
            None => return false,
            Some((Leave::Running, _)) => true,
            Some((Leave::Stopped, _)) => self.lives.is_empty(),
        };
        // Half a snapshot helps nobody.
        is_quiet && !self.jobs.are_under_way()
    }

    /// The slot of a district that the core speaks of.
    pub fn slot_of(&self, district: DistrictId) -> Option<usize> {
        self.ids.get(&district).copied()
    }

    /// The slot of the district that is in this life.
    pub fn slot_of_life(&self, number: u64) -> Option<usize> {
        self.lives.get(&number).copied()
    }

    /// The identity behind a name.
    pub fn id_of(&self, name: &Name) -> Option<DistrictId> {
        self.names.get(name).map(|slot| self.slots[*slot].id)
    }

    /// Tells everybody who wants to know.
    pub fn publish(&mut self, event: &Event) {
        self.feeds.retain(|feed| feed.offer(event));
    }
}

impl District {
    /// Its queues, while it has a session in use.
    pub fn channel(&mut self) -> Option<&mut Channel> {
        self.life.as_mut()?.session.channel()
    }
}
