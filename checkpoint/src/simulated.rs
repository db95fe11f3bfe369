//! A disk in memory whose power can be cut at any operation.
//!
//! Every file and directory has a *live* state, which reads see, and a *durable* one, which a sync brings up to date. When
//! the power is cut, what was not synced is lost, kept, torn or reordered, as a seed decides. Operations that change
//! something are counted, so that a test can cut, or fail, each in turn.

mod contents;
mod handles;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use contents::{Inode, survivors};

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The disk is full: a part of what was to be written is. A sync does not find that out: there it is as `Io`.
    NoSpace,
    /// The disk fails: a write has no effect; a sync may lose what was not durable yet, although reads go on showing it.
    Io,
}

/// A sequence of numbers that a seed determines (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number less than `limit`, or 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.number().checked_rem(limit).unwrap_or(0)
    }

    /// True or false.
    pub fn coin(&mut self) -> bool {
        self.number() & 1 == 1
    }
}

type Names = BTreeMap<String, usize>;

#[derive(Debug, Clone)]
enum NameChange {
    Add(String, usize),
    Rename(String, String),
    Remove(String),
}

#[derive(Debug, Default)]
struct FolderState {
    live: Names,
    durable: Names,
    pending: Vec<NameChange>,
}

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    folders: BTreeMap<String, FolderState>,
    operations: u64,
    cut_at: Option<u64>,
    faults: BTreeMap<u64, Fault>,
    off: bool,
    /// Counts how often the power came back; what was open before is not any more.
    life: u64,
}

/// The disk. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

/// A directory on it.
#[derive(Debug, Clone)]
pub struct SimulatedFolder {
    disk: Disk,
    name: String,
    life: u64,
}

/// A file on it.
#[derive(Debug, Clone)]
pub struct SimulatedFile {
    disk: Disk,
    inode: usize,
    writable: bool,
    life: u64,
}

fn rename(names: &mut Names, change: &NameChange) {
    match change {
        NameChange::Add(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        NameChange::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
        NameChange::Remove(name) => {
            names.remove(name);
        }
    }
}

fn off() -> io::Error {
    io::Error::other("the power is off")
}

fn failure(fault: Fault) -> io::Error {
    match fault {
        Fault::NoSpace => io::ErrorKind::StorageFull.into(),
        Fault::Io => io::Error::from(rustix::io::Errno::IO),
    }
}

/// What becomes of an operation.
enum Fate {
    Done,
    /// It is in flight when the power goes.
    Cut,
    Fails(Fault),
}

impl State {
    fn check(&self, life: u64) -> io::Result<()> {
        if self.off || self.life != life { Err(off()) } else { Ok(()) }
    }

    fn operation(&mut self, life: u64) -> io::Result<Fate> {
        self.check(life)?;
        self.operations += 1;
        if self.cut_at == Some(self.operations) {
            self.off = true;
            return Ok(Fate::Cut);
        }
        Ok(self.faults.get(&self.operations).map_or(Fate::Done, |fault| Fate::Fails(*fault)))
    }

    fn inode(&mut self, inode: usize) -> io::Result<&mut Inode> {
        self.inodes.get_mut(inode).ok_or_else(off)
    }

    fn folder(&mut self, name: &str) -> &mut FolderState {
        self.folders.entry(name.to_owned()).or_default()
    }
}

impl Disk {
    /// An empty disk.
    pub fn new() -> Disk {
        Disk::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A directory, which is there as soon as it is asked for.
    pub fn folder(&self, name: &str) -> SimulatedFolder {
        SimulatedFolder { disk: self.clone(), name: name.to_owned(), life: self.state().life }
    }

    /// How many operations there were that change something or make it durable.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Cuts the power at that operation: it is in flight, and all after it fail.
    pub fn cut_at(&self, operation: u64) {
        self.state().cut_at = Some(operation);
    }

    /// Makes that operation fail.
    pub fn fail_at(&self, operation: u64, fault: Fault) {
        self.state().faults.insert(operation, fault);
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        self.state().off
    }

    /// Cuts the power, if it is not off, and brings it back. What was not durable is lost, kept, torn or reordered.
    pub fn restart(&self, seed: u64) {
        let mut random = Random(seed);
        let state = &mut *self.state();
        for inode in &mut state.inodes {
            inode.lose(&mut random);
            inode.live = inode.durable.clone();
        }
        for folder in state.folders.values_mut() {
            for (change, _) in survivors(&folder.pending, &mut random) {
                rename(&mut folder.durable, &change);
            }
            folder.pending.clear();
            folder.live = folder.durable.clone();
        }
        (state.off, state.cut_at) = (false, None);
        state.faults.clear();
        state.life += 1;
    }

    /// Gives the file `from` a second name, in another directory, both durable.
    pub fn link(&self, from: (&str, &str), to: (&str, &str)) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.folder(from.0).live.get(from.1).copied().ok_or(io::ErrorKind::NotFound)?;
        let folder = state.folder(to.0);
        folder.live.insert(to.1.to_owned(), inode);
        folder.durable.insert(to.1.to_owned(), inode);
        Ok(())
    }
}
