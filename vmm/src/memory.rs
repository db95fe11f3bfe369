//! A district's RAM as the host sees it. (The window is [`district_devices::Window`].)

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use district_protocol::layout::RAM_BASE;
use rustix::io::Errno;
use rustix::mm::Advice;
use thiserror::Error;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress, MmapRegion};

/// Why memory could not be had.
#[derive(Debug, Error)]
pub(crate) enum MemoryError {
    /// The host does not give this much address space.
    #[error("cannot map {bytes} bytes of RAM: {source}")]
    Map { bytes: u64, source: vm_memory::mmap::MmapRegionError },
    /// A file does not hold what was found in it before.
    #[error("cannot read {bytes} bytes at {offset} of the image: {source}")]
    Read { bytes: u64, offset: u64, source: Errno },
    /// The address, as a guest or the code that builds its memory gave it, is not in RAM.
    #[error("{bytes} bytes at {address:#x} are not in RAM")]
    OutOfRange { address: u64, bytes: u64 },
}

/// RAM, from [`RAM_BASE`] on: private memory of this process that nobody else can see. Pages exist once touched.
pub(crate) struct Ram {
    region: GuestRegionMmap,
}

impl Ram {
    pub(crate) fn new(bytes: u64) -> Result<Self, MemoryError> {
        let size = usize::try_from(bytes).map_err(|_| MemoryError::OutOfRange { address: RAM_BASE, bytes })?;
        // Private, anonymous, not reserved: the defaults of `MmapRegion::new`.
        let map = MmapRegion::new(size).map_err(|source| MemoryError::Map { bytes, source })?;
        let region = GuestRegionMmap::new(map, GuestAddress(RAM_BASE))
            .ok_or(MemoryError::OutOfRange { address: RAM_BASE, bytes })?;
        Ok(Self { region })
    }

    /// Memory that begins with what is in `image` from `offset` on; what is written to it stays in this process. The
    /// image must stay as long as it is and change nowhere but in pages that have been written to here.
    pub(crate) fn map(bytes: u64, image: File, offset: u64) -> Result<Self, MemoryError> {
        let size = usize::try_from(bytes).map_err(|_| MemoryError::OutOfRange { address: RAM_BASE, bytes })?;
        let map = MmapRegion::build(
            // A length beyond the end of the file is refused.
            Some(FileOffset::new(image, offset)),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_NORESERVE,
        );
        let map = map.map_err(|source| MemoryError::Map { bytes, source })?;
        let region = GuestRegionMmap::new(map, GuestAddress(RAM_BASE))
            .ok_or(MemoryError::OutOfRange { address: RAM_BASE, bytes })?;
        Ok(Self { region })
    }

    /// Makes `[address, address + bytes)`, whole pages, zero; pages that are so already are only read.
    pub(crate) fn clear(&self, address: u64, bytes: u64) -> Result<(), MemoryError> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut page = [0; 4096];
        let end = address.checked_add(bytes).ok_or(MemoryError::OutOfRange { address, bytes })?;
        for address in (address..end).step_by(ZEROS.len()) {
            self.read(address, &mut page)?;
            if page != ZEROS {
                self.write(address, &ZEROS)?;
            }
        }
        Ok(())
    }

    /// Appends the page at `address` to `to`, as it is now.
    pub(crate) fn append_page(&self, address: u64, to: &mut Vec<u8>) -> Result<(), MemoryError> {
        let start = to.len();
        to.resize(start + 4096, 0);
        self.read(address, &mut to[start..])
    }

    pub(crate) fn size(&self) -> u64 {
        self.region.len()
    }

    /// Where RAM is in this process; it stays there as long as `self` lives.
    pub(crate) fn host_address(&self) -> u64 {
        self.region.as_ptr().addr() as u64
    }

    /// The offset of `[address, address + bytes)` in RAM, if all of it is there.
    fn offset(&self, address: u64, bytes: usize) -> Result<MemoryRegionAddress, MemoryError> {
        let error = MemoryError::OutOfRange { address, bytes: bytes as u64 };
        match address.checked_sub(RAM_BASE) {
            Some(offset) if offset.checked_add(bytes as u64).is_some_and(|end| end <= self.size()) => {
                Ok(MemoryRegionAddress(offset))
            }
            _ => Err(error),
        }
    }

    /// Has the kernel make several whole pages that are about to be written to, at once: a fault for each would take several
    /// times as long. The range is in RAM.
    fn populate(&self, offset: MemoryRegionAddress, bytes: usize) {
        const PAGE: usize = 4096;
        let Ok(begin) = usize::try_from(offset.0) else { return };
        let end = begin.saturating_add(bytes) / PAGE * PAGE;
        let start = begin.next_multiple_of(PAGE);
        if end < start.saturating_add(2 * PAGE) {
            return;
        }
        let pages = self.region.as_ptr().wrapping_add(start);
        // SAFETY: `madvise` wants advice that leaves the contents of memory as they are, which this does, and pages that are
        // mapped: those are in `self`'s own mapping. Where the kernel does not know it (before Linux 5.14) there are faults.
        let _ = unsafe { rustix::mm::madvise(pages.cast(), end - start, Advice::LinuxPopulateWrite) };
    }

    pub(crate) fn read(&self, address: u64, out: &mut [u8]) -> Result<(), MemoryError> {
        let error = MemoryError::OutOfRange { address, bytes: out.len() as u64 };
        let offset = self.offset(address, out.len())?;
        self.region.read_slice(out, offset).map_err(|_| error)
    }

    pub(crate) fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        let offset = self.offset(address, data.len())?;
        self.populate(offset, data.len());
        let error = MemoryError::OutOfRange { address, bytes: data.len() as u64 };
        self.region.write_slice(data, offset).map_err(|_| error)
    }

    pub(crate) fn read_u64(&self, address: u64) -> Result<u64, MemoryError> {
        let offset = self.offset(address, 8)?;
        self.region.load(offset, Ordering::Relaxed).map_err(|_| MemoryError::OutOfRange { address, bytes: 8 })
    }

    /// Stores a number that the running guest may be looking at.
    pub(crate) fn store_u64(&self, address: u64, value: u64, order: Ordering) -> Result<(), MemoryError> {
        let offset = self.offset(address, 8)?;
        self.region.store(value, offset, order).map_err(|_| MemoryError::OutOfRange { address, bytes: 8 })
    }

    /// Stores a number that the running guest may be looking at.
    pub(crate) fn store_u32(&self, address: u64, value: u32, order: Ordering) -> Result<(), MemoryError> {
        let offset = self.offset(address, 4)?;
        self.region.store(value, offset, order).map_err(|_| MemoryError::OutOfRange { address, bytes: 4 })
    }

    /// Reads `bytes` at `offset` of `file` into RAM. The file is read, not mapped: a mapping of a file that somebody
    /// cuts short kills who touches it. Its position is left alone, since whoever passed the file may share it.
    pub(crate) fn read_file(&self, address: u64, file: &File, offset: u64, bytes: u64) -> Result<(), MemoryError> {
        let range = MemoryError::OutOfRange { address, bytes };
        let size = usize::try_from(bytes).map_err(|_| MemoryError::OutOfRange { address, bytes })?;
        let start = self.offset(address, size)?;
        self.populate(start, size);
        let slice = self.region.get_slice(start, size).map_err(|_| range)?;
        let guard = slice.ptr_guard_mut();
        let mut done = 0;
        while done < size {
            let at = offset + done as u64;
            let failed = |source| MemoryError::Read { bytes, offset, source };
            let position = i64::try_from(at).map_err(|_| failed(Errno::OVERFLOW))?;
            let into = guard.as_ptr().wrapping_add(done).cast();
            // SAFETY: `pread` writes at most `size - done` bytes at `into`. `guard` covers `size` bytes of our mapping,
            // of which `done` are before `into`.
            let count = unsafe { libc::pread(file.as_raw_fd(), into, size - done, position) };
            match usize::try_from(count) {
                Ok(0) => return Err(failed(Errno::NODATA)),
                Ok(count) => done += count,
                Err(_) => {
                    let errno = std::io::Error::last_os_error();
                    if errno.kind() != std::io::ErrorKind::Interrupted {
                        return Err(failed(Errno::from_io_error(&errno).unwrap_or(Errno::IO)));
                    }
                }
            }
        }
        Ok(())
    }
}
