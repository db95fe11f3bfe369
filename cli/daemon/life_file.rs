//! The newest life of a district, durable before its first instruction: the epoch, the handle serials reserved for it,
//! and its vmm process.
//!
//! A file per district, `districts/ID/lives` in the state directory: two blocks that are written in turn, in place. So a
//! start costs one flush of one block that the file has already, a third of what a transaction in a database takes, and
//! whatever happens while one block is written, the other one holds.

use std::collections::HashSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use district_broker::DistrictId;
use xxhash_rust::xxh3::xxh3_64;

use super::process::Identity;

/// First bytes of a block that holds a life, with the version of the format.
const MAGIC: [u8; 8] = *b"DLIFE\0\0\x01";
/// Bytes of a block: a page of the page cache, so that the two are never written together.
const BLOCK: usize = 4096;
/// Bytes of a block that mean something; the last eight are the XXH3 checksum of those before.
const USED: usize = 104;

/// Handle serials reserved at a time. The space holds 2^24 such blocks for one district.
const SERIALS_PER_BLOCK: u64 = 1 << 20;

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

/// A life as a block holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Life {
    /// Counts the blocks that have been written: the higher one is valid, and written over last.
    sequence: u64,
    epoch: u64,
    epoch_first_serial: u64,
    /// First handle serial that is not reserved yet.
    next_serial: u64,
    process: Option<Identity>,
}

impl Life {
    /// Before the first one.
    const NONE: Life = Life { sequence: 0, epoch: 0, epoch_first_serial: 1, next_serial: 1, process: None };

    fn encode(&self, id: DistrictId) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            block[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&MAGIC);
        put(&id.0);
        for word in [self.sequence, self.epoch, self.epoch_first_serial, self.next_serial] {
            put(&word.to_le_bytes());
        }
        // No process has number 0.
        let Identity { pid, start_time, boot } = self.process.unwrap_or(Identity { pid: 0, start_time: 0, boot: 0 });
        put(&u64::from(pid).to_le_bytes());
        put(&start_time.to_le_bytes());
        put(&boot.to_le_bytes());
        let checksum = xxh3_64(&block[..USED - 8]);
        block[USED - 8..USED].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    /// What an intact block of this district says.
    fn decode(block: &[u8; BLOCK], id: DistrictId) -> Option<Life> {
        let word = |at: usize| block[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        if block[..8] != MAGIC || block[8..24] != id.0 || xxh3_64(&block[..USED - 8]) != word(USED - 8) {
            return None;
        }
        let boot = u128::from(word(72)) | u128::from(word(80)) << 64;
        let pid = u32::try_from(word(56)).ok()?;
        Some(Life {
            sequence: word(24),
            epoch: word(32),
            epoch_first_serial: word(40),
            next_serial: word(48),
            process: (pid != 0).then_some(Identity { pid, start_time: word(64), boot }),
        })
    }

    /// This life with a further block of handle serials.
    fn reserve(self) -> Result<(Life, Reserved)> {
        let serials = self.next_serial..self.next_serial.saturating_add(SERIALS_PER_BLOCK);
        if serials.end > district_protocol::handle::SERIAL_MAX {
            bail!("the district has used up all its handle serials; remove it and start it anew under a new identity");
        }
        let reserved = Reserved { epoch: self.epoch, epoch_first_serial: self.epoch_first_serial, serials };
        Ok((Life { sequence: self.sequence + 1, next_serial: reserved.serials.end, ..self }, reserved))
    }
}

/// Removes what a district that is no more has left. What cannot be removed is left for the next daemon.
pub fn remove(state: &Path, id: DistrictId) {
    let directory = directory(state, id);
    if let Err(error) = std::fs::remove_dir_all(&directory)
        && error.kind() != io::ErrorKind::NotFound
    {
        log::warn!("{}: cannot be removed: {error}", directory.display());
    }
}

/// Removes what districts have left that are not in the catalogue.
pub fn remove_strangers(state: &Path, known: &HashSet<String>) {
    // Without the directory there is nothing in it.
    for entry in std::fs::read_dir(state.join("districts")).into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(|name| known.contains(name))
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            log::warn!("{}: cannot be removed: {error}", entry.path().display());
        }
    }
}

/// The directory of what a district has beside its record in the catalogue.
pub fn directory(state: &Path, id: DistrictId) -> PathBuf {
    state.join("districts").join(id.to_string())
}

/// Makes the file of a district that is a copy and not in the catalogue yet: its lives follow those of the one that its
/// memory is a copy of, up to this epoch and handle serial. The program in it knows that epoch, and handles, and is to
/// take no later ones for the same. The district's directory is there. Nothing is durable before [`sync`].
pub fn follow(state: &Path, id: DistrictId, epoch: u64, next_serial: u64) -> Result<()> {
    let path = directory(state, id).join("lives");
    let life = Life { sequence: 1, epoch, next_serial: next_serial.max(1), ..Life::NONE };
    // Under its name at once, unlike the first of a district that is known: as long as nobody knows of this one, half a
    // file does no harm, and this is one commit of the file system less.
    let made = write_new(&path, &life.encode(id));
    made.map(drop).with_context(|| format!("{}: cannot be made", path.display()))
}

/// Makes durable what [`follow`] has made, and the names on the way to it.
pub fn sync(state: &Path, id: DistrictId) -> Result<()> {
    let path = directory(state, id).join("lives");
    let synced = File::open(&path).and_then(|file| file.sync_all());
    synced.with_context(|| format!("{}: does not get to the disk", path.display()))?;
    sync_names(state, id)
}

/// Makes the directory in which districts have theirs, durably.
pub fn make_directory(state: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(state.join("districts"))?;
    File::open(state)?.sync_all()
}

/// Makes the names on the way to a district's files durable, from the directory of all on.
fn sync_names(state: &Path, id: DistrictId) -> Result<()> {
    let district = directory(state, id);
    let synced = [&district, parent(&district)].into_iter().try_for_each(|it| File::open(it)?.sync_all());
    synced.with_context(|| format!("{}: does not get to the disk", district.display()))
}

/// The file of one district, open.
pub struct LifeFile {
    id: DistrictId,
    path: PathBuf,
    file: File,
    newest: Life,
}

/// A life that is written down and not durable yet.
#[must_use = "a life must not begin before it is durable"]
pub struct Beginning {
    file: LifeFile,
    reserved: Reserved,
}

impl Beginning {
    /// Its epoch.
    pub fn epoch(&self) -> u64 {
        self.reserved.epoch
    }

    /// Makes it durable.
    pub fn commit(self) -> Result<Reserved> {
        self.file.sync()?;
        Ok(self.reserved)
    }
}

impl LifeFile {
    /// Opens the file of a district, and makes it if there is none.
    pub fn open(state: &Path, id: DistrictId) -> Result<LifeFile> {
        let path = directory(state, id).join("lives");
        let open = || OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(&path);
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = create(&path).with_context(|| format!("{}: cannot be made", path.display()))?;
                sync_names(state, id)?;
                Ok(file)
            }
            opened => opened,
        };
        let file = file.with_context(|| format!("{}: cannot be opened", path.display()))?;
        let newest = newest(&file, &path, id)?;
        Ok(LifeFile { id, path, file, newest })
    }

    /// Epoch of the newest life; 0 if there has been none.
    pub fn epoch(&self) -> u64 {
        self.newest.epoch
    }

    /// Epoch of the life that [`Self::begin_life`] is going to begin.
    pub fn next_epoch(&self) -> Result<u64> {
        self.newest.epoch.checked_add(1).context("the district has used up all its epochs")
    }

    /// The vmm process of the newest life.
    pub fn process(&self) -> Option<Identity> {
        self.newest.process
    }

    /// The first handle serial that no life has had reserved.
    pub fn next_serial(&self) -> u64 {
        self.newest.next_serial
    }

    /// Begins a new life in `process`: the next epoch and a block of handle serials.
    pub fn begin_life(mut self, process: Identity) -> Result<Beginning> {
        let epoch = self.next_epoch()?;
        let epoch_first_serial = self.newest.next_serial;
        let (life, reserved) = Life { epoch, epoch_first_serial, process: Some(process), ..self.newest }.reserve()?;
        self.write(life)?;
        Ok(Beginning { file: self, reserved })
    }

    /// A further block of handle serials for the present life, durable.
    pub fn reserve_serials(mut self) -> Result<Reserved> {
        let (life, reserved) = self.newest.reserve()?;
        self.write(life)?;
        self.sync()?;
        Ok(reserved)
    }

    fn write(&mut self, life: Life) -> Result<()> {
        let offset = life.sequence % 2 * BLOCK as u64;
        let written = self.file.write_all_at(&life.encode(self.id), offset);
        written.with_context(|| format!("{}: cannot be written", self.path.display()))?;
        self.newest = life;
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().with_context(|| format!("{}: does not get to the disk", self.path.display()))
    }
}

/// The newest intact life in the file. The block that was being written when the host went down may be anything; the
/// other one is intact, or the file has never held a life.
fn newest(file: &File, path: &Path, id: DistrictId) -> Result<Life> {
    let mut newest = Life::NONE;
    let mut blank = true;
    for index in 0..2 {
        let mut block = [0; BLOCK];
        let read = file.read_exact_at(&mut block, index * BLOCK as u64);
        read.with_context(|| format!("{}: cannot be read", path.display()))?;
        blank &= block.iter().all(|byte| *byte == 0);
        if let Some(life) = Life::decode(&block, id)
            && life.sequence > newest.sequence
        {
            ensure!(life.sequence < u64::MAX, "{}: is damaged", path.display());
            newest = life;
        }
    }
    ensure!(
        blank || newest.sequence > 0,
        "{}: is damaged, so nobody knows which epoch would be new; put back a copy of the state directory, or remove the \
         district and start it anew under a new identity",
        path.display()
    );
    Ok(newest)
}

/// Makes the file, without a life in it. It has its name once it is durable.
fn create(path: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(parent(path))?;
    let new = path.with_extension("new");
    let file = write_new(&new, &[0; BLOCK])?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    Ok(file)
}

/// Writes a file whose second block is this.
fn write_new(path: &Path, second: &[u8; BLOCK]) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all_at(&[[0; BLOCK], *second].concat(), 0)?;
    Ok(file)
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: DistrictId = DistrictId([7; 16]);
    const PROCESS: Identity = Identity { pid: 17, start_time: 4, boot: u128::MAX - 5 };

    fn begin(state: &Path) -> Reserved {
        LifeFile::open(state, ID).unwrap().begin_life(PROCESS).unwrap().commit().unwrap()
    }

    #[test]
    fn c09_a_life_that_never_ran_still_used_up_its_epoch() {
        let state = tempfile::tempdir().unwrap();
        let first = begin(state.path());
        assert_eq!((first.epoch, first.serials.start), (1, 1));
        // The host died here, before the first instruction.
        let second = begin(state.path());
        assert_eq!(second.epoch, first.epoch + 1);
        assert_eq!(second.serials.start, first.serials.end);
        assert_eq!(second.epoch_first_serial, second.serials.start);
        assert_eq!(LifeFile::open(state.path(), ID).unwrap().process(), Some(PROCESS));
    }

    #[test]
    fn a_further_session_of_a_life_keeps_its_epoch_and_gets_new_serials() {
        let state = tempfile::tempdir().unwrap();
        let first = begin(state.path());
        let second = LifeFile::open(state.path(), ID).unwrap().reserve_serials().unwrap();
        assert_eq!((second.epoch, second.epoch_first_serial), (first.epoch, first.epoch_first_serial));
        assert_eq!(second.serials.start, first.serials.end);
        assert_eq!(LifeFile::open(state.path(), ID).unwrap().epoch(), 1);
    }

    #[test]
    fn lives_of_a_copy_follow_those_of_the_original() {
        let state = tempfile::tempdir().unwrap();
        DirBuilder::new().recursive(true).create(directory(state.path(), ID)).unwrap();
        follow(state.path(), ID, 5, 77).unwrap();
        let file = LifeFile::open(state.path(), ID).unwrap();
        assert_eq!((file.epoch(), file.next_serial(), file.process()), (5, 77, None));
        let first = begin(state.path());
        assert_eq!((first.epoch, first.serials.start), (6, 77));
        // What a file from elsewhere says may be anything.
        follow(state.path(), ID, u64::MAX, 1).unwrap();
        assert!(LifeFile::open(state.path(), ID).unwrap().begin_life(PROCESS).is_err());
        follow(state.path(), ID, 1, u64::MAX).unwrap();
        assert!(LifeFile::open(state.path(), ID).unwrap().begin_life(PROCESS).is_err());
    }

    /// Whatever becomes of the block that is being written, the life before is known, and the next epoch is higher.
    #[test]
    fn c50_a_torn_block_leaves_the_life_before() {
        for lives in 1..4 {
            for torn in (0..USED).chain([USED, 1000, BLOCK - 1]) {
                let state = tempfile::tempdir().unwrap();
                let last = (0..lives).map(|_| begin(state.path())).next_back().unwrap();
                let path = directory(state.path(), ID).join("lives");
                let mut file = LifeFile::open(state.path(), ID).unwrap();
                let (next, _) = file.newest.reserve().unwrap();
                let before = std::fs::read(&path).unwrap();
                file.write(next).unwrap();
                let mut after = std::fs::read(&path).unwrap();
                // The first bytes of the block are new, the others are not yet.
                let block = usize::try_from(next.sequence % 2).unwrap() * BLOCK;
                after[block + torn..block + BLOCK].copy_from_slice(&before[block + torn..block + BLOCK]);
                std::fs::write(&path, &after).unwrap();
                let found = LifeFile::open(state.path(), ID).unwrap();
                assert_eq!(found.epoch(), last.epoch);
                assert!(begin(state.path()).serials.start >= last.serials.end);
            }
        }
    }

    #[test]
    fn c51_a_flipped_bit_is_never_another_life() {
        let state = tempfile::tempdir().unwrap();
        begin(state.path());
        let last = begin(state.path());
        let path = directory(state.path(), ID).join("lives");
        let intact = std::fs::read(&path).unwrap();
        // All bits that mean something, and some of those that do not.
        let meant = |bit: &usize| bit / 8 % BLOCK < USED || bit.is_multiple_of(331);
        for bit in (0..2 * BLOCK * 8).filter(meant) {
            let mut flipped = intact.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &flipped).unwrap();
            let found = LifeFile::open(state.path(), ID).unwrap().epoch();
            assert!(found == last.epoch || found == last.epoch - 1, "bit {bit}: {found}");
        }
        for length in [0, 1, BLOCK, 2 * BLOCK - 1] {
            std::fs::write(&path, &intact[..length]).unwrap();
            let error = format!("{:#}", LifeFile::open(state.path(), ID).err().unwrap());
            assert!(error.contains("cannot be read"), "{error}");
        }
        std::fs::write(&path, [0xa5; 2 * BLOCK]).unwrap();
        let error = format!("{:#}", LifeFile::open(state.path(), ID).err().unwrap());
        assert!(error.contains("is damaged"), "{error}");
    }

    /// The copy of another district's file is not taken for this one's.
    #[test]
    fn a_foreign_file_is_refused() {
        let state = tempfile::tempdir().unwrap();
        begin(state.path());
        let other = DistrictId([8; 16]);
        LifeFile::open(state.path(), other).unwrap();
        let path = |id| directory(state.path(), id).join("lives");
        std::fs::copy(path(ID), path(other)).unwrap();
        assert!(LifeFile::open(state.path(), other).is_err());
    }
}
