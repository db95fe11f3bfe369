//! The daemon: broker, supervisor and what surrounds them.
//!
//! [`event_loop`] is one thread that owns everything: the broker's core, the districts and the queues to them. It waits
//! for file descriptors and times ([`watched`]) and does what they ask for: [`lives`] starts vmm processes ([`process`], of
//! which one is in [`stock`]) and hears them, [`endings`] ends them, [`adoption`] takes over those of an earlier daemon,
//! [`sessions`] opens and closes the channels to them, [`traffic`] moves frames, [`requests`] answers people.
//!
//! [`store`] and [`life_file`] are what outlives it, and of each district [`memory`]: [`checkpoints`] are taken of it,
//! [`migration`] moves their log to an image, [`snapshots`] are kept, [`copies`] made. What takes long there is done by
//! [`jobs`], threads that come back with something for the event loop to do. The API server ([`crate::api::server`]) is a
//! thread of its own.

mod adoption;
mod checkpoints;
mod clock;
mod copies;
mod district;
mod endings;
mod event_loop;
mod grants;
mod image;
mod inspection;
mod jobs;
mod life_file;
mod lives;
mod logs;
mod memory;
mod migration;
mod process;
mod reading;
mod requests;
mod sessions;
mod snapshots;
mod starters;
mod stock;
mod store;
mod traffic;
mod watched;

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::path::PathBuf;
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use district_vmm::cpuid::Cpuid;
use district_vmm::features::{self, Standby};
use kvm_ioctls::Kvm;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::os::fd::FromRawFd;

use crate::api::command::{Command, Leave, Reply};
use crate::api::mailbox::{Mailbox, mailbox};
use crate::api::server::{self, Server};
use crate::state_dir::StateDir;
use event_loop::{EventLoop, Host};
use stock::Maker;
use store::Store;

/// How a daemon is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where its state and its sockets are; prepared.
    pub directory: StateDir,
    /// Whether it lives in the process of a command that ends with its districts. Then none of them may outlive the
    /// process, however it ends.
    pub hosted: bool,
}

/// A running daemon: the event loop in one thread, the API server in another.
#[derive(Debug)]
pub struct Daemon {
    mailbox: Mailbox,
    thread: JoinHandle<Result<()>>,
    server: Server,
}

/// Starts a daemon in this process. Its API answers when this returns.
///
/// # Errors
/// Another daemon has the directory, or the host cannot run districts.
pub fn start(options: Options) -> Result<Daemon> {
    let Options { directory, hosted } = options;
    // A district takes about nine.
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }).context("more open files")?;
    let store = Store::open(directory.path())?;
    let (kvm, cpuid, standby) = open_kvm()?;
    let (mailbox, inbox) = mailbox().context("no eventfd can be had")?;
    let socket = directory.socket();
    let listener = server::listen(&socket).with_context(|| format!("{}", socket.display()))?;
    // In the thread, and not before it, because processes that are tied to this one are tied to the thread that starts
    // them.
    let maker = Maker { program: PathBuf::from("/proc/self/exe"), tied: hosted, kvm, cpuid };
    let host = Host { directory, tied: hosted, _standby: standby, store, inbox };
    let thread = std::thread::Builder::new()
        .name("event loop".into())
        .spawn(move || EventLoop::new(host, maker)?.run())
        .context("no thread can be had")?;
    let server = server::serve(listener, mailbox.clone()).context("the API server cannot be started")?;
    Ok(Daemon { mailbox, thread, server })
}

fn open_kvm() -> Result<(File, Cpuid, Standby)> {
    let remedy = "see `district doctor`";
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .with_context(|| format!("/dev/kvm cannot be opened; {remedy}"))?;
    let copy = file.try_clone().context("/dev/kvm")?;
    // SAFETY: `from_raw_fd` wants a descriptor of `/dev/kvm` that nobody else owns: `copy` has just given it up.
    let kvm = unsafe { Kvm::from_raw_fd(copy.into_raw_fd()) };
    debug_assert!(kvm.as_raw_fd() != file.as_raw_fd());
    let cpuid = features::supported_cpuid(&kvm).with_context(|| format!("this host cannot run districts; {remedy}"))?;
    let standby = Standby::new(&kvm).context("KVM")?;
    Ok((file, cpuid, standby))
}

impl Daemon {
    /// How to give it commands.
    pub fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// Ends it and waits until it has ended.
    ///
    /// # Errors
    /// What went wrong while it ended, or before.
    pub fn shutdown(self, districts: Leave) -> Result<()> {
        // Refused only if it is ending already.
        let _ = self.mailbox.post(Command::Shutdown(districts, Reply::new().0));
        self.join()
    }

    /// Waits until a command has ended it.
    ///
    /// # Errors
    /// What it ended with.
    pub fn join(self) -> Result<()> {
        let ended = self.thread.join().map_err(|_| anyhow!("the event loop panicked"))?;
        self.server.stop();
        ended
    }
}
