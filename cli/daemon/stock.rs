//! A vmm process in stock: made ahead, with a blank machine in it, and a window for it, so that a start need not wait for
//! any of them. It has never had anything to do with any district, and becomes that of one only.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use district_broker::DistrictId;
use district_devices::Window;
use district_protocol::layout::WINDOW_SIZE_DEFAULT;
use district_vmm::control::DaemonEnd;

use super::event_loop::Host;
use super::process::{self, Process};

/// The process, if there is one.
#[derive(Default)]
pub struct Stock {
    spare: Option<Spare>,
}

/// A vmm process that is nobody's.
pub struct Spare {
    pub process: Process,
    pub control: DaemonEnd,
    pub place: Place,
    window: Option<Arc<Window>>,
}

/// Where a vmm process listens now.
pub struct Place {
    socket: PathBuf,
}

impl Stock {
    /// Makes one, if there is none. What is tied to a command is not kept in stock: most commands start no more.
    pub fn fill(&mut self, host: &Host) {
        if self.spare.is_some() || host.tied {
            return;
        }
        match make(host, host.directory.path().join("run/spare.sock")) {
            Ok(spare) => {
                let window = Window::create(WINDOW_SIZE_DEFAULT).ok().map(Arc::new);
                self.spare = Some(Spare { window, ..spare });
            }
            // The next start will say so, if it is still true then.
            Err(error) => log::debug!("no vmm process in stock: {error:#}"),
        }
    }

    /// Hands out a vmm process for a district that has none: the one in stock, or a new one.
    pub fn take(&mut self, host: &Host, id: DistrictId) -> Result<Spare> {
        match self.spare.take() {
            Some(spare) if !spare.process.is_over() => return Ok(spare),
            Some(over) => {
                log::debug!("the vmm process in stock is gone");
                over.end();
            }
            None => {}
        }
        make(host, process::socket_path(host.directory.path(), id))
    }
}

fn make(host: &Host, socket: PathBuf) -> Result<Spare> {
    let (process, control) = Process::start(&host.program, &socket, host.tied)
        .with_context(|| format!("its vmm process, {}", host.program.display()))?;
    let spare = Spare { process, control, place: Place { socket }, window: None };
    match spare.control.prepare(host.cpuid.clone(), host.kvm.as_fd()) {
        Ok(()) => Ok(spare),
        Err(error) => {
            spare.end();
            Err(error.into())
        }
    }
}

impl Spare {
    /// A window of so many bytes.
    pub fn window(&mut self, bytes: u64) -> Result<Arc<Window>> {
        match self.window.take() {
            Some(window) if window.size() == bytes => Ok(window),
            _ => Ok(Arc::new(Window::create(bytes)?)),
        }
    }

    fn end(mut self) {
        self.process.kill();
        self.process.wait();
        process::forget(&self.place.socket);
    }
}

impl Place {
    /// Puts the socket where later daemons look for the district's vmm process.
    pub fn become_of(self, directory: &Path, id: DistrictId) -> Result<()> {
        let wanted = process::socket_path(directory, id);
        if self.socket != wanted {
            std::fs::rename(&self.socket, &wanted).with_context(|| format!("{}", wanted.display()))?;
        }
        Ok(())
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        if let Some(spare) = self.spare.take() {
            spare.end();
        }
    }
}
