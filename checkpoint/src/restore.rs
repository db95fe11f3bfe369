//! A generation's memory, put together from the image and the log.

use std::io;

use crate::error::{Damage, Error};
use crate::format::{BLOCK_SIZE, PAGE_SIZE};
use crate::history::{Chain, History};
use crate::image::table::{Table, Whole};
use crate::image::{Image, Phase, Progress, STRIDE, pages_offset};
use crate::overlay::{Overlay, Piece, Source};
use crate::page::{Content, page_checksum};
use crate::segment::header::SegmentHeader;
use crate::segment::record::Stamp;
use crate::segment::scan::{read_batch, read_state, scan, walk};
use crate::storage::Storage;

/// Takes pages: number of the first, and what they contain.
pub type Apply<'a> = dyn FnMut(u64, Content<'_>) -> io::Result<()> + 'a;

/// Takes pages with data: number of the first, and the bytes.
pub(crate) type Give<'a> = dyn FnMut(u64, &[u8]) -> Result<(), Error> + 'a;

/// A batch of which something is needed.
#[derive(Debug, Clone, Copy)]
struct Batch {
    segment: usize,
    at: u64,
    bytes: usize,
    checksum: u64,
}

/// How to restore one generation. Heads and state have been checked; data is when it is handed out.
#[derive(Debug)]
pub struct Restore<F> {
    memory_size: u64,
    stamp: Stamp,
    state: Vec<u8>,
    image: Option<Image<F>>,
    segments: Vec<(F, SegmentHeader)>,
    batches: Vec<Batch>,
    overlay: Overlay,
    /// During a migration: the pages that may be half written in the image.
    unsettled: Option<Overlay>,
}

impl<F: Storage> Restore<F> {
    /// Plans to restore `generation` from the image of the lineage, if there is one, and its segments, or those that hold
    /// something of the generation. Reads the heads of all records in them, but no data.
    pub fn plan(image: Option<F>, segments: Vec<F>, generation: u64) -> Result<Restore<F>, Error> {
        let image = image.map(Image::open).transpose()?;
        let mut files = Vec::new();
        for file in segments {
            let header = SegmentHeader::read(&file)?;
            files.push((file, header));
        }
        files.sort_by_key(|(_, header)| header.number);
        let mut sizes = files.iter().map(|(_, header)| (header.memory_size, Some(header.lineage)));
        let first = sizes.next();
        let image_size = image.as_ref().map(|image| image.info().memory_size);
        let fits = sizes.all(|other| Some(other) == first)
            && image_size.is_none_or(|size| first.is_none_or(|(of_segments, _)| of_segments == size));
        if !fits {
            return Err(Error::Foreign { what: "log segment", why: "not of one lineage, or of other memory" });
        }
        let mut history = History::default();
        for (index, (file, header)) in files.iter().enumerate() {
            history.add(index, &scan(file, *header)?);
        }
        history.judge(image.as_ref().map(|image| image.info().phase));
        let chain = history.chain(generation).ok_or(Error::NotRestorable(generation))?;
        Restore::new(image, files, &chain, generation)
    }

    /// Plans along a chain that is known.
    pub(crate) fn new(
        image: Option<Image<F>>,
        segments: Vec<(F, SegmentHeader)>,
        chain: &Chain,
        generation: u64,
    ) -> Result<Restore<F>, Error> {
        let image = image.filter(|_| chain.image);
        let sizes = segments.first().map(|(_, header)| header.memory_size);
        let memory_size = image.as_ref().map(|image| image.info().memory_size).or(sizes);
        let memory_size = memory_size.ok_or(Error::NotRestorable(generation))?;
        let mut restore = Restore {
            memory_size,
            stamp: Stamp::default(),
            state: Vec::new(),
            image,
            segments,
            batches: Vec::new(),
            overlay: Overlay::default(),
            unsettled: None,
        };
        let target = match restore.image.as_ref().map(|image| image.slot().phase) {
            Some(Phase::Migrating { to, .. }) => Some(to),
            _ => None,
        };
        for entry in &chain.entries {
            restore.add(entry)?;
            if target == Some(entry.found.stamp.generation) {
                restore.unsettled = Some(restore.overlay.clone());
            }
        }
        (restore.stamp, restore.state) = match (chain.entries.last(), &restore.image) {
            (Some(entry), _) => {
                let (file, header) = restore.segment(entry.segment)?;
                (entry.found.stamp, read_state(file, header, &entry.found)?)
            }
            (None, Some(image)) => (image.slot().stamp, image.state().to_vec()),
            (None, None) => return Err(Error::NotRestorable(generation)),
        };
        Ok(restore)
    }

    fn segment(&self, index: usize) -> Result<&(F, SegmentHeader), Error> {
        // Chains are made from these very segments.
        self.segments.get(index).ok_or(Error::NotRestorable(self.stamp.generation))
    }

    fn add(&mut self, entry: &crate::history::Entry) -> Result<(), Error> {
        let Some((file, header)) = self.segments.get(entry.segment) else {
            return Err(Error::NotRestorable(entry.found.stamp.generation));
        };
        let (batches, overlay) = (&mut self.batches, &mut self.overlay);
        walk(file, header, &entry.found, &mut |at, head, runs| {
            let batch = u32::try_from(batches.len()).map_err(|_| Damage::Malformed(at))?;
            batches.push(Batch { segment: entry.segment, at, bytes: head.body_len, checksum: head.body_checksum });
            let mut index: u32 = 0;
            for run in runs {
                let source = if run.zero { Source::Zero } else { Source::Data { batch, index } };
                overlay.put(run.first, run.count, source);
                index = index.saturating_add(if run.zero { 0 } else { u32::try_from(run.count).unwrap_or(u32::MAX) });
            }
            Ok(())
        })
    }

    /// Bytes of memory.
    pub fn memory_size(&self) -> u64 {
        self.memory_size
    }

    /// Which generation it is, and when it was taken.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// The caller's state of that generation.
    pub fn state(&self) -> &[u8] {
        &self.state
    }

    /// Where memory begins in the image, which is to be mapped privately before [`Restore::apply`]. `None` if the image
    /// is not needed: then memory begins as zero.
    pub fn pages_offset(&self) -> Option<u64> {
        self.image.as_ref().map(|_| pages_offset(self.memory_size))
    }

    /// Reads all of the image, and checks every page that counts against the table. What [`Restore::apply`] hands out is
    /// checked by itself.
    pub fn verify_image(&self, progress: &mut Progress<'_>) -> Result<(), Error> {
        match (&self.image, &self.unsettled) {
            (None, _) => Ok(()),
            (Some(image), None) => image.verify(&|_| false, progress),
            (Some(image), Some(unsettled)) => image.verify(&|page| unsettled.covers(page), progress),
        }
    }

    /// Hands out every page that is not as in the image, or not zero where there is none, each exactly once and its data
    /// checked. One pass over the log; batches of which later ones have replaced everything are not read.
    pub fn apply(&self, apply: &mut Apply<'_>) -> Result<(), Error> {
        let mut give =
            |first, content: Content<'_>| apply(first, content).map_err(Error::storage("cannot apply pages"));
        if self.image.is_some() {
            for piece in self.overlay.pieces().filter(|piece| piece.source == Source::Zero) {
                give(piece.first, Content::Zero(piece.count))?;
            }
        }
        self.each_data(&mut |first, data| give(first, Content::Data(data)))
    }

    /// All data of the log that counts, in the order of the log.
    pub(crate) fn each_data(&self, give: &mut Give<'_>) -> Result<(), Error> {
        let mut wanted: Vec<(u32, u32, Piece)> = Vec::new();
        for piece in self.overlay.pieces() {
            if let Source::Data { batch, index } = piece.source {
                wanted.push((batch, index, piece));
            }
        }
        wanted.sort_unstable_by_key(|(batch, index, _)| (*batch, *index));
        let mut body = Vec::new();
        for pieces in wanted.chunk_by(|one, next| one.0 == next.0) {
            let number = pieces.first().and_then(|(batch, ..)| usize::try_from(*batch).ok());
            let Some(batch) = number.and_then(|number| self.batches.get(number)) else { continue };
            let (file, header) = self.segment(batch.segment)?;
            body.resize(batch.bytes, 0);
            read_batch(file, header, batch.at, batch.checksum, &mut body)?;
            for (_, index, piece) in pieces {
                let pages = body.chunks(PAGE_SIZE).count() as u64;
                let index = u64::from(*index).min(pages);
                let end = index.saturating_add(piece.count).min(pages);
                let [start, end] = [index, end].map(|page| usize::try_from(page).unwrap_or(0) * PAGE_SIZE);
                give(piece.first, &body[start..end])?;
            }
        }
        Ok(())
    }

    /// Reads and checks all data of the log that counts.
    pub(crate) fn check_data(&self) -> Result<(), Error> {
        self.each_data(&mut |_, _| Ok(()))
    }

    pub(crate) fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// The table of the image that this builds on, as far as it counts.
    pub(crate) fn image_table(&self, image: &Image<impl Storage>) -> Result<Table, Error> {
        match &self.unsettled {
            None => image.table(&Whole::All),
            Some(unsettled) => image.table(&Whole::Without(&|page| unsettled.covers(page))),
        }
    }

    /// Hands out every page of the whole memory that is not zero, each once and checked, in no order; zero ones may be
    /// among them. Tells `progress` of each page.
    pub(crate) fn each_page(&self, progress: &mut Progress<'_>, give: &mut Give<'_>) -> Result<(), Error> {
        let data = self.overlay.pieces().filter(|piece| piece.source != Source::Zero);
        let in_log: u64 = data.map(|piece| piece.count).sum();
        let image_pages = self.image.as_ref().map_or(0, Image::pages);
        let total = image_pages + in_log;
        if let Some(image) = &self.image {
            self.each_image_page(image, &mut |done| progress(done, total), give)?;
        }
        let mut done = image_pages;
        self.each_data(&mut |first, data| {
            give(first, data)?;
            done += (data.len() / PAGE_SIZE) as u64;
            progress(done, total);
            Ok(())
        })
    }

    fn each_image_page(
        &self,
        image: &Image<F>,
        progress: &mut dyn FnMut(u64),
        give: &mut Give<'_>,
    ) -> Result<(), Error> {
        let table = self.image_table(image)?;
        let pages = image.pages();
        let wanted = |page| table.get(page) != 0 && !self.overlay.covers(page);
        let (mut page, mut data) = (0, Vec::new());
        while page < pages {
            let count = (page..pages).take_while(|page| wanted(*page)).take(STRIDE_LEN).count() as u64;
            if count == 0 {
                page += 1;
                continue;
            }
            image.read_pages(page, count, &mut data)?;
            for (page, bytes) in (page..).zip(data.chunks(PAGE_SIZE)) {
                if page_checksum(bytes) != table.get(page) {
                    return Err(Damage::Page(page).into());
                }
            }
            give(page, &data)?;
            page += count;
            progress(page);
        }
        progress(pages);
        Ok(())
    }
}

/// As many pages as are read at a time.
const STRIDE_LEN: usize = 128;
const _: () = assert!(STRIDE_LEN as u64 == STRIDE && BLOCK_SIZE == PAGE_SIZE);
