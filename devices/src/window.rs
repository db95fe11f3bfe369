//! The window: the memory that a district shares with the broker.
//!
//! It is a memfd that is sealed against growing and shrinking before anybody else gets it. Without the seals, whoever
//! holds it could shorten it under the other's mapping, whose next access would then be a fatal signal.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use district_protocol::channel::CONSUMED_OFFSET;
use district_protocol::layout::{PAGE_SIZE, WINDOW_BASE, WINDOW_SIZE_MAX, WINDOW_SIZE_MIN};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstatfs, ftruncate, memfd_create};
use vm_memory::guest_memory::Error as AccessError;
use vm_memory::{
    AtomicAccess, ByteValued, Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MemoryRegionAddress, WriteVolatile,
};

/// `f_type` of what `memfd_create` makes, unless it is asked for huge pages (statfs(2)).
const TMPFS_MAGIC: u32 = 0x0102_1994;

/// Seals without which a memfd is not safe to map.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// Why there is no window.
#[derive(Debug, thiserror::Error)]
pub enum WindowError {
    /// The size is not one that a window can have, or not that of the file.
    #[error("window of {0} bytes")]
    Size(u64),
    /// The file is not a memfd sealed against growing and shrinking, or is made of huge pages, which the kernel may
    /// fail to supply when they are touched.
    #[error("the window's file is not a sealed memfd of ordinary pages")]
    NotSealed,
    /// The host failed; the operating system's answer is the source.
    #[error("{doing}")]
    Host {
        /// What was tried.
        doing: &'static str,
        /// The answer.
        #[source]
        source: io::Error,
    },
}

/// A mapping of a district's window, shared with whoever else maps it. What is read from it is not trusted and may
/// change at any time.
#[derive(Debug)]
pub struct Window {
    memfd: Arc<File>,
    region: Arc<GuestRegionMmap>,
    memory: GuestMemoryMmap,
}

impl Window {
    /// Makes the memory of a window, all zero, and seals and maps it. `size` is in bytes, a multiple of the page size
    /// from [`WINDOW_SIZE_MIN`] to [`WINDOW_SIZE_MAX`].
    pub fn create(size: u64) -> Result<Window, WindowError> {
        check_size(size)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memfd = memfd_create("district-window", flags).map_err(host("make the window"))?;
        ftruncate(&memfd, size).map_err(host("size the window"))?;
        fcntl_add_seals(&memfd, SEALS | SealFlags::SEAL).map_err(host("seal the window"))?;
        Window::map_checked(memfd, size)
    }

    /// Maps a window that another process has made, and that must have `size` bytes. Nobody needs to be trusted for it:
    /// size and seals are checked before it is mapped.
    pub fn map(memfd: OwnedFd, size: u64) -> Result<Window, WindowError> {
        check_size(size)?;
        let kind = fstatfs(&memfd).map_err(host("examine the window"))?.f_type;
        // A file without seals, such as a pipe or a file on disk, answers with an error.
        let seals = fcntl_get_seals(&memfd).unwrap_or(SealFlags::empty());
        if u32::try_from(kind) != Ok(TMPFS_MAGIC) || !seals.contains(SEALS) {
            return Err(WindowError::NotSealed);
        }
        let memfd = File::from(memfd);
        let actual =
            memfd.metadata().map_err(|source| WindowError::Host { doing: "examine the window", source })?.len();
        if actual != size {
            return Err(WindowError::Size(actual));
        }
        Window::map_checked(memfd.into(), size)
    }

    fn map_checked(memfd: OwnedFd, size: u64) -> Result<Window, WindowError> {
        let memfd = Arc::new(File::from(memfd));
        let map_failed = |error| WindowError::Host { doing: "map the window", source: io::Error::other(error) };
        let length = usize::try_from(size).map_err(|_| WindowError::Size(size))?;
        let file = Some(FileOffset::from_arc(Arc::clone(&memfd), 0));
        let region = GuestRegionMmap::from_range(GuestAddress(WINDOW_BASE), length, file).map_err(map_failed)?;
        let region = Arc::new(region);
        let memory = GuestMemoryMmap::from_arc_regions(vec![Arc::clone(&region)])
            .map_err(|error| WindowError::Host { doing: "map the window", source: io::Error::other(error) })?;
        Ok(Window { memfd, region, memory })
    }

    /// Bytes in the window.
    pub fn size(&self) -> u64 {
        self.region.len()
    }

    /// The memory behind the window, to be passed to another process.
    pub fn memfd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }

    /// Address of the mapping in this process, for `KVM_SET_USER_MEMORY_REGION`. It stays mapped until the window is
    /// dropped.
    pub fn host_address(&self) -> u64 {
        self.region.as_ptr().expose_provenance() as u64
    }

    /// How many deliveries the program says it has consumed in this session ([`CONSUMED_OFFSET`]). Untrusted: it may be
    /// any number.
    pub fn consumed(&self) -> u64 {
        // The only error is an address outside the window, which this one is not: the smallest window is larger.
        self.load(CONSUMED_OFFSET, Ordering::Acquire).map_or(0, u64::from_le)
    }

    pub(crate) fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Offset in the window of the buffer of `len` bytes at guest address `address`, if all of it is in the window.
    pub(crate) fn offset(&self, address: u64, len: u32) -> Option<u32> {
        let offset = address.checked_sub(WINDOW_BASE)?;
        let end = offset.checked_add(u64::from(len))?;
        if end <= self.size() { u32::try_from(offset).ok() } else { None }
    }

    /// The plain value at `offset`, copied out in one go.
    pub(crate) fn read_value<T: ByteValued>(&self, offset: u64) -> Result<T, AccessError> {
        self.region.read_obj(MemoryRegionAddress(offset))
    }

    pub(crate) fn write_value<T: ByteValued>(&self, offset: u64, value: T) -> Result<(), AccessError> {
        self.region.write_obj(value, MemoryRegionAddress(offset))
    }

    pub(crate) fn load<T: AtomicAccess>(&self, offset: u64, order: Ordering) -> Result<T, AccessError> {
        self.region.load(MemoryRegionAddress(offset), order)
    }

    pub(crate) fn store<T: AtomicAccess>(&self, offset: u64, value: T, order: Ordering) -> Result<(), AccessError> {
        self.region.store(value, MemoryRegionAddress(offset), order)
    }

    /// Appends the `len` bytes at `offset` to `bytes`.
    pub(crate) fn read(&self, offset: u32, len: u32, bytes: &mut Vec<u8>) -> Result<(), AccessError> {
        let slice = self.region.get_slice(MemoryRegionAddress(u64::from(offset)), len as usize)?;
        bytes.write_all_volatile(&slice)?;
        Ok(())
    }

    /// Copies `bytes` to `offset`.
    pub(crate) fn write(&self, offset: u32, bytes: &[u8]) -> Result<(), AccessError> {
        self.region.get_slice(MemoryRegionAddress(u64::from(offset)), bytes.len())?.copy_from(bytes);
        Ok(())
    }
}

fn check_size(size: u64) -> Result<(), WindowError> {
    if (WINDOW_SIZE_MIN..=WINDOW_SIZE_MAX).contains(&size) && size.is_multiple_of(PAGE_SIZE) {
        Ok(())
    } else {
        Err(WindowError::Size(size))
    }
}

fn host(doing: &'static str) -> impl FnOnce(rustix::io::Errno) -> WindowError {
    move |errno| WindowError::Host { doing, source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = WINDOW_SIZE_MIN;

    fn memfd(flags: MemfdFlags, size: u64) -> OwnedFd {
        let memfd = memfd_create("test", MemfdFlags::CLOEXEC | flags).unwrap();
        ftruncate(&memfd, size).unwrap();
        memfd
    }

    #[test]
    fn two_mappings_share_the_memory() {
        let made = Window::create(SIZE).unwrap();
        let mapped = Window::map(made.memfd().try_clone_to_owned().unwrap(), SIZE).unwrap();
        assert_ne!(made.host_address(), mapped.host_address());
        made.write(100, b"seen").unwrap();
        let mut bytes = Vec::new();
        mapped.read(100, 4, &mut bytes).unwrap();
        assert_eq!(bytes, b"seen");
        assert_eq!(made.consumed(), 0);
        mapped.write(u32::try_from(CONSUMED_OFFSET).unwrap(), &0x0102_0304_0506_0708_u64.to_le_bytes()).unwrap();
        assert_eq!(made.consumed(), 0x0102_0304_0506_0708);
    }

    #[test]
    fn nobody_can_resize_or_unseal_it() {
        let window = Window::create(SIZE).unwrap();
        for size in [0, SIZE - PAGE_SIZE, SIZE + PAGE_SIZE] {
            assert_eq!(ftruncate(window.memfd(), size), Err(rustix::io::Errno::PERM));
        }
        assert!(fcntl_add_seals(window.memfd(), SealFlags::WRITE).is_err());
    }

    #[test]
    fn sizes_that_are_none_are_refused() {
        for size in [0, 1, SIZE - 1, SIZE + 1, SIZE / 2, WINDOW_SIZE_MAX + PAGE_SIZE, u64::MAX] {
            assert!(matches!(Window::create(size), Err(WindowError::Size(refused)) if refused == size));
        }
    }

    #[test]
    fn only_a_sealed_memfd_is_mapped() {
        let unsealed = memfd(MemfdFlags::ALLOW_SEALING, SIZE);
        fcntl_add_seals(&unsealed, SealFlags::GROW).unwrap();
        let file = OwnedFd::from(File::open("/proc/self/exe").unwrap());
        let pipe = OwnedFd::from(io::pipe().unwrap().1);
        for refused in [unsealed, memfd(MemfdFlags::empty(), SIZE), file, pipe] {
            assert!(matches!(Window::map(refused, SIZE), Err(WindowError::NotSealed)));
        }
        let short = memfd(MemfdFlags::ALLOW_SEALING, SIZE - PAGE_SIZE);
        fcntl_add_seals(&short, SEALS).unwrap();
        assert!(matches!(Window::map(short, SIZE), Err(WindowError::Size(size)) if size == SIZE - PAGE_SIZE));
    }

    #[test]
    fn buffers_are_inside_or_refused() {
        let window = Window::create(SIZE).unwrap();
        assert_eq!(window.offset(WINDOW_BASE, 0), Some(0));
        assert_eq!(window.offset(WINDOW_BASE + SIZE - 1, 1), Some(262_143));
        assert_eq!(window.offset(WINDOW_BASE + SIZE, 0), Some(262_144));
        for (address, len) in [
            (WINDOW_BASE - 1, 1),
            (WINDOW_BASE + SIZE, 1),
            (WINDOW_BASE + SIZE - 1, 2),
            (WINDOW_BASE, u32::MAX),
            (u64::MAX, u32::MAX),
            (0, 0),
        ] {
            assert_eq!(window.offset(address, len), None, "{address:#x} {len}");
        }
    }
}
