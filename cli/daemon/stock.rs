//! A vmm process in stock: made ahead, with a blank machine in it, so that a start need not wait for either. It has never
//! had anything to do with any district, and becomes that of one only.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use district_broker::DistrictId;
use district_vmm::control::DaemonEnd;

use super::event_loop::Host;
use super::process::{self, Process};

/// The process, if there is one.
#[derive(Default)]
pub struct Stock {
    spare: Option<Spare>,
}

struct Spare {
    process: Process,
    control: DaemonEnd,
    socket: PathBuf,
}

impl Stock {
    /// Makes one, if there is none. What is tied to a command is not kept in stock: most commands start no more.
    pub fn fill(&mut self, host: &Host) {
        if self.spare.is_some() || host.tied {
            return;
        }
        match make(host, &host.directory.path().join("run/spare.sock")) {
            Ok(spare) => self.spare = Some(spare),
            // The next start will say so, if it is still true then.
            Err(error) => log::debug!("no vmm process in stock: {error:#}"),
        }
    }

    /// Hands out a vmm process for a district that has none: the one in stock, or a new one.
    pub fn take(&mut self, host: &Host, id: DistrictId) -> Result<(Process, DaemonEnd)> {
        let socket = process::socket_path(host.directory.path(), id);
        if let Some(spare) = self.spare.take() {
            match spare.rename(&socket) {
                Some(taken) => return Ok(taken),
                None => log::debug!("the vmm process in stock is gone"),
            }
        }
        let spare = make(host, &socket)?;
        Ok((spare.process, spare.control))
    }
}

fn make(host: &Host, socket: &Path) -> Result<Spare> {
    let (process, control) = Process::start(&host.program, socket, host.tied)
        .with_context(|| format!("its vmm process, {}", host.program.display()))?;
    let spare = Spare { process, control, socket: socket.to_owned() };
    match spare.control.prepare(host.cpuid.clone(), host.kvm.as_fd()) {
        Ok(()) => Ok(spare),
        Err(error) => {
            spare.end();
            Err(error.into())
        }
    }
}

impl Spare {
    /// Puts its socket where the district's is to be. None: it is of no use, and over.
    fn rename(self, socket: &Path) -> Option<(Process, DaemonEnd)> {
        if self.process.is_over() || std::fs::rename(&self.socket, socket).is_err() {
            self.end();
            return None;
        }
        Some((self.process, self.control))
    }

    fn end(mut self) {
        self.process.kill();
        self.process.wait();
        process::forget(&self.socket);
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        if let Some(spare) = self.spare.take() {
            spare.end();
        }
    }
}
