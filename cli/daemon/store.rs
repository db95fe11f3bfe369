//! What must outlive the daemon: which districts there are, their epochs and handle serials, and bound names.
//!
//! One `redb` file, `state.redb`, in the state directory. Every write here is one transaction and is durable when the
//! call returns. It is also the lock: a second daemon on the same directory cannot open it.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail};
use district_broker::{BindingRecord, DistrictId};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::process::Identity;
use crate::api::info::{End, State};
use crate::api::spec::Spec;

/// District name -> [`Record`] as JSON.
const DISTRICTS: TableDefinition<&str, &[u8]> = TableDefinition::new("districts");
/// District id -> (epoch of the newest life, its first handle serial, first handle serial not yet reserved).
const LIVES: TableDefinition<&[u8; 16], (u64, u64, u64)> = TableDefinition::new("lives");
/// District id -> number, start time and host's start of the newest life's vmm process ([`Identity`]).
const PROCESSES: TableDefinition<&[u8; 16], (u32, u64, u128)> = TableDefinition::new("processes");
/// (owner's id, name) -> version.
const BINDINGS: TableDefinition<(&[u8; 16], &str), u64> = TableDefinition::new("bindings");
/// Facts about the file itself; `version` is the only one.
const ABOUT: TableDefinition<&str, u64> = TableDefinition::new("about");

/// Version of the tables above.
const STORE_VERSION: u64 = 1;

/// Handle serials reserved at a time. The space holds 2^24 such blocks for one district.
const SERIALS_PER_BLOCK: u64 = 1 << 20;

/// A district in the catalogue.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Permanent identity.
    pub id: [u8; 16],
    /// What it was last started from.
    pub spec: Spec,
    /// Whether it should be running: what the next daemon goes by.
    pub wanted: bool,
    /// What it was left as, if it should not be running.
    pub state: State,
    /// How its last life ended, if one did.
    pub last_end: Option<End>,
}

impl Record {
    /// A district that has never run.
    pub fn new(id: [u8; 16], spec: Spec) -> Record {
        Record { id, spec, wanted: false, state: State::Stopped, last_end: None }
    }
}

/// What a session of a district begins with, durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    /// The epoch of the life that the session is in.
    pub epoch: u64,
    /// First handle serial of that life.
    pub epoch_first_serial: u64,
    /// The handle serials that may be issued from now on.
    pub serials: Range<u64>,
}

/// A life that is written down and not durable yet.
#[must_use = "a life must not begin before it is durable"]
pub struct Beginning {
    reserved: Reserved,
    transaction: WriteTransaction,
}

impl Beginning {
    /// The epoch that it is going to be.
    pub fn epoch(&self) -> u64 {
        self.reserved.epoch
    }

    /// Makes it durable.
    pub fn commit(self) -> Result<Reserved> {
        self.transaction.commit()?;
        Ok(self.reserved)
    }
}

/// The open store.
pub struct Store {
    database: Database,
}

impl Store {
    /// Opens or creates the store in `directory`. Fails if another daemon has it open.
    pub fn open(directory: &Path) -> Result<Store> {
        let path = directory.join("state.redb");
        let database = match Database::create(&path) {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => bail!(
                "{}: in use by another district process; stop it, or choose another directory with --dir",
                directory.display()
            ),
            Err(error) => return Err(error).with_context(|| format!("{}: cannot be opened", path.display())),
        };
        let transaction = database.begin_write()?;
        {
            transaction.open_table(DISTRICTS)?;
            transaction.open_table(LIVES)?;
            transaction.open_table(PROCESSES)?;
            transaction.open_table(BINDINGS)?;
            let mut about = transaction.open_table(ABOUT)?;
            let version = about.get("version")?.map(|version| version.value());
            match version {
                None => {
                    about.insert("version", STORE_VERSION)?;
                }
                Some(STORE_VERSION) => {}
                Some(other) => bail!(
                    "{}: has version {other}, this program knows version {STORE_VERSION}; use the district version that wrote it",
                    path.display()
                ),
            }
        }
        transaction.commit()?;
        Ok(Store { database })
    }

    /// All districts of the catalogue, by name.
    pub fn districts(&self) -> Result<Vec<(String, Record)>> {
        let transaction = self.database.begin_read()?;
        let table = transaction.open_table(DISTRICTS)?;
        let mut found = Vec::new();
        for entry in table.iter()? {
            let (name, record) = entry?;
            let record = serde_json::from_slice(record.value())
                .with_context(|| format!("the catalogue's record of district {} is damaged", name.value()))?;
            found.push((name.value().to_owned(), record));
        }
        Ok(found)
    }

    /// Records a district, or its new specification.
    pub fn put_district(&self, name: &str, record: &Record) -> Result<()> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(DISTRICTS)?.insert(name, serde_json::to_vec(record)?.as_slice())?;
        transaction.commit()?;
        Ok(())
    }

    /// Forgets a district, its epochs and its names. Its identity is never given out again.
    pub fn remove_district(&self, name: &str, id: &[u8; 16]) -> Result<()> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(DISTRICTS)?.remove(name)?;
        transaction.open_table(LIVES)?.remove(id)?;
        transaction.open_table(PROCESSES)?.remove(id)?;
        transaction.open_table(BINDINGS)?.retain(|(owner, _), _| owner != id)?;
        transaction.commit()?;
        Ok(())
    }

    /// Begins a new life of the district in `process`: the next epoch and a block of handle serials. `record` is written
    /// with it, so that starting a district costs one transaction.
    pub fn begin_life(&self, name: &str, record: &Record, process: &Identity) -> Result<Beginning> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(DISTRICTS)?.insert(name, serde_json::to_vec(record)?.as_slice())?;
        let Identity { pid, start_time, boot } = *process;
        transaction.open_table(PROCESSES)?.insert(&record.id, (pid, start_time, boot))?;
        let (epoch, _, next) = life(&transaction, &record.id)?;
        let serials = next_block(next)?;
        let reserved = Reserved { epoch: epoch + 1, epoch_first_serial: serials.start, serials };
        put_life(&transaction, &record.id, &reserved)?;
        Ok(Beginning { reserved, transaction })
    }

    /// The vmm process of the district's newest life.
    pub fn process(&self, id: &[u8; 16]) -> Result<Option<Identity>> {
        let transaction = self.database.begin_read()?;
        let found = transaction.open_table(PROCESSES)?.get(id)?.map(|process| process.value());
        Ok(found.map(|(pid, start_time, boot)| Identity { pid, start_time, boot }))
    }

    /// A further block of handle serials for the district's present life.
    pub fn reserve_serials(&self, id: &[u8; 16]) -> Result<Reserved> {
        let transaction = self.database.begin_write()?;
        let (epoch, epoch_first_serial, next) = life(&transaction, id)?;
        let reserved = Reserved { epoch, epoch_first_serial, serials: next_block(next)? };
        put_life(&transaction, id, &reserved)?;
        transaction.commit()?;
        Ok(reserved)
    }

    /// Epoch of the district's newest life; 0 if it has had none.
    pub fn epoch(&self, id: &[u8; 16]) -> Result<u64> {
        let transaction = self.database.begin_read()?;
        let table = transaction.open_table(LIVES)?;
        Ok(table.get(id)?.map_or(0, |life| life.value().0))
    }

    /// All names that have been bound.
    pub fn bindings(&self) -> Result<Vec<BindingRecord>> {
        let transaction = self.database.begin_read()?;
        let table = transaction.open_table(BINDINGS)?;
        let mut found = Vec::new();
        for entry in table.iter()? {
            let (key, version) = entry?;
            let (owner, name) = key.value();
            found.push(BindingRecord { owner: DistrictId(*owner), name: name.into(), version: version.value() });
        }
        Ok(found)
    }

    /// Records a bound name.
    pub fn put_binding(&self, binding: &BindingRecord) -> Result<()> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(BINDINGS)?.insert((&binding.owner.0, &*binding.name), binding.version)?;
        transaction.commit()?;
        Ok(())
    }
}

/// Epoch, first serial and next serial of a district.
fn life(transaction: &WriteTransaction, id: &[u8; 16]) -> Result<(u64, u64, u64)> {
    let table = transaction.open_table(LIVES)?;
    Ok(table.get(id)?.map_or((0, 1, 1), |life| life.value()))
}

fn put_life(transaction: &WriteTransaction, id: &[u8; 16], reserved: &Reserved) -> Result<()> {
    let value = (reserved.epoch, reserved.epoch_first_serial, reserved.serials.end);
    transaction.open_table(LIVES)?.insert(id, value)?;
    Ok(())
}

fn next_block(serial: u64) -> Result<Range<u64>> {
    let end = serial + SERIALS_PER_BLOCK;
    if end > district_protocol::handle::SERIAL_MAX {
        bail!("the district has used up all its handle serials; remove it and start it anew under a new identity");
    }
    Ok(serial..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::name::Name;

    fn record() -> Record {
        let spec = Spec::new(Name::new("counter").unwrap(), "/image".into());
        Record::new([7; 16], spec)
    }

    const PROCESS: Identity = Identity { pid: 17, start_time: 4, boot: u128::MAX };

    fn begin_life(store: &Store) -> Reserved {
        store.begin_life("counter", &record(), &PROCESS).unwrap().commit().unwrap()
    }

    #[test]
    fn a_life_that_was_not_committed_was_none() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let _ = store.begin_life("counter", &record(), &PROCESS).unwrap();
        assert_eq!(begin_life(&store).epoch, 1);
    }

    #[test]
    fn c09_a_life_that_never_ran_still_used_up_its_epoch() {
        let directory = tempfile::tempdir().unwrap();
        let first = begin_life(&Store::open(directory.path()).unwrap());
        // The host died here, before the first instruction.
        let second = begin_life(&Store::open(directory.path()).unwrap());
        assert_eq!(second.epoch, first.epoch + 1);
        assert_eq!(second.serials.start, first.serials.end);
        assert_eq!(second.epoch_first_serial, second.serials.start);
    }

    #[test]
    fn a_further_session_of_a_life_keeps_its_epoch_and_gets_new_serials() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let first = begin_life(&store);
        let second = store.reserve_serials(&[7; 16]).unwrap();
        assert_eq!((second.epoch, second.epoch_first_serial), (first.epoch, first.epoch_first_serial));
        assert_eq!(second.serials.start, first.serials.end);
        assert_eq!(store.epoch(&[7; 16]).unwrap(), 1);
    }

    #[test]
    fn bindings_and_districts_survive_and_removal_takes_all() {
        let directory = tempfile::tempdir().unwrap();
        let binding = BindingRecord { owner: DistrictId([7; 16]), name: "count".into(), version: 3 };
        {
            let store = Store::open(directory.path()).unwrap();
            begin_life(&store);
            store.put_binding(&binding).unwrap();
        }
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.process(&[7; 16]).unwrap(), Some(PROCESS));
        assert_eq!(store.bindings().unwrap(), [binding]);
        assert_eq!(store.districts().unwrap().len(), 1);
        store.remove_district("counter", &[7; 16]).unwrap();
        assert!(store.bindings().unwrap().is_empty());
        assert!(store.districts().unwrap().is_empty());
        assert_eq!(store.process(&[7; 16]).unwrap(), None);
    }

    #[test]
    fn a_second_daemon_on_the_same_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let _first = Store::open(directory.path()).unwrap();
        let error = Store::open(directory.path()).err().unwrap().to_string();
        assert!(error.contains("in use by another district process"), "{error}");
    }
}
