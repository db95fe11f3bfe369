//! A district's memory on disk: its lineage of checkpoints, from which its lives begin, and its snapshots.
//!
//! In `districts/ID` of the state directory: `memory`, the lineage, and `snapshots`, one image for each tag.

use std::collections::VecDeque;
use std::fs::{DirBuilder, File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use district_broker::DistrictId;
use district_checkpoint::{Depth, Folder, HOME, Lineage, RestoreFiles};
use district_protocol::boot::StartReason;
use district_vmm::control::{Beginning as From, Checkpointed, Checkpoints};
use district_vmm::report::Ended;
use serde::{Deserialize, Serialize};

use super::event_loop::EventLoop;
use super::jobs::FileLock;
use super::reading::{self, Opened};
use super::{district::District, life_file};
use crate::api::snapshot::Beginning;
use crate::api::spec;

/// A log of more bytes goes to the image as soon as a life has begun from it, and not after its first checkpoint.
pub const LOG_LONG: u64 = 1 << 20;
/// The same for one of more segments.
const SEGMENTS_MANY: usize = 4;
/// Checkpoints of which times and sizes are remembered.
const REMEMBERED: usize = 1000;

/// What the daemon knows of a district's memory while it keeps the district.
#[derive(Default)]
pub struct Memory {
    /// Held by whoever works on the files.
    pub files: FileLock,
    /// What a job has read for the next life.
    pub opened: Option<Opened>,
    /// Checkpoints that this daemon was told of, oldest first.
    pub taken: VecDeque<Checkpointed>,
    /// The image whose pages have been compared with its table since this daemon runs, and nobody has written to since.
    pub verified: Option<Seal>,
    /// How many lives one after another have begun with a checkpoint, failed soon, and taken none of their own.
    pub failures: u32,
}

/// What changes when somebody writes to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    inode: u64,
    size: u64,
    written: (i64, i64),
}

impl Seal {
    fn of(metadata: &Metadata) -> Seal {
        // Not when its metadata changed: an image that gets one name more is as it was.
        let written = (metadata.mtime(), metadata.mtime_nsec());
        Seal { inode: metadata.ino(), size: metadata.size(), written }
    }

    /// Whether both are of one file.
    pub fn is_same_file(&self, other: &Seal) -> bool {
        self.inode == other.inode
    }
}

/// Which memory a life is to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    /// Fresh.
    Fresh,
    /// The newest checkpoint, if there is any.
    Newest,
    /// The one before the newest, if there is any.
    Previous,
    /// This checkpoint.
    Generation(u64),
}

/// Where a life's checkpoints go. Not durable before [`Log::sync`].
pub struct Log {
    /// An empty segment.
    pub segment: File,
    /// When they are taken.
    pub plan: Checkpoints,
    lineage: Lineage<Folder>,
}

impl Log {
    /// Makes durable what the life's checkpoints are going to build on, and the place for them, and does `work` meanwhile.
    pub fn sync<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.lineage.log_is_empty() {
            self.lineage.sync_segment(&self.segment)?;
            return work();
        }
        std::thread::scope(|scope| {
            // Two flushes at a time take as long as one.
            let earlier = std::thread::Builder::new().name("files".into());
            let earlier = earlier.spawn_scoped(scope, || self.lineage.sync_log());
            let done = self.lineage.sync_segment(&self.segment).map_err(anyhow::Error::from).and_then(|()| work());
            match earlier.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(synced)) => synced?,
                Ok(Err(_)) => anyhow::bail!("flushing its log has panicked"),
                Err(_) => self.lineage.sync_log()?,
            }
            done
        })
    }
}

/// Files and numbers that a life begins with.
pub struct Origin {
    /// What its memory begins with.
    pub beginning: From,
    /// The checkpoint; 0: none.
    pub generation: u64,
    /// When it was taken, in nanoseconds since 1970; 0: none.
    pub time: u64,
    /// Image and segments.
    files: Vec<File>,
    /// For its own checkpoints.
    pub log: Option<Log>,
    /// Whether so much is in the log that each restore takes longer for it.
    pub log_is_long: bool,
    /// Whether no life of this district has been there before.
    pub is_copy: bool,
    /// Of the image, if it is verified by the life's beginning.
    pub seal: Option<Seal>,
}

impl Origin {
    /// Of a district that has no checkpoints.
    pub fn fresh() -> Origin {
        let files = Vec::new();
        Origin {
            beginning: From::Program,
            generation: 0,
            time: 0,
            files,
            log: None,
            log_is_long: false,
            is_copy: false,
            seal: None,
        }
    }

    /// The checkpoint's files.
    pub fn files(&self) -> Vec<BorrowedFd<'_>> {
        self.files.iter().map(AsFd::as_fd).collect()
    }
}

/// The lineage's directory.
pub fn directory(state: &Path, id: DistrictId) -> PathBuf {
    life_file::directory(state, id).join("memory")
}

/// Opens a directory as a place for files, and makes it if there is none.
pub fn folder(path: &Path) -> io::Result<Folder> {
    let open = || File::open(path);
    let directory = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(path)?;
            File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
            open()
        }
        opened => opened,
    };
    Ok(Folder::new(OwnedFd::from(directory?)))
}

/// Opens the lineage of a district with so many bytes of memory. Whoever does holds [`Memory::files`]: half of what was
/// before a migration and half of what is after it would look as if the newest checkpoints were lost.
pub fn lineage(state: &Path, id: DistrictId, memory: u64, depth: Depth) -> Result<Lineage<Folder>> {
    let path = directory(state, id);
    let folder = folder(&path).with_context(|| format!("{}", path.display()))?;
    Lineage::open(folder, id.0, memory, depth).with_context(|| format!("{}", path.display()))
}

impl Memory {
    /// Finds what a life is to begin with, and makes a place for its checkpoints.
    pub fn prepare(
        &self,
        mut lineage: Lineage<Folder>,
        id: DistrictId,
        policy: &spec::Checkpoints,
        wanted: Wanted,
        verified: &VecDeque<Seal>,
    ) -> Result<Origin> {
        for damage in lineage.damage() {
            log::warn!("district {id}: its memory is damaged: {damage}");
        }
        let generation = choose(&lineage, wanted)?;
        let mut origin = Origin::fresh();
        if let Some(generation) = generation {
            let files = lineage.restore_files(generation)?;
            let info = lineage.generations().into_iter().find(|info| info.stamp.generation == generation);
            let stamp = info.context("the checkpoint is not there any more")?.stamp;
            (origin.generation, origin.time) = (generation, stamp.time);
            let copied =
                |image: district_checkpoint::ImageInfo| image.lineage != id.0 && image.stamp.generation == generation;
            origin.is_copy = lineage.image().is_some_and(copied);
            origin.log_is_long = lineage.size_of_log() > LOG_LONG || files.segments.len() > SEGMENTS_MANY;
            self.open(&mut origin, files, verified)?;
        }
        let next_generation = lineage.next_generation().context("its checkpoints have used up all numbers")?;
        let mut salt = [0; 8];
        super::traffic::random(&mut salt)?;
        let segment = lineage.begin_segment(u64::from_le_bytes(salt))?;
        let plan = Checkpoints {
            next_generation,
            parent: origin.generation,
            every_ms: policy.every.map_or(0, |every| u64::try_from(every.as_millis()).unwrap_or(u64::MAX)),
            dirty_pages: policy.dirty_pages.unwrap_or(0),
        };
        origin.log = Some(Log { segment, plan, lineage });
        Ok(origin)
    }

    fn open(&self, origin: &mut Origin, files: RestoreFiles<File>, verified: &VecDeque<Seal>) -> Result<()> {
        let seal = files.image.as_ref().map(File::metadata).transpose()?.as_ref().map(Seal::of);
        origin.beginning = From::Checkpoint {
            image: files.image.is_some(),
            segments: u32::try_from(files.segments.len())?,
            verify: seal.is_some_and(|seal| self.verified != Some(seal) && !verified.contains(&seal)),
        };
        origin.seal = seal;
        origin.files = files.image.into_iter().chain(files.segments).collect();
        Ok(())
    }

    /// Remembers a checkpoint that the vmm process has told of.
    pub fn note(&mut self, checkpoint: Checkpointed) {
        self.failures = 0;
        if self.taken.len() == REMEMBERED {
            self.taken.pop_front();
        }
        self.taken.push_back(checkpoint);
    }
}

/// The generation that is wanted; none: fresh memory.
pub fn choose(lineage: &Lineage<Folder>, wanted: Wanted) -> Result<Option<u64>> {
    let newest = match wanted {
        Wanted::Fresh => return Ok(None),
        Wanted::Generation(generation) => return Ok(Some(generation)),
        Wanted::Newest | Wanted::Previous => lineage.newest()?,
    };
    let Some(newest) = newest.filter(|_| wanted == Wanted::Previous) else { return Ok(newest) };
    let chain = lineage.chain(newest)?;
    Ok(chain.iter().rev().nth(1).copied().or(Some(newest)))
}

/// A further segment for a life that has begun.
pub fn new_segment(state: &Path, id: DistrictId, memory: u64) -> Result<File> {
    let mut salt = [0; 8];
    super::traffic::random(&mut salt)?;
    Ok(lineage(state, id, memory, Depth::Heads)?.create_segment(u64::from_le_bytes(salt))?)
}

/// Seal of a lineage's own image, if it has one.
pub fn seal_of_home(state: &Path, id: DistrictId) -> Option<Seal> {
    std::fs::metadata(directory(state, id).join(HOME)).ok().as_ref().map(Seal::of)
}

/// A district that fails so soon after it went on from a checkpoint fails because of it: nanoseconds.
const SOON: u64 = 10_000_000_000;

impl District {
    /// Which memory its next life begins with, unless somebody changes that.
    pub fn wanted(&self) -> Wanted {
        match self.beginning {
            Beginning::Newest => {
                self.record.pinned.filter(|_| self.next_memory != Wanted::Fresh).unwrap_or(self.next_memory)
            }
            Beginning::Cold => Wanted::Fresh,
            Beginning::Generation(generation) => Wanted::Generation(generation),
            // Its lineage becomes the snapshot's first.
            Beginning::Tag(_) => Wanted::Newest,
        }
    }
}

impl EventLoop {
    /// Remembers that an image was found to be as it was written. Other districts may have the same one.
    pub fn note_verified(&mut self, slot: usize, seal: Seal) {
        self.slots[slot].memory.verified = Some(seal);
        if !self.verified.contains(&seal) {
            self.verified.truncate(REMEMBERED - 1);
            self.verified.push_front(seal);
        }
    }

    /// What the next life of a district begins with. Its files are locked.
    pub fn origin(&mut self, slot: usize, reason: StartReason) -> Result<(Origin, StartReason)> {
        let place = self.place(slot);
        let district = &mut self.slots[slot];
        let wanted = district.wanted();
        let beginning = std::mem::take(&mut district.beginning);
        district.next_memory = Wanted::Newest;
        let Some(policy) = district.record.spec.checkpoints else { return Ok((Origin::fresh(), reason)) };
        // One that is gone is asked for once, not again and again.
        let pinned = district.record.pinned.take();
        let opened = district.memory.opened.take().map(Opened::lineage);
        let lineage = opened.unwrap_or_else(|| reading::open(&place, wanted)).context("its memory")?;
        let origin =
            (district.memory).prepare(lineage, district.id, &policy, wanted, &self.verified).context("its memory")?;
        district.record.pinned = matches!(wanted, Wanted::Fresh | Wanted::Generation(_)).then_some(wanted);
        if district.record.pinned != pinned {
            // So that the next daemon, too, goes on from here.
            self.save(slot);
        }
        let reason = match beginning {
            _ if origin.generation == 0 => reason,
            _ if origin.is_copy => StartReason::Clone,
            Beginning::Generation(_) | Beginning::Tag(_) => StartReason::RollBack,
            _ if reason == StartReason::Cold => StartReason::Requested,
            _ => reason,
        };
        Ok((origin, reason))
    }

    /// Decides by how a life has ended what the next one begins with (semantics, section 11).
    pub fn choose_memory(&mut self, slot: usize) {
        let district = &mut self.slots[slot];
        let Some(life) = &district.life else { return };
        let soon = self.now.saturating_sub(life.began) < SOON;
        let (failed, over) = match &life.report {
            Some(Ended::Exit { code: 0, .. }) => (false, true),
            Some(Ended::Exit { .. } | Ended::Fault(_)) => (soon, false),
            // That is how one that cannot be restored ends.
            Some(Ended::Failed { .. }) => (true, false),
            // Whoever kills it says nothing about its memory.
            Some(Ended::Stopped) | None => (false, false),
        };
        let cold = district.record.spec.checkpoints.is_some_and(|policy| policy.cold_restart);
        let memory = &mut district.memory;
        if failed && life.generation != 0 && life.taken == 0 {
            memory.failures += 1;
        } else if life.report.is_some() {
            memory.failures = 0;
        }
        district.next_memory = match memory.failures {
            _ if over => Wanted::Fresh,
            0 => Wanted::Newest,
            1 => Wanted::Previous,
            _ if cold => Wanted::Fresh,
            _ => Wanted::Previous,
        };
    }
}
