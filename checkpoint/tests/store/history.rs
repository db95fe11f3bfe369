//! Histories of a lineage that a seed chooses: lives, checkpoints, roll-backs, rotations, migrations.

use std::collections::{BTreeMap, BTreeSet};

use district_checkpoint::simulated::{Disk, Random, SimulatedFile, SimulatedFolder};
use district_checkpoint::{
    Depth, Error, Identity, Lineage, Migration, Restore, SegmentWriter, Storage, WriteError, write_image,
};

use super::support::*;

/// What happens next.
#[derive(Debug, Clone)]
pub enum Step {
    /// A checkpoint of these pages, which are put in so many portions. Some are put twice, the first time wrongly.
    Checkpoint { pages: BTreeMap<u64, u64>, portions: usize, twice: bool },
    /// One that is begun and given up.
    Abandon(BTreeMap<u64, u64>),
    /// The district restarts, from the newest generation, or an older one, or from nothing.
    Life(From),
    /// A new segment for the same life.
    Rotate,
    /// A migration to what the policy says.
    Migrate,
}

#[derive(Debug, Clone, Copy)]
pub enum From {
    Newest,
    Older(u64),
    Nothing,
}

fn some_pages(random: &mut Random, value: &mut u64) -> BTreeMap<u64, u64> {
    let mut pages = BTreeMap::new();
    for _ in 0..=random.below(6) {
        let first = random.below(PAGES);
        for page in first..(first + 1 + random.below(4)).min(PAGES) {
            *value += 1;
            pages.insert(page, if random.below(4) == 0 { 0 } else { *value });
        }
    }
    pages
}

/// A history of `len` steps. It begins with a life.
pub fn steps(random: &mut Random, len: usize) -> Vec<Step> {
    let mut value = 0;
    let mut steps = vec![Step::Life(From::Newest)];
    while steps.len() < len {
        steps.push(match random.below(16) {
            0..8 => Step::Checkpoint {
                pages: some_pages(random, &mut value),
                portions: 1 + usize::try_from(random.below(3)).unwrap(),
                twice: random.below(4) == 0,
            },
            8 => Step::Abandon(some_pages(random, &mut value)),
            9 => Step::Life(From::Newest),
            10 => Step::Life(From::Older(random.number())),
            11 if random.coin() => Step::Life(From::Nothing),
            11 | 12 => Step::Rotate,
            _ => Step::Migrate,
        });
    }
    steps
}

/// A running district as far as its memory goes: what it has mapped of an image, and which pages are its own by now.
struct Mapped {
    image: Option<(SimulatedFile, u64)>,
    own: BTreeSet<u64>,
}

/// Plays a history on a disk, and knows what must be there afterwards.
pub struct Player {
    pub disk: Disk,
    pub model: Model,
    /// The newest generation whose commit returned.
    pub committed: u64,
    /// The newest generation that anybody began.
    begun: u64,
    parent: u64,
    memory: Memory,
    writer: Option<SegmentWriter<SimulatedFile>>,
    writing: u64,
    mapped: Mapped,
    salt: u64,
}

/// Why a history did not go on; the power, in most cases.
#[derive(Debug)]
pub struct Stopped;

impl std::convert::From<Error> for Stopped {
    fn from(error: Error) -> Stopped {
        assert!(matches!(error, Error::Storage { .. }), "{error}");
        Stopped
    }
}

impl std::convert::From<WriteError> for Stopped {
    fn from(error: WriteError) -> Stopped {
        assert!(!matches!(error, WriteError::Refused(_)), "{error}");
        Stopped
    }
}

pub fn open(disk: &Disk) -> Result<Lineage<SimulatedFolder>, Error> {
    Lineage::open(disk.folder("lineage"), ID, MEMORY, Depth::Data)
}

impl Player {
    pub fn new() -> Player {
        Player {
            disk: Disk::new(),
            model: Model::new(),
            committed: 0,
            begun: 0,
            parent: 0,
            memory: empty(),
            writer: None,
            writing: 0,
            mapped: Mapped { image: None, own: BTreeSet::new() },
            salt: 1,
        }
    }

    /// A lineage that begins as a copy of another one's image, which it shares.
    pub fn with_base(random: &mut Random) -> Player {
        let mut origin = Player::new();
        let mut value = 1 << 20;
        let pages = some_pages(random, &mut value);
        origin.play(&Step::Life(From::Newest)).unwrap();
        origin.play(&Step::Checkpoint { pages, portions: 1, twice: false }).unwrap();
        let lineage = open(&origin.disk).unwrap();
        let plan = lineage.restore(origin.committed).unwrap();
        let mut player = Player::new();
        let shared = player.disk.folder("snapshots");
        let identity = Identity { lineage: [1; 16], description: b"shared" };
        write_image(&shared, "s", &plan, &identity, &mut quiet).unwrap();
        player.disk.link(("snapshots", "s"), ("lineage", "base")).unwrap();
        player.model = origin.model.clone();
        (player.committed, player.begun) = (origin.committed, origin.begun);
        player
    }

    pub fn play_all(&mut self, steps: &[Step]) -> Result<(), Stopped> {
        steps.iter().try_for_each(|step| self.play(step))
    }

    pub fn play(&mut self, step: &Step) -> Result<(), Stopped> {
        match step {
            Step::Checkpoint { pages, portions, twice } => self.checkpoint(pages, *portions, *twice),
            Step::Abandon(pages) => self.abandon(pages),
            Step::Life(from) => self.life(*from),
            Step::Rotate => {
                let mut lineage = open(&self.disk)?;
                self.salt += 1;
                let segment = lineage.create_segment(self.salt)?;
                self.write_to(segment)
            }
            Step::Migrate => self.migrate(),
        }
    }

    /// As a life does: the segment is there before it is durable, and is written to after that.
    fn segment(&mut self, lineage: &mut Lineage<SimulatedFolder>) -> Result<(), Stopped> {
        self.salt += 1;
        let segment = lineage.begin_segment(self.salt)?;
        lineage.sync_segment(&segment)?;
        lineage.sync_log()?;
        self.write_to(segment)
    }

    fn write_to(&mut self, segment: SimulatedFile) -> Result<(), Stopped> {
        self.writer = Some(SegmentWriter::open(segment)?);
        self.writing = self.writer.as_ref().unwrap().header().number;
        Ok(())
    }

    fn life(&mut self, from: From) -> Result<(), Stopped> {
        let mut lineage = open(&self.disk)?;
        assert!(lineage.damage().iter().all(|damage| *damage == district_checkpoint::Damage::Slot));
        self.begun = self.begun.max(lineage.next_generation().unwrap() - 1);
        let known: Vec<u64> =
            lineage.generations().iter().filter(|known| known.restorable).map(|known| known.stamp.generation).collect();
        self.parent = match from {
            From::Newest => lineage.newest()?.unwrap_or(0),
            From::Older(choice) if !known.is_empty() => known[usize::try_from(choice % known.len() as u64).unwrap()],
            From::Older(_) | From::Nothing => 0,
        };
        self.mapped = Mapped { image: None, own: BTreeSet::new() };
        self.memory = empty();
        if self.parent != 0 {
            let found = restore(&lineage, self.parent)?;
            self.memory = self.model[&self.parent].clone();
            assert_same(&found, &self.memory, "at the beginning of a life");
            let files = lineage.restore_files(self.parent)?;
            let image = lineage.restore_files(self.parent)?.image;
            let plan = Restore::plan(files.image, files.segments, self.parent)?;
            plan.apply(&mut |first, content| {
                let count = match content {
                    district_checkpoint::Content::Zero(count) => count,
                    district_checkpoint::Content::Data(data) => (data.len() / PAGE) as u64,
                };
                self.mapped.own.extend(first..first + count);
                Ok(())
            })?;
            self.mapped.image = plan.pages_offset().map(|offset| (image.unwrap(), offset));
        }
        self.segment(&mut lineage)
    }

    fn checkpoint(&mut self, pages: &BTreeMap<u64, u64>, portions: usize, twice: bool) -> Result<(), Stopped> {
        let mut pages = pages.clone();
        for (page, value) in (0..).zip(&self.memory) {
            // What has no parent has everything.
            if self.parent == 0 && *value != 0 {
                pages.entry(page).or_insert(*value);
            }
        }
        self.begun += 1;
        let (generation, parent) = (self.begun, self.parent);
        for (page, value) in &pages {
            self.memory[usize::try_from(*page).unwrap()] = *value;
            self.mapped.own.insert(*page);
        }
        self.model.insert(generation, self.memory.clone());
        let all: Vec<(u64, u64)> = pages.iter().map(|(page, value)| (*page, *value)).collect();
        let mut parts: Vec<BTreeMap<u64, u64>> =
            all.chunks(all.len().div_ceil(portions).max(1)).map(|part| part.iter().copied().collect()).collect();
        let last = parts.pop().unwrap_or_default();
        let mut checkpoint = self.writer.as_mut().unwrap().begin(generation, parent)?;
        if twice {
            let wrong = pages.keys().map(|page| (*page, 0xbad)).collect();
            let (runs, data) = pack(&wrong);
            checkpoint.put(&runs, &data)?;
        }
        for part in &parts {
            let (runs, data) = pack(part);
            checkpoint.put(&runs, &data)?;
        }
        let (runs, data) = pack(&last);
        checkpoint.put_and_commit(&runs, &data, &info(generation), &state(generation))?;
        (self.committed, self.parent) = (generation, generation);
        Ok(())
    }

    fn abandon(&mut self, pages: &BTreeMap<u64, u64>) -> Result<(), Stopped> {
        self.begun += 1;
        let (generation, parent) = (self.begun, self.parent);
        let mut checkpoint = self.writer.as_mut().unwrap().begin(generation, parent)?;
        for (page, value) in pages {
            let (runs, data) = pack(&BTreeMap::from([(*page, *value)]));
            checkpoint.put(&runs, &data)?;
        }
        Ok(())
    }

    fn migrate(&mut self) -> Result<(), Stopped> {
        let mut lineage = open(&self.disk)?;
        let newest = lineage.newest()?;
        if let Some(target) = lineage.migration_target(self.parent) {
            let migration = Migration { target, running: self.parent, writing: self.writing, description: b"history" };
            lineage.migrate(&migration, &mut quiet)?;
            assert_eq!(lineage.migration_target(self.parent), None);
            lineage.verify_image(&mut quiet)?;
            self.check_mapped();
        }
        assert_eq!(lineage.newest()?, newest);
        check_all(&lineage, &self.model, "after a migration");
        Ok(())
    }

    /// What the running district sees of the image that it has mapped has not changed.
    fn check_mapped(&self) {
        let Some((image, offset)) = &self.mapped.image else { return };
        for (page, value) in (0..PAGES).zip(&self.memory) {
            if !self.mapped.own.contains(&page) {
                let mut found = vec![0; PAGE];
                image.read_at(offset + page * PAGE as u64, &mut found).unwrap();
                assert!(found == bytes(*value), "page {page} has changed under a running district");
            }
        }
    }

    /// After the power came back: what must be there is there, and nothing else, and it goes on.
    pub fn check_after_cut(&mut self, what: &str) {
        let lineage = open(&self.disk).unwrap_or_else(|error| panic!("{what}: {error}"));
        let newest = lineage.newest().unwrap_or_else(|error| panic!("{what}: {error}")).unwrap_or(0);
        assert!(newest >= self.committed, "{what}: {newest} is the newest, {} was committed", self.committed);
        let damage = lineage.damage().iter().find(|damage| **damage != district_checkpoint::Damage::Slot);
        assert_eq!(damage, None, "{what}");
        check_all(&lineage, &self.model, what);
        if let Err(error) = lineage.verify_image(&mut quiet) {
            panic!("{what}: {error}");
        }
        self.committed = newest;
        drop(lineage);
        let pages = |value| Step::Checkpoint { pages: BTreeMap::from([(1, value), (9, 0)]), portions: 2, twice: false };
        let goes_on = [Step::Life(From::Newest), pages(501), Step::Migrate, pages(502), Step::Migrate, pages(503)];
        self.play_all(&goes_on).unwrap_or_else(|_| panic!("{what}: does not go on"));
        assert_eq!(open(&self.disk).unwrap().newest().unwrap(), Some(self.committed), "{what}");
    }
}
