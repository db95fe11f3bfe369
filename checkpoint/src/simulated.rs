//! A disk in memory whose power can be cut at any operation.
//!
//! Every file and directory has a *live* state, which reads see, and a *durable* one, which a sync brings up to date. When
//! the power is cut, what was not synced is lost, kept, torn or reordered, as a seed decides. Operations that change
//! something are counted, so that a test can cut, or fail, each in turn.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::storage::{Access, Directory, Storage};

/// What a disk writes at once or not at all.
const SECTOR_SIZE: usize = 512;
const SECTOR: u64 = SECTOR_SIZE as u64;
type Sector = [u8; SECTOR_SIZE];

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

#[derive(Debug, Clone, Default)]
struct Contents {
    len: u64,
    sectors: BTreeMap<u64, Sector>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Hole(u64, u64),
    Len(u64),
}

#[derive(Debug, Default)]
struct Inode {
    live: Contents,
    durable: Contents,
    pending: Vec<Change>,
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

impl Contents {
    fn write(&mut self, offset: u64, data: &[u8]) {
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let within = usize::try_from(at % SECTOR).unwrap_or(0);
            let (now, after) = rest.split_at((SECTOR_SIZE - within).min(rest.len()));
            self.sectors.entry(at / SECTOR).or_insert([0; SECTOR_SIZE])[within..within + now.len()]
                .copy_from_slice(now);
            at += now.len() as u64;
            rest = after;
        }
        self.len = self.len.max(at);
    }

    fn cut(&mut self, from: u64, to: u64) {
        let (first, last) = (from.div_ceil(SECTOR), to / SECTOR);
        self.sectors.retain(|sector, _| *sector < first || *sector >= last);
        if from < first.saturating_mul(SECTOR).min(to) {
            self.zero(from, first.saturating_mul(SECTOR).min(to));
        }
        if first <= last && last.saturating_mul(SECTOR) < to {
            self.zero(last.saturating_mul(SECTOR), to);
        }
    }

    fn zero(&mut self, from: u64, to: u64) {
        let (len, zeros) = (self.len, vec![0; usize::try_from(to - from).unwrap_or(0)]);
        if self.sectors.contains_key(&(from / SECTOR)) {
            self.write(from, &zeros);
        }
        self.len = len;
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write(offset, data) => self.write(*offset, data),
            Change::Hole(offset, len) => self.cut(*offset, offset.saturating_add(*len)),
            Change::Len(len) => {
                if *len < self.len {
                    self.cut(*len, self.len.next_multiple_of(SECTOR));
                }
                self.len = *len;
            }
        }
    }

    /// Some sectors of a write reach the disk and others do not.
    fn tear(&mut self, offset: u64, data: &[u8], random: &mut Random) {
        let prefix = random.coin().then(|| random.below(data.len() as u64 + 1));
        let mut at = offset;
        while at < offset + data.len() as u64 {
            let end = (at / SECTOR + 1).saturating_mul(SECTOR).min(offset + data.len() as u64);
            let kept = prefix.map_or_else(|| random.coin(), |prefix| end - offset <= prefix);
            let [from, to] = [at, end].map(|at| usize::try_from(at - offset).unwrap_or(0));
            if let Some(part) = data.get(from..to).filter(|_| kept) {
                self.write(at, part);
            }
            at = end;
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = buffer;
        let mut at = offset;
        while !rest.is_empty() {
            let within = usize::try_from(at % SECTOR).unwrap_or(0);
            let (now, after) = rest.split_at_mut((SECTOR_SIZE - within).min(rest.len()));
            match self.sectors.get(&(at / SECTOR)) {
                Some(sector) => now.copy_from_slice(&sector[within..within + now.len()]),
                None => now.fill(0),
            }
            at += now.len() as u64;
            rest = after;
        }
        Ok(())
    }
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

/// What of `changes` reaches the disk: none, all, the first few, or any; of those, `true` for the ones that arrive whole.
fn survivors<T: Clone>(changes: &[T], random: &mut Random) -> Vec<(T, bool)> {
    let whole = |changes: &[T]| changes.iter().map(|change| (change.clone(), true)).collect();
    match random.below(6) {
        0 => Vec::new(),
        1 => whole(changes),
        2 => {
            let count = usize::try_from(random.below(changes.len() as u64 + 1)).unwrap_or(0);
            whole(changes.get(..count).unwrap_or_default())
        }
        _ => {
            let picked = changes.iter().filter_map(|change| match random.below(3) {
                0 => None,
                1 => Some((change.clone(), true)),
                _ => Some((change.clone(), false)),
            });
            picked.collect()
        }
    }
}

impl Inode {
    fn change(&mut self, change: Change) {
        self.live.apply(&change);
        self.pending.push(change);
    }

    fn lose(&mut self, random: &mut Random) {
        for (change, whole) in survivors(&self.pending, random) {
            match &change {
                Change::Write(offset, data) if !whole => self.durable.tear(*offset, data, random),
                _ => self.durable.apply(&change),
            }
        }
        self.pending.clear();
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

impl SimulatedFolder {
    fn change(&self, make: impl FnOnce(&mut State) -> io::Result<NameChange>) -> io::Result<()> {
        let mut state = self.disk.state();
        let fate = state.operation(self.life)?;
        if let Fate::Fails(fault) = fate {
            return Err(failure(fault));
        }
        let change = make(&mut state)?;
        let folder = state.folder(&self.name);
        rename(&mut folder.live, &change);
        folder.pending.push(change);
        if matches!(fate, Fate::Cut) { Err(off()) } else { Ok(()) }
    }

    fn must_have(state: &mut State, folder: &str, name: &str) -> io::Result<()> {
        let there = state.folder(folder).live.contains_key(name);
        if there { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }
}

impl Directory for SimulatedFolder {
    type File = SimulatedFile;

    fn names(&self) -> io::Result<Vec<String>> {
        let mut state = self.disk.state();
        state.check(self.life)?;
        Ok(state.folder(&self.name).live.keys().cloned().collect())
    }

    fn open(&self, name: &str, access: Access) -> io::Result<SimulatedFile> {
        let mut state = self.disk.state();
        state.check(self.life)?;
        let inode = state.folder(&self.name).live.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
        let writable = access == Access::Write;
        Ok(SimulatedFile { disk: self.disk.clone(), inode, writable, life: self.life })
    }

    fn create_new(&self, name: &str) -> io::Result<SimulatedFile> {
        let mut made = 0;
        self.change(|state| {
            if state.folder(&self.name).live.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            made = state.inodes.len();
            state.inodes.push(Inode::default());
            Ok(NameChange::Add(name.to_owned(), made))
        })?;
        Ok(SimulatedFile { disk: self.disk.clone(), inode: made, writable: true, life: self.life })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(|state| {
            Self::must_have(state, &self.name, from)?;
            Ok(NameChange::Rename(from.to_owned(), to.to_owned()))
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(|state| {
            Self::must_have(state, &self.name, name)?;
            Ok(NameChange::Remove(name.to_owned()))
        })
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        match state.operation(self.life)? {
            Fate::Cut => Err(off()),
            Fate::Fails(fault) => Err(failure(fault)),
            Fate::Done => {
                let folder = state.folder(&self.name);
                folder.durable = folder.live.clone();
                folder.pending.clear();
                Ok(())
            }
        }
    }
}

impl SimulatedFile {
    fn change(&self, change: Change) -> io::Result<()> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut state = self.disk.state();
        let fate = state.operation(self.life)?;
        let inode = state.inode(self.inode)?;
        match (fate, change) {
            (Fate::Done, change) => inode.change(change),
            (Fate::Cut, change) => {
                inode.change(change);
                return Err(off());
            }
            (Fate::Fails(Fault::NoSpace), Change::Write(offset, mut data)) => {
                data.truncate(data.len() / 2);
                inode.change(Change::Write(offset, data));
                return Err(failure(Fault::NoSpace));
            }
            (Fate::Fails(fault), _) => return Err(failure(fault)),
        }
        Ok(())
    }
}

impl Storage for SimulatedFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.check(self.life)?;
        state.inode(self.inode)?.live.read(offset, buffer)
    }

    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let data = slices.iter().map(|slice| &**slice).collect::<Vec<&[u8]>>().concat();
        self.change(Change::Write(offset, data))
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.change(Change::Hole(offset, len))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Len(len))
    }

    fn size(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.check(self.life)?;
        Ok(state.inode(self.inode)?.live.len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let operation = state.operations;
        match state.operation(self.life)? {
            Fate::Cut => Err(off()),
            Fate::Fails(fault) => {
                // As Linux does: what could not be written is clean afterwards, and never written again.
                state.inode(self.inode)?.lose(&mut Random(operation));
                Err(failure(fault))
            }
            Fate::Done => {
                let inode = state.inode(self.inode)?;
                let Inode { durable, pending, .. } = inode;
                pending.iter().for_each(|change| durable.apply(change));
                pending.clear();
                Ok(())
            }
        }
    }
}
