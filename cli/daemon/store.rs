//! What must outlive the daemon and does not change often: which districts there are, and bound names. (What each start
//! changes is in [`super::life_file`].)
//!
//! One `redb` file, `state.redb`, in the state directory. Every write here is one transaction and is durable when the
//! call returns. It is also the lock: a second daemon on the same directory cannot open it.

use std::path::Path;

use anyhow::{Context, Result, bail};
use district_broker::{BindingRecord, DistrictId};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use super::memory::Wanted;
use crate::api::info::{End, State};
use crate::api::spec::Spec;

/// District name -> [`Record`] as JSON.
const DISTRICTS: TableDefinition<&str, &[u8]> = TableDefinition::new("districts");
/// (owner's id, name) -> version.
const BINDINGS: TableDefinition<(&[u8; 16], &str), u64> = TableDefinition::new("bindings");
/// Facts about the file itself; `version` is the only one.
const ABOUT: TableDefinition<&str, u64> = TableDefinition::new("about");

/// Version of the tables above.
const STORE_VERSION: u64 = 2;

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
    /// What its last life began with, if that was not its newest checkpoint and no other one has been taken since. Those
    /// that there are would undo it.
    #[serde(default)]
    pub pinned: Option<Wanted>,
}

impl Record {
    /// A district that has never run.
    pub fn new(id: [u8; 16], spec: Spec) -> Record {
        Record { id, spec, wanted: false, state: State::Stopped, last_end: None, pinned: None }
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

    /// Forgets a district and its names. Its identity is never given out again.
    pub fn remove_district(&self, name: &str, id: &[u8; 16]) -> Result<()> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(DISTRICTS)?.remove(name)?;
        transaction.open_table(BINDINGS)?.retain(|(owner, _), _| owner != id)?;
        transaction.commit()?;
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::name::Name;

    fn record() -> Record {
        let spec = Spec::new(Name::new("counter").unwrap(), "/image".into());
        Record::new([7; 16], spec)
    }

    #[test]
    fn bindings_and_districts_survive_and_removal_takes_all() {
        let directory = tempfile::tempdir().unwrap();
        let binding = BindingRecord { owner: DistrictId([7; 16]), name: "count".into(), version: 3 };
        {
            let store = Store::open(directory.path()).unwrap();
            store.put_district("counter", &record()).unwrap();
            store.put_binding(&binding).unwrap();
        }
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.bindings().unwrap(), [binding]);
        assert_eq!(store.districts().unwrap().len(), 1);
        store.remove_district("counter", &[7; 16]).unwrap();
        assert!(store.bindings().unwrap().is_empty());
        assert!(store.districts().unwrap().is_empty());
    }

    #[test]
    fn a_second_daemon_on_the_same_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let _first = Store::open(directory.path()).unwrap();
        let error = Store::open(directory.path()).err().unwrap().to_string();
        assert!(error.contains("in use by another district process"), "{error}");
    }
}
