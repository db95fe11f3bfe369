//! A place on a real disk, for what is about durability: in memory a flush costs nothing.

use std::collections::HashSet;
use std::fs::{File, Metadata, read_dir};
use std::io::{Write, stderr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use district::api::name::Name;
use rustix::fs::statfs;
use tempfile::TempDir;

use crate::pages::PAGE;
use crate::samples::Samples;
use crate::world::World;

/// Magic numbers of file systems (Linux `include/uapi/linux/magic.h`, XFS `fs/xfs/libxfs/xfs_format.h`).
const FILE_SYSTEMS: [(u64, &str); 5] =
    [(TMPFS, "tmpfs"), (0xef53, "ext4"), (0x5846_5342, "xfs"), (0x9123_683e, "btrfs"), (0x794c_7630, "overlayfs")];
const TMPFS: u64 = 0x0102_1994;
/// Where else to look for a disk. Paths of sockets are short.
const ON_DISK: &str = "/var/tmp";

/// So many flushes one after another that took no longer than this show that the disk is quiet. One that never is is
/// measured as it is.
const QUICK: Duration = Duration::from_micros(800);
const QUICK_FLUSHES: u32 = 10;
const QUIET_WITHIN: Duration = Duration::from_secs(10);

/// Nothing has changed in a directory for so long.
const QUIET: Duration = Duration::from_millis(40);

/// A world whose state is on a disk; says which file system that is.
pub fn world() -> Result<World> {
    let folder = tempfile::tempdir()?;
    let folder = if kind(folder.path())? == TMPFS { TempDir::new_in(ON_DISK)? } else { folder };
    let kind = kind(folder.path())?;
    let name = FILE_SYSTEMS.iter().find(|(magic, _)| *magic == kind).map_or("another", |(_, name)| name);
    // To know what the numbers are of; nobody need be there.
    let _ = writeln!(stderr(), "  state and the floor's file on {name}, in {}", folder.path().display());
    World::within(folder)
}

fn kind(path: &Path) -> Result<u64> {
    // 32 bits on all architectures, whatever the type.
    Ok(statfs(path)?.f_type as u64 & 0xffff_ffff)
}

/// What making bytes durable costs: a file that is appended to, and flushed.
pub struct Appended<'a> {
    folder: &'a Path,
    file: File,
    length: usize,
    contents: Vec<u8>,
    /// Microseconds of each.
    pub times: Samples,
}

/// As long as a segment of a log becomes before it is followed by another one.
const FILE_MAX: usize = 8 << 20;

impl<'a> Appended<'a> {
    pub fn new(world: &'a World) -> Result<Appended<'a>> {
        let folder = world.folder();
        let file = File::create(folder.join("floor"))?;
        file.sync_all()?;
        Ok(Appended { folder, file, length: 0, contents: Vec::new(), times: Samples::default() })
    }

    /// Appends so many bytes.
    pub fn append(&mut self, bytes: u64) -> Result<()> {
        let bytes = usize::try_from(bytes)?;
        if self.contents.len() < bytes {
            self.contents = (1..=251).cycle().take(bytes).collect();
        }
        if self.length > FILE_MAX {
            self.file = File::create(self.folder.join("floor.new"))?;
            std::fs::rename(self.folder.join("floor.new"), self.folder.join("floor"))?;
            self.file.sync_all()?;
            self.length = 0;
        }
        let begin = Instant::now();
        self.file.write_all(&self.contents[..bytes])?;
        self.file.sync_data()?;
        self.times.add(begin.elapsed().as_secs_f64() * 1e6);
        self.length += bytes;
        Ok(())
    }
}

/// Waits until the disk has done with what was written before: until then each flush takes several times as long.
pub fn quiet(world: &World) -> Result<()> {
    rustix::fs::sync();
    let (begin, mut quick) = (Instant::now(), 0);
    let mut probe = Appended::new(world)?;
    while quick < QUICK_FLUSHES && begin.elapsed() < QUIET_WITHIN {
        sleep(QUIET);
        let flush = Instant::now();
        probe.append(PAGE)?;
        quick = if flush.elapsed() < QUICK { quick + 1 } else { 0 };
    }
    Ok(())
}

/// Waits until nobody works on a district's files any more.
pub fn settle(world: &World, district: &Name) -> Result<()> {
    let id = world.client.list()?.into_iter().find(|info| info.name == *district).context("a district is gone")?.id;
    let directory = world.folder().join("districts").join(id).join("memory");
    loop {
        let before = files(&directory)?;
        sleep(QUIET);
        // Answered when nobody else is at the files.
        world.client.checkpoints(district)?;
        if files(&directory)? == before {
            return Ok(());
        }
    }
}

/// What changes when somebody works on files.
fn files(directory: &Path) -> Result<HashSet<(u64, u64, i64, i64)>> {
    let mut found = HashSet::new();
    for entry in read_dir(directory).with_context(|| directory.display().to_string())? {
        // One that is gone by now has changed.
        let seal = |file: Metadata| (file.ino(), file.size(), file.ctime(), file.ctime_nsec());
        found.insert(entry?.metadata().map(seal).unwrap_or_default());
    }
    Ok(found)
}

/// Bytes that everything below a directory takes on the disk, what has several names once.
pub fn bytes_below(directory: &Path) -> Result<u64> {
    let (mut bytes, mut seen, mut directories) = (0, HashSet::new(), vec![directory.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in read_dir(&directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if seen.insert(metadata.ino()) {
                bytes += metadata.blocks() * 512;
            }
            if metadata.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    Ok(bytes)
}
