//! Where files and directories come from: the seam at which the tests cut the power.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, Dir, FallocateFlags, FileType, Mode, OFlags};

/// A file. Two handles of one file see each other's writes at once.
pub trait Storage {
    /// Fills `buffer` from `offset` on; `UnexpectedEof` if the file ends before that.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes all slices one after another from `offset` on, with as few system calls as possible.
    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()>;
    /// Makes `len` bytes from `offset` on read as zeros and gives their blocks back.
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Sets the length.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// The length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Has the disk begin with what was written there, and does not wait until it is done. A hint: nothing follows from it.
    fn begin_write_out(&self, _offset: u64, _len: u64) {}
    /// Returns when everything written so far, and the length, is durable. What a failed sync leaves behind is unknown.
    fn sync_data(&self) -> io::Result<()>;
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
}

/// A directory of regular files.
pub trait Directory {
    /// Its files.
    type File: Storage;
    /// Names of everything in it, in no order. Names that are not UTF-8 are left out: nothing here writes such.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Opens a regular file.
    fn open(&self, name: &str, access: Access) -> io::Result<Self::File>;
    /// Makes a file that must not exist yet, for reading and writing.
    fn create_new(&self, name: &str) -> io::Result<Self::File>;
    /// Gives a file another name, in place of a file that has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Returns when all names are durable.
    fn sync(&self) -> io::Result<()>;
}

impl<T: Storage + ?Sized> Storage for &T {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        (**self).write_at(offset, slices)
    }
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        (**self).punch_hole(offset, len)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        (**self).set_len(len)
    }
    fn size(&self) -> io::Result<u64> {
        (**self).size()
    }
    fn begin_write_out(&self, offset: u64, len: u64) {
        (**self).begin_write_out(offset, len);
    }
    fn sync_data(&self) -> io::Result<()> {
        (**self).sync_data()
    }
}

impl<T: Directory + ?Sized> Directory for &T {
    type File = T::File;
    fn names(&self) -> io::Result<Vec<String>> {
        (**self).names()
    }
    fn open(&self, name: &str, access: Access) -> io::Result<Self::File> {
        (**self).open(name, access)
    }
    fn create_new(&self, name: &str) -> io::Result<Self::File> {
        (**self).create_new(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        (**self).rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        (**self).remove(name)
    }
    fn sync(&self) -> io::Result<()> {
        (**self).sync()
    }
}

/// Most slices that one `pwritev` takes (`UIO_MAXIOV`, Linux `include/uapi/linux/uio.h`).
const SLICES_MAX: usize = 1024;
/// Zeros written at a time where the file system cannot punch holes.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// System calls: `pread64`, `pwritev`, `fallocate`, `ftruncate`, `fstat`, `sync_file_range`, `fdatasync`.
impl Storage for File {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write_at(&self, mut offset: u64, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let mut slices = slices.to_vec();
        let mut left = slices.as_mut_slice();
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match rustix::io::pwritev(self, &left[..left.len().min(SLICES_MAX)], offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut left, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(self, flags, offset, len) {
            Err(rustix::io::Errno::OPNOTSUPP) => write_zeros(self, offset, len),
            other => Ok(other?),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Ok(rustix::fs::ftruncate(self, len)?)
    }

    fn size(&self) -> io::Result<u64> {
        let size = rustix::fs::fstat(self)?.st_size;
        u64::try_from(size).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    fn begin_write_out(&self, offset: u64, len: u64) {
        let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else { return };
        // An error of the disk's is not lost by this: `fdatasync` reports it.
        // SAFETY: the call takes a descriptor, which is open, and numbers.
        unsafe { libc::sync_file_range(self.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(self)?)
    }
}

fn write_zeros(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        let now = usize::try_from(len - done).unwrap_or(usize::MAX).min(ZEROS.len());
        file.write_all_at(&ZEROS[..now], offset + done)?;
        done += now as u64;
    }
    Ok(())
}

/// A directory by its descriptor: no path leads out of it, and no link is followed.
#[derive(Debug)]
pub struct Folder(OwnedFd);

impl Folder {
    /// Takes a directory that was opened for reading.
    pub fn new(descriptor: OwnedFd) -> Folder {
        Folder(descriptor)
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        if name.is_empty() || name == "." || name == ".." || name.contains('/') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file"));
        }
        // Not waiting: a pipe in place of the file must not stop the daemon.
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
        if kind != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(File::from(file))
    }
}

impl Directory for Folder {
    type File = File;

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            if let Ok(name) = entry?.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn open(&self, name: &str, access: Access) -> io::Result<File> {
        self.open_file(name, if access == Access::Write { OFlags::RDWR } else { OFlags::RDONLY })
    }

    fn create_new(&self, name: &str) -> io::Result<File> {
        self.open_file(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, from, &self.0, to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }
}
