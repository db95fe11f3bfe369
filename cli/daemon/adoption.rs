//! What a new daemon does about the vmm processes that earlier ones have left.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use district_broker::supervisor::Ending;
use district_devices::Window;

use super::event_loop::EventLoop;
use super::life_file::LifeFile;
use super::logs::Log;
use super::process::{self, Identity, Process};
use crate::api::event::EventKind;
use crate::api::spec::Policy;

impl EventLoop {
    /// Takes over the vmm process that an earlier daemon has left, or starts the district again if there should be one.
    pub fn adopt(&mut self, slot: usize) {
        let socket = process::socket_path(self.host.directory.path(), self.slots[slot].id);
        let found = Process::find(&socket);
        let entered = match found {
            Ok(Some((process, control))) => {
                let wanted = self.slots[slot].record.wanted;
                if wanted {
                    self.already_started(slot);
                }
                let entered = self.enter(slot, process, control);
                if !wanted {
                    // The command that hosted it was killed, or its end was not recorded any more. It is not restarted.
                    self.kill(slot, "it was to end with an earlier daemon".to_owned());
                }
                entered
            }
            Ok(None) => return self.start_over(slot, &socket),
            Err(error) => {
                log::warn!("district {}: its vmm process cannot be reached: {error}", self.slots[slot].name);
                return self.start_over(slot, &socket);
            }
        };
        if let Err(error) = entered {
            log::error!("district {}: its vmm process cannot be taken over: {error:#}", self.slots[slot].name);
            self.kill(slot, format!("it cannot be taken over: {error:#}"));
        }
    }

    /// Makes sure that no vmm process of an earlier daemon is left, and starts the district again if there should be one.
    /// One that is left and does not listen does not work, or does not want to be found.
    fn start_over(&mut self, slot: usize, socket: &Path) {
        let lives = LifeFile::open(self.host.directory.path(), self.slots[slot].id);
        if let Err(error) = lives.and_then(|lives| Ok(lives.process().map_or(Ok(()), Identity::kill)?)) {
            return log::error!("district {}: its old vmm process may still run: {error:#}", self.slots[slot].name);
        }
        process::forget(socket);
        self.start_if_wanted(slot);
    }

    /// Ends the vmm processes that earlier daemons have left and that are of no district in the catalogue.
    pub fn end_strangers(&self) -> Result<()> {
        let directory = self.host.directory.path();
        let known: Vec<_> =
            self.slots.iter().map(|(_, district)| process::socket_path(directory, district.id)).collect();
        for socket in process::sockets(directory)?.iter().filter(|socket| !known.contains(socket)) {
            if let Ok(Some((process, _))) = Process::find(socket) {
                process.kill();
            }
            process::forget(socket);
        }
        Ok(())
    }

    /// Tells the supervisor of a start that an earlier daemon made.
    fn already_started(&mut self, slot: usize) {
        self.slots[slot].supervisor.start_requested(self.now);
        self.slots[slot].supervisor.starting();
    }

    fn start_if_wanted(&mut self, slot: usize) {
        let record = &self.slots[slot].record;
        if !record.wanted || self.host.tied {
            return;
        }
        if record.spec.restart.policy == Policy::Never {
            let text = "it ended while no daemon was there".to_owned();
            self.already_started(slot);
            return self.life_over(slot, Ending::Killed, EventKind::Lost, None, text);
        }
        // What went wrong has become an event.
        let _ = self.start_requested(slot);
    }

    /// A district that runs on while the daemon is a new one.
    pub fn resume(
        &mut self,
        slot: usize,
        (id, epoch, generation): ([u8; 16], u64, u64),
        window: Option<std::os::fd::OwnedFd>,
    ) -> Result<()> {
        let directory = self.host.directory.clone();
        let district = &mut self.slots[slot];
        anyhow::ensure!(
            id == district.id.0 && epoch == district.epoch,
            "its vmm process runs epoch {epoch} of another life; the catalogue knows epoch {}",
            district.epoch
        );
        let size = district.record.spec.window;
        let life = district.life.as_mut().context("it has no vmm process")?;
        anyhow::ensure!(life.window.is_none(), "its vmm process says hello twice");
        // What it has taken since is not known; it counts as one that has taken some.
        (life.generation, life.taken) = (generation, 1);
        life.window = Some(Arc::new(Window::map(window.context("it does not pass on its window")?, size)?));
        if district.log.is_none() {
            district.log = Some(Log::open(directory.path(), &district.name).context("its log cannot be opened")?);
        }
        let reserved = LifeFile::open(directory.path(), district.id)?.reserve_serials()?;
        self.begin_session(slot, reserved)?;
        self.running(slot, "taken over");
        if self.slots[slot].record.pinned.is_some() {
            // The daemon before has not heard of any since it went back.
            self.take_checkpoint(slot, Box::new(|_, _, _| ()));
        }
        Ok(())
    }
}
