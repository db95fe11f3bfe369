//! Snapshots: made, listed, gone back to, copied, taken elsewhere.
//!
//! A snapshot is an image of its own, `snapshots/TAG` among the files of its district, and never written again. What is
//! made from it shares it by a hard link: a clone's lineage, or one that goes back, begins with the very same file.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use district_broker::DistrictId;
use district_checkpoint::{
    BASE, Depth, Folder, Identity, Image, ImageInfo, ImportLimits, Lineage, Progress, Restore, SegmentHeader,
    begin_segment, create_segment, export, import, write_image,
};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};

use super::event_loop::EventLoop;
use super::jobs::{self, FileLock, Teller, Then};
use super::life_file::{self, LifeFile};
use super::memory::{self, directory, folder};
use crate::api::event::{Event, EventKind};
use crate::api::info::State;
use crate::api::name::Name;
use crate::api::refusal::{Refusal, RefusalKind};
use crate::api::snapshot::{SnapshotInfo, Tag};
use crate::api::spec::Spec;

/// Time between two reports of how far something is.
const REPORT_EVERY: std::time::Duration = std::time::Duration::from_millis(500);

/// What a snapshot says of the district that it is of.
#[derive(Serialize, Deserialize)]
struct About {
    spec: Spec,
    /// No handle of the program in it has this serial or a later one.
    next_serial: u64,
}

/// A district's files, for a job.
#[derive(Clone)]
pub struct Place {
    pub state: PathBuf,
    pub id: DistrictId,
    pub name: Name,
    pub spec: Spec,
    pub files: FileLock,
}

impl Place {
    fn snapshots(&self) -> PathBuf {
        life_file::directory(&self.state, self.id).join("snapshots")
    }

    fn snapshot(&self, tag: &Tag) -> PathBuf {
        self.snapshots().join(tag.as_str())
    }

    /// Keeps `generation`, or the newest one if that is not there any more because later ones are.
    pub fn make(
        &self,
        generation: Option<u64>,
        tag: Option<&Tag>,
        progress: &mut Progress<'_>,
    ) -> Result<SnapshotInfo> {
        let _lock = jobs::lock(&self.files);
        let lineage = memory::lineage(&self.state, self.id, self.spec.memory, Depth::Heads)?;
        let generation = self.choose(&lineage, generation)?;
        let tag = tag.cloned().map_or_else(|| Tag::of_generation(generation), Ok);
        let tag = tag.map_err(|wrong| anyhow::anyhow!(wrong.what))?;
        if self.snapshot(&tag).exists() {
            let what = format!("district `{}` has a snapshot `{tag}` already", self.name);
            let remedy =
                format!("choose another tag, or remove that one: district remove {} --snapshot {tag}", self.name);
            return Err(Refusal::new(RefusalKind::Conflict, what).remedy(remedy).into());
        }
        let description = serde_json::to_vec(&self.about()?)?;
        let identity = Identity { lineage: self.id.0, description: &description };
        let folder = folder(&self.snapshots())?;
        write_image(&folder, tag.as_str(), &lineage.restore(generation)?, &identity, progress)?;
        self.info(&tag)
    }

    fn choose(&self, lineage: &Lineage<Folder>, generation: Option<u64>) -> Result<u64> {
        let newest = lineage.newest()?;
        let wanted = generation.filter(|wanted| lineage.chain(*wanted).is_ok()).or(newest);
        Ok(wanted.ok_or_else(|| {
            Refusal::new(RefusalKind::Conflict, format!("there is no checkpoint of district `{}` yet", self.name))
                .remedy("start it, with `checkpoints` in its manifest")
        })?)
    }

    fn about(&self) -> Result<About> {
        let next_serial = LifeFile::open(&self.state, self.id)?.next_serial();
        Ok(About { spec: self.spec.clone(), next_serial })
    }

    /// What a snapshot is.
    pub fn info(&self, tag: &Tag) -> Result<SnapshotInfo> {
        let (image, file) = self.open(tag)?;
        let info = image.info();
        Ok(SnapshotInfo {
            district: self.name.clone(),
            tag: tag.clone(),
            generation: info.stamp.generation,
            time_ms: info.stamp.time / 1_000_000,
            memory: info.memory_size,
            disk: file.metadata()?.blocks() * 512,
        })
    }

    /// Checks that a checkpoint is there and can be gone back to.
    pub fn check_generation(&self, generation: u64) -> Result<()> {
        let _lock = jobs::lock(&self.files);
        let lineage = memory::lineage(&self.state, self.id, self.spec.memory, Depth::Heads)?;
        let refusal = |error: district_checkpoint::Error| {
            let remedy = format!("see `district checkpoints {}` for those there are", self.name);
            Refusal::new(RefusalKind::NotFound, format!("district `{}`: {error}", self.name)).remedy(remedy)
        };
        lineage.chain(generation).map_err(refusal)?;
        Ok(())
    }

    fn none_such(&self, tag: &Tag) -> Refusal {
        Refusal::new(RefusalKind::NotFound, format!("district `{}` has no snapshot `{tag}`", self.name))
            .remedy(format!("see `district snapshots {}` for those there are", self.name))
    }

    fn open(&self, tag: &Tag) -> Result<(Image<File>, File)> {
        let path = self.snapshot(tag);
        let open = || OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path);
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.none_such(tag).into()),
            file => file.with_context(|| path.display().to_string())?,
        };
        let image = Image::open(file.try_clone()?).with_context(|| format!("snapshot `{tag}`"))?;
        Ok((image, file))
    }

    /// Looks at all of a snapshot, which is an error if anything in it is not as it was written.
    pub fn verify(&self, tag: &Tag, progress: &mut Progress<'_>) -> Result<()> {
        let (image, _) = self.open(tag)?;
        image.verify(&|_| false, progress).with_context(|| format!("snapshot `{tag}`"))
    }

    /// The snapshots that there are; what cannot be read is left out, and said.
    pub fn list(&self) -> Vec<SnapshotInfo> {
        let mut found = Vec::new();
        // Without the directory there are none.
        for entry in fs::read_dir(self.snapshots()).into_iter().flatten().flatten() {
            let tag = entry.file_name().to_str().and_then(|name| Tag::new(name).ok());
            match tag.map(|tag| self.info(&tag)) {
                Some(Ok(info)) => found.push(info),
                Some(Err(error)) => log::warn!("district {}: {error:#}", self.name),
                None => {}
            }
        }
        found.sort_by(|a, b| (a.generation, &a.tag).cmp(&(b.generation, &b.tag)));
        found
    }

    /// Removes a snapshot, a damaged one as well.
    pub fn remove(&self, tag: &Tag) -> Result<()> {
        match fs::remove_file(self.snapshot(tag)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.none_such(tag).into()),
            other => other.with_context(|| format!("snapshot `{tag}`"))?,
        }
        Ok(File::open(self.snapshots())?.sync_all()?)
    }

    /// Makes the memory of a district that has none begin with a snapshot of this one. The specification that it was
    /// made with. Nothing is durable before [`sync_copy`].
    pub fn copy_to(&self, tag: &Tag, to: DistrictId) -> Result<Spec> {
        let (image, _) = self.open(tag)?;
        let about: About =
            serde_json::from_slice(&image.description()?).context("the snapshot does not say what it is of")?;
        let target = directory(&self.state, to);
        DirBuilder::new().recursive(true).mode(0o700).create(&target)?;
        fs::hard_link(self.snapshot(tag), target.join(BASE))?;
        let ImageInfo { memory_size, stamp, .. } = image.info();
        // Where the first life is going to write its checkpoints. That one would make it, too, but then the file system
        // would have another commit to do.
        begin_segment(&folder(&target)?, &first_segment(to, memory_size, stamp.generation)?)?;
        life_file::follow(&self.state, to, stamp.epoch, about.next_serial)?;
        Ok(about.spec)
    }

    /// The same with `generation`, or the newest one as in [`Self::make`], without a snapshot.
    pub fn copy_now(&self, generation: Option<u64>, to: DistrictId, progress: &mut Progress<'_>) -> Result<Spec> {
        let _lock = jobs::lock(&self.files);
        let lineage = memory::lineage(&self.state, self.id, self.spec.memory, Depth::Heads)?;
        let restore = lineage.restore(self.choose(&lineage, generation)?)?;
        let about = self.about()?;
        let description = serde_json::to_vec(&about)?;
        let identity = Identity { lineage: self.id.0, description: &description };
        write_image(&folder(&directory(&self.state, to))?, BASE, &restore, &identity, progress)?;
        life_file::follow(&self.state, to, restore.stamp().epoch, about.next_serial)?;
        life_file::sync(&self.state, to)?;
        Ok(about.spec)
    }

    /// Makes this district's memory that of a snapshot, in one step. It has no life, and its files are locked. Numbers of generations go on.
    pub fn go_back(&self, tag: &Tag) -> Result<()> {
        let (image, _) = self.open(tag)?;
        let (has, wants) = (image.info().memory_size, self.spec.memory);
        ensure!(has == wants, "snapshot `{tag}` has {has} bytes of memory, the district {wants}");
        let now = directory(&self.state, self.id);
        let lineage = memory::lineage(&self.state, self.id, self.spec.memory, Depth::Heads)?;
        let floor = lineage.next_generation();
        let floor = floor.context("its checkpoints have used up all numbers")?.saturating_sub(1);
        let new = now.with_extension("new");
        remove_all(&new)?;
        DirBuilder::new().mode(0o700).create(&new)?;
        fs::hard_link(self.snapshot(tag), new.join(BASE))?;
        create_segment(&folder(&new)?, &first_segment(self.id, wants, floor)?)?;
        renameat_with(CWD, &new, CWD, &now, RenameFlags::EXCHANGE)?;
        File::open(now.parent().unwrap_or(Path::new("/")))?.sync_all()?;
        if let Err(error) = remove_all(&new) {
            // The next one who goes back tries again.
            log::warn!("district {}: {error:#}", self.name);
        }
        Ok(())
    }

    /// Writes a snapshot to a new file.
    pub fn export(&self, tag: &Tag, path: &Path, progress: &mut Progress<'_>) -> Result<SnapshotInfo> {
        let info = self.info(tag)?;
        let (image, file) = self.open(tag)?;
        let description = image.description()?;
        let shown = path.display();
        let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let new = new.map_err(|error| cannot_use(&format!("{shown} cannot be made: {error}"), &error))?;
        let written = (|| {
            let restore = Restore::plan(Some(file), Vec::new(), info.generation)?;
            let identity = Identity { lineage: self.id.0, description: &description };
            let mut out = BufWriter::with_capacity(1 << 20, &new);
            export(&restore, &identity, salt()?, &mut out, progress)?;
            out.flush()?;
            anyhow::Ok(new.sync_all()?)
        })();
        if let Err(error) = written {
            // Half a file helps nobody.
            let _ = fs::remove_file(path);
            return Err(error.context(format!("{shown}")));
        }
        Ok(info)
    }
}

/// Makes durable what [`Place::copy_to`] has made.
pub fn sync_copy(state: &Path, id: DistrictId) -> Result<()> {
    // All has been made before this: the first flush takes most of it with it.
    let memory = directory(state, id);
    let synced = File::open(&memory).and_then(|directory| directory.sync_all());
    synced.with_context(|| format!("{}: does not get to the disk", memory.display()))?;
    life_file::sync(state, id)
}

/// Makes the memory of a new district from an exported snapshot, and says what it was of.
pub fn take_in(state: &Path, id: DistrictId, path: &Path, progress: &mut Progress<'_>) -> Result<Spec> {
    let shown = path.display();
    let file = super::image::open(path);
    let file = file.map_err(|error| cannot_use(&format!("{shown} cannot be opened: {error}"), &error))?;
    let target = directory(state, id);
    let folder = folder(&target)?;
    let mut found = None;
    let mut describe = |bytes: &[u8]| -> io::Result<Vec<u8>> {
        let about: About = serde_json::from_slice(bytes)?;
        about.spec.check().map_err(|wrong| io::Error::new(io::ErrorKind::InvalidData, wrong.what))?;
        found = Some(about);
        Ok(bytes.to_vec())
    };
    let limits = ImportLimits { memory_size_max: district_protocol::layout::RAM_SIZE_MAX };
    // Of no lineage here: that it comes from elsewhere can be seen.
    let lineage = [0; 16];
    let mut input = BufReader::with_capacity(1 << 20, file);
    let imported = import(&mut input, &folder, BASE, &limits, lineage, &mut describe, progress);
    let imported = imported.map_err(|error| not_taken_in(path, error))?;
    let About { spec, next_serial } = found.context("the file does not say what it is of")?;
    let info = imported.image.info();
    if info.memory_size != spec.memory {
        let what = format!("{shown}: its memory is not as large as it says");
        return Err(Refusal::new(RefusalKind::Invalid, what).into());
    }
    life_file::follow(state, id, info.stamp.epoch, next_serial)?;
    life_file::sync(state, id)?;
    Ok(spec)
}

/// A file that somebody has named and that is not as it should be.
fn cannot_use(what: &str, error: &io::Error) -> Refusal {
    let (kind, remedy) = match error.kind() {
        io::ErrorKind::AlreadyExists => (RefusalKind::Conflict, "choose another name, or remove that file"),
        _ => (RefusalKind::Invalid, "choose another one, which the daemon's user may use"),
    };
    Refusal::new(kind, what).remedy(remedy)
}

fn not_taken_in(path: &Path, error: district_checkpoint::Error) -> anyhow::Error {
    let shown = path.display();
    let remedy = match &error {
        district_checkpoint::Error::Damaged(_) | district_checkpoint::Error::Foreign { .. } => {
            "use a file that `district export` has written, as it was written"
        }
        district_checkpoint::Error::Version { .. } | district_checkpoint::Error::Limit { .. } => {
            "export it again for this version of district"
        }
        district_checkpoint::Error::Storage { source, .. } if source.kind() == io::ErrorKind::InvalidData => {
            "use a file that `district export` of this version has written"
        }
        _ => return anyhow::Error::new(error).context(format!("{shown}")),
    };
    let what = format!("{shown}: {:#}", anyhow::Error::new(error));
    Refusal::new(RefusalKind::Invalid, what).remedy(remedy).into()
}

/// Removes snapshots that were being made when an earlier daemon ended. No job is under way.
pub fn remove_unfinished(state: &Path) {
    // Where there is no directory there is nothing to remove.
    for district in fs::read_dir(state.join("districts")).into_iter().flatten().flatten() {
        for file in fs::read_dir(district.path().join("snapshots")).into_iter().flatten().flatten() {
            let is_snapshot = file.file_name().to_str().is_some_and(|name| Tag::new(name).is_ok());
            if !is_snapshot && let Err(error) = fs::remove_file(file.path()) {
                log::warn!("{}: cannot be removed: {error}", file.path().display());
            }
        }
    }
}

/// Header of the first segment of a lineage whose image has this generation or an earlier one.
fn first_segment(id: DistrictId, memory_size: u64, floor: u64) -> Result<SegmentHeader> {
    Ok(SegmentHeader { memory_size, lineage: id.0, number: 1, salt: salt()?, floor })
}

fn salt() -> Result<u64> {
    let mut salt = [0; 8];
    super::traffic::random(&mut salt)?;
    Ok(u64::from_le_bytes(salt))
}

fn remove_all(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).with_context(|| path.display().to_string()),
        _ => Ok(()),
    }
}

/// Tells those who watch how far something is, when it takes long.
pub fn report(teller: &Teller, district: Name, what: &'static str) -> impl FnMut(u64, u64) + use<> {
    let teller = teller.clone();
    let mut last = std::time::Instant::now();
    move |done, total| {
        if last.elapsed() < REPORT_EVERY || total == 0 {
            return;
        }
        last = std::time::Instant::now();
        let percent = done.saturating_mul(100) / total;
        let district = district.clone();
        let then: Then = Box::new(move |event_loop: &mut EventLoop| {
            let (epoch, state) = event_loop
                .names
                .get(&district)
                .map_or((0, State::Stopped), |slot| (event_loop.slots[*slot].epoch, event_loop.slots[*slot].state));
            let text = format!("{what}: {percent} %");
            event_loop.publish(&Event::now(EventKind::Progress, district, epoch, state, text));
        });
        teller.tell(then);
    }
}
