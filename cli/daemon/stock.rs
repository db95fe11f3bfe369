//! A vmm process in stock: made ahead, with a blank machine in it, and a window for it, so that a start need not wait for
//! any of them. It has never had anything to do with any district, and becomes that of one only.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use district_broker::DistrictId;
use district_devices::Window;
use district_protocol::layout::WINDOW_SIZE_DEFAULT;
use district_vmm::control::DaemonEnd;
use district_vmm::cpuid::Cpuid;

use super::event_loop::EventLoop;
use super::jobs::Then;
use super::process::{self, Process};

/// What vmm processes are made from.
pub struct Maker {
    /// The program.
    pub program: PathBuf,
    /// Whether they end with this process.
    pub tied: bool,
    pub kvm: File,
    pub cpuid: Cpuid,
}

/// The process, if there is one.
pub struct Stock {
    maker: Arc<Maker>,
    spare: Option<Spare>,
    /// Whether a job makes one.
    is_coming: bool,
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
    /// An empty one.
    pub fn new(maker: Maker) -> Stock {
        Stock { maker: Arc::new(maker), spare: None, is_coming: false }
    }

    /// Hands out a vmm process for a district that has none: the one in stock, or a new one.
    pub fn take(&mut self, directory: &Path, id: DistrictId) -> Result<Spare> {
        match self.spare.take() {
            Some(spare) if !spare.process.is_over() => return Ok(spare),
            Some(over) => {
                log::debug!("the vmm process in stock is gone");
                over.end();
            }
            None => {}
        }
        self.maker.make(process::socket_path(directory, id))
    }
}

impl Maker {
    fn make(&self, socket: PathBuf) -> Result<Spare> {
        let (process, control) = Process::start(&self.program, &socket, self.tied)
            .with_context(|| format!("its vmm process, {}", self.program.display()))?;
        let spare = Spare { process, control, place: Place { socket }, window: None };
        match spare.control.prepare(self.cpuid.clone(), self.kvm.as_fd()) {
            Ok(()) => Ok(spare),
            Err(error) => {
                spare.end();
                Err(error.into())
            }
        }
    }
}

impl EventLoop {
    /// Has a job make a vmm process for the stock, if there is none. What is tied to a command is not kept in stock: most
    /// commands start no more, and such a process ends with the thread that has made it.
    pub fn fill_stock(&mut self) {
        if self.stock.spare.is_some() || self.stock.is_coming || self.stock.maker.tied {
            return;
        }
        let (maker, socket) = (Arc::clone(&self.stock.maker), self.host.directory.path().join("run/spare.sock"));
        let begun = self.jobs.begin(move |_| {
            let made = maker.make(socket).map(|spare| {
                let window = Window::create(WINDOW_SIZE_DEFAULT).ok().map(Arc::new);
                Spare { window, ..spare }
            });
            Box::new(move |event_loop: &mut EventLoop| {
                let stock = &mut event_loop.stock;
                stock.is_coming = false;
                match made {
                    Ok(spare) => stock.spare = Some(spare),
                    // The next start will say so, if it is still true then.
                    Err(error) => log::debug!("no vmm process in stock: {error:#}"),
                }
            }) as Then
        });
        // If there are too many jobs, a later start tries again.
        self.stock.is_coming = begun.is_ok();
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
