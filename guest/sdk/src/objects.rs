//! The objects that the host serves, each with the operations that its keys have (`protocol::operation`).

use core::time::Duration;

use alloc::string::String;
use alloc::vec::Vec;

use district_protocol::frame::DATA_MAX;
use district_protocol::operation::{KeyKind, clock, directory, number, random};

use crate::{Error, Invocation, Key, time};

const LIST_CAPACITY: u32 = {
    #[allow(clippy::cast_possible_truncation)] // 65,536
    let bytes = DATA_MAX as u32;
    bytes
};

/// A directory: finds keys by name.
#[derive(Debug)]
pub struct Directory(pub Key);

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The name.
    pub name: String,
    /// What it means; `None` while its owner has not published it.
    pub kind: Option<KeyKind>,
}

impl Directory {
    /// What the bootstrap key points to.
    pub fn bootstrap() -> Directory {
        Directory(Key::bootstrap())
    }

    /// The key that `path` means now.
    ///
    /// # Errors
    /// [`Error::NotFound`] for no such name; [`Error::NotReady`] while its owner has not published it.
    pub fn lookup(&self, path: &str) -> Result<Key, Error> {
        self.0.call(directory::LOOKUP, path.as_bytes()).wait()?.into_key()
    }

    /// The key that `path` means, waiting for its owner for at most `timeout`.
    ///
    /// # Errors
    /// [`Error::NotFound`] for no such name; [`Error::Unknown`] or [`Error::NotDelivered`] if the time is over.
    pub fn lookup_wait(&self, path: &str, timeout: Duration) -> Result<Key, Error> {
        self.0.call(directory::LOOKUP_WAIT, path.as_bytes()).timeout(timeout).wait()?.into_key()
    }

    /// The names in the directory at `path`, or in this one if that is empty.
    ///
    /// # Errors
    /// [`Error::Denied`] without the right `LIST`.
    pub fn list(&self, path: &str) -> Result<Vec<DirectoryEntry>, Error> {
        let reply = self.0.call(directory::LIST, path.as_bytes()).reply_capacity(LIST_CAPACITY).wait()?;
        let mut entries = Vec::new();
        let mut rest = reply.data.as_slice();
        while let [kind, len, tail @ ..] = rest {
            let Some((name, tail)) = tail.split_at_checked(usize::from(*len)) else { break };
            let name = String::from_utf8_lossy(name).into_owned();
            entries.push(DirectoryEntry { name, kind: KeyKind::from_raw(*kind) });
            rest = tail;
        }
        Ok(entries)
    }

    /// Makes `path` mean a copy of `key`, and returns the binding's version. On a key that stands for one name, as
    /// those below `publish` do, `path` is empty.
    ///
    /// # Errors
    /// [`Error::Denied`] without the right `BIND`.
    pub fn bind(&self, path: &str, key: &Key) -> Result<u64, Error> {
        Ok(self.0.call(directory::BIND, path.as_bytes()).key(key).wait()?.result)
    }

    /// As [`Self::bind`], but only if the binding still has this version.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub fn rebind(&self, path: &str, version: u64, key: &Key) -> Result<u64, Error> {
        let mut data = version.to_le_bytes().to_vec();
        data.extend_from_slice(path.as_bytes());
        Ok(self.0.call(directory::REBIND, &data).key(key).wait()?.result)
    }

    /// Makes `path` mean nothing until it is bound again.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub fn unbind(&self, path: &str) -> Result<(), Error> {
        self.0.call(directory::UNBIND, path.as_bytes()).wait().map(drop)
    }

    /// Publishes `key` under a name that this district may publish: for all who were granted that name, it now means a
    /// copy of `key`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the name is not the district's to publish.
    pub fn publish(&self, name: &str, key: &Key) -> Result<u64, Error> {
        let mut path = String::from(directory::PUBLISH);
        path.push('/');
        path.push_str(name);
        Directory(self.lookup(&path)?).bind("", key)
    }
}

/// A clock of the host.
#[derive(Debug)]
pub struct Clock(pub Key);

impl Clock {
    /// Nanoseconds since 1970. [`time::now`] says the same without asking.
    ///
    /// # Errors
    /// [`Error::Broken`].
    pub fn now(&self) -> Result<u64, Error> {
        Ok(self.0.call(clock::NOW, &[]).reply_capacity(0).wait()?.result)
    }

    /// Waits; returns the time then.
    ///
    /// # Errors
    /// [`Error::Broken`], [`Error::Unknown`].
    pub fn sleep(&self, time: Duration) -> Result<u64, Error> {
        Ok(self.timer(&time::nanoseconds(time).to_le_bytes()).wait()?.result)
    }

    /// A call that is answered after the time in `nanoseconds`, a little-endian number; with [`Invocation::start`], a
    /// timer beside whatever else the program waits for.
    pub fn timer<'a>(&self, nanoseconds: &'a [u8; 8]) -> Invocation<'a> {
        self.0.call(clock::SLEEP, nanoseconds).reply_capacity(0)
    }
}

/// A source of unpredictable bytes.
#[derive(Debug)]
pub struct Random(pub Key);

impl Random {
    /// `count` of them, at most 65,536.
    ///
    /// # Errors
    /// [`Error::Broken`].
    pub fn bytes(&self, count: u32) -> Result<Vec<u8>, Error> {
        Ok(self.0.call(random::BYTES, &count.to_le_bytes()).reply_capacity(count).wait()?.data)
    }
}

/// Stands for a number.
#[derive(Debug)]
pub struct Number(pub Key);

impl Number {
    /// The number.
    ///
    /// # Errors
    /// [`Error::Broken`].
    pub fn get(&self) -> Result<u64, Error> {
        Ok(self.0.call(number::GET, &[]).reply_capacity(0).wait()?.result)
    }
}
