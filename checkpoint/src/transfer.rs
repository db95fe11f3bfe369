//! A generation in one compact file that needs nothing else: only pages that are not zero, and the description.
//!
//! An export is laid out as a segment is, with a magic number of its own: header, a description, batches, and the commit
//! of the only checkpoint, which has no parent. It is written to and read from a stream.

use std::io::{self, Read, Write};

use crate::error::{Damage, Error};
use crate::field::{Block, ZEROS};
use crate::format::{BLOCK_SIZE, DESCRIPTION_MAX, PAGE_SIZE};
use crate::image::builder::{Builder, Identity};
use crate::image::{Image, Progress};
use crate::page::{is_zero, runs};
use crate::restore::Restore;
use crate::segment::header::{FileKind, SegmentHeader};
use crate::segment::record::{Head, Kind, Place, Stamp, Tally, batches};
use crate::storage::{Directory, Storage};

/// Writes the generation to a stream. `salt` is random.
pub fn export<F: Storage>(
    restore: &Restore<F>,
    identity: &Identity<'_>,
    salt: u64,
    out: &mut dyn Write,
    progress: &mut Progress<'_>,
) -> Result<(), Error> {
    let len = identity.description.len() as u64;
    if len > DESCRIPTION_MAX as u64 {
        return Err(Error::Limit { what: "bytes of description", value: len, limit: DESCRIPTION_MAX as u64 });
    }
    let (memory_size, lineage) = (restore.memory_size(), identity.lineage);
    let header = SegmentHeader { memory_size, lineage, number: 0, salt, floor: 0 };
    let stamp = Stamp { parent: 0, ..restore.stamp() };
    let place = Place { offset: 0, sequence: 0, generation: stamp.generation, salt };
    let mut stream = Exporter { out, place, tally: Tally::default() };
    stream.write(&[&header.encode(FileKind::Export)])?;
    let (head, body) = stream.next().description(identity.description);
    stream.write(&[&head, &body])?;
    restore.each_page(progress, &mut |first, data| stream.pages(first, data))?;
    let tally = stream.tally;
    let (head, body) = stream.next().commit(&stamp, &tally, restore.state());
    stream.write(&[&head, &body])?;
    stream.out.flush().map_err(Error::storage("cannot write the export"))
}

struct Exporter<'w> {
    out: &'w mut dyn Write,
    place: Place,
    tally: Tally,
}

impl Exporter<'_> {
    fn next(&mut self) -> Place {
        self.place.sequence += 1;
        self.place
    }

    fn write(&mut self, parts: &[&[u8]]) -> Result<(), Error> {
        for part in parts {
            self.out.write_all(part).map_err(Error::storage("cannot write the export"))?;
            self.place.offset += part.len() as u64;
        }
        Ok(())
    }

    fn pages(&mut self, first: u64, data: &[u8]) -> Result<(), Error> {
        let pages = (first..).zip(data.chunks(PAGE_SIZE).map(is_zero));
        let kept: Vec<_> = runs(pages).filter(|run| !run.zero).collect();
        for run in kept {
            let [start, len] =
                [run.first - first, run.count].map(|pages| usize::try_from(pages).unwrap_or(0) * PAGE_SIZE);
            for (runs, data) in batches(&[run], &data[start..start + len]) {
                let (head, checksum) = self.next().batch(&runs, data);
                self.tally.add(&runs, checksum, self.place.salt);
                self.write(&[&head, data])?;
            }
        }
        Ok(())
    }
}

/// What an import may bring.
#[derive(Debug, Clone, Copy)]
pub struct ImportLimits {
    /// Most bytes of memory.
    pub memory_size_max: u64,
}

/// What an import has brought.
#[derive(Debug)]
pub struct Imported<F> {
    /// The image.
    pub image: Image<F>,
    /// Identity of the lineage that it was exported from.
    pub lineage: [u8; 16],
    /// The description that it was exported with.
    pub description: Vec<u8>,
}

/// Reads an export, which nobody vouches for, into a new image under a name in a directory. The image belongs to
/// `lineage`, and has the description that `describe` makes of the export's; `describe` may refuse.
pub fn import<D: Directory>(
    input: &mut dyn Read,
    directory: &D,
    name: &str,
    limits: &ImportLimits,
    lineage: [u8; 16],
    describe: &mut dyn FnMut(&[u8]) -> io::Result<Vec<u8>>,
    progress: &mut Progress<'_>,
) -> Result<Imported<D::File>, Error> {
    let mut block = ZEROS;
    let (mut input, mut offset) = (input, 0);
    fill(&mut input, &mut offset, &mut block)?;
    let header = SegmentHeader::decode(&block, FileKind::Export)?;
    if header.memory_size > limits.memory_size_max {
        let (value, limit) = (header.memory_size, limits.memory_size_max);
        return Err(Error::Limit { what: "bytes of memory in the export", value, limit });
    }
    let mut importer = Importer { input, header, offset, sequence: 0, generation: None, tally: Tally::default() };
    let (head, mut description) = importer.record()?;
    let Kind::Description(len) = head.kind else { return Err(Damage::Description.into()) };
    description.truncate(len);
    let described = describe(&description).map_err(Error::storage("cannot use the description"))?;
    let identity = Identity { lineage, description: &described };
    let mut builder = Builder::create(directory, name, header.memory_size, &identity)?;
    match importer.fill(&mut builder, progress) {
        Ok((stamp, state)) => {
            let image = builder.finish(stamp, &state)?;
            Ok(Imported { image, lineage: header.lineage, description })
        }
        Err(error) => {
            builder.abandon();
            Err(error)
        }
    }
}

fn fill(input: &mut dyn Read, offset: &mut u64, buffer: &mut [u8]) -> Result<(), Error> {
    input.read_exact(buffer).map_err(Error::reading(Damage::Length))?;
    *offset += buffer.len() as u64;
    Ok(())
}

struct Importer<'r> {
    input: &'r mut dyn Read,
    header: SegmentHeader,
    offset: u64,
    sequence: u64,
    generation: Option<u64>,
    tally: Tally,
}

impl Importer<'_> {
    /// The next record and its body.
    fn record(&mut self) -> Result<(Head, Vec<u8>), Error> {
        let at = self.offset;
        let mut block: Block = ZEROS;
        fill(&mut self.input, &mut self.offset, &mut block)?;
        let SegmentHeader { salt, number: segment, .. } = self.header;
        let damage = Damage::Record { segment, offset: at };
        let head = Head::decode(&mut block, at, salt, self.header.pages()).ok_or(damage)?;
        if head.sequence <= self.sequence || self.generation.is_some_and(|generation| generation != head.generation) {
            return Err(Damage::Malformed(at).into());
        }
        (self.sequence, self.generation) = (head.sequence, Some(head.generation));
        let mut body = vec![0; head.body_len];
        fill(&mut self.input, &mut self.offset, &mut body)?;
        if head.fits(&body, salt) { Ok((head, body)) } else { Err(damage.into()) }
    }

    /// Takes pages until the commit, which must be the end of the stream.
    fn fill<D: Directory>(
        &mut self,
        builder: &mut Builder<'_, D>,
        progress: &mut Progress<'_>,
    ) -> Result<(Stamp, Vec<u8>), Error> {
        loop {
            let at = self.offset;
            let (head, body) = self.record()?;
            match head.kind {
                Kind::Batch(runs) => {
                    self.tally.add(&runs, head.checksum, self.header.salt);
                    // Each page comes once, so there is an end to it.
                    let again = |page| builder.has(page);
                    let mut pages = runs.iter().flat_map(|run| run.first..run.first + run.count);
                    let endless = runs.is_empty() || self.tally.data_pages > self.header.pages();
                    if endless || runs.iter().any(|run| run.zero) || pages.any(again) {
                        return Err(Damage::Malformed(at).into());
                    }
                    let mut data = body.as_slice();
                    for run in runs {
                        let len = usize::try_from(run.count).unwrap_or(usize::MAX).saturating_mul(PAGE_SIZE);
                        let (now, rest) = data.split_at_checked(len).ok_or(Damage::Malformed(at))?;
                        builder.put(run.first, now)?;
                        data = rest;
                    }
                    progress(self.tally.data_pages, self.header.pages());
                }
                Kind::Commit { stamp, tally, state_len, mut state } => {
                    state.extend_from_slice(&body);
                    state.truncate(state_len);
                    let alone = stamp.parent == 0 && tally == self.tally;
                    return if alone { self.end().map(|()| (stamp, state)) } else { Err(Damage::Malformed(at).into()) };
                }
                Kind::Description(_) => return Err(Damage::Malformed(at).into()),
            }
        }
    }

    /// Nothing may follow.
    fn end(&mut self) -> Result<(), Error> {
        match self.input.read_exact(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            Err(source) => Err(Error::Storage { doing: "cannot read the export", source }),
            Ok(()) => Err(Damage::Length.into()),
        }
    }
}

const _: () = assert!(BLOCK_SIZE == PAGE_SIZE);
