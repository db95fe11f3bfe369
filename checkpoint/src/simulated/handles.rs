//! The simulated disk as [`Storage`] and [`Directory`].

use std::io::{self, IoSlice};

use super::contents::{Change, Inode};
use super::{Fate, Fault, NameChange, Random, SimulatedFile, SimulatedFolder, State, failure, off, rename};
use crate::storage::{Access, Directory, Storage};

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
