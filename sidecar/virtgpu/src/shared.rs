//! Shared memory: made here for a compositor to write into, or lent by one to be read.
//!
//! What is made here is sealed, so that the other side can't shrink it under our feet (a read beyond the end
//! of a shrunken file kills the process with SIGBUS). It does not know pixels or buffers' states.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{MemfdFlags, SealFlags};

use crate::map::Mapping;

/// Mappings begin at pages; 64 KiB is the largest page size of any kernel we run on.
const LARGEST_PAGE: u64 = 64 << 10;

/// Mapped shared memory.
#[derive(Debug)]
pub struct SharedMap {
    map: Mapping,
    skip: usize,
    len: usize,
    writable: bool,
}

impl SharedMap {
    /// Makes `len` bytes of sealed, zeroed memory; the descriptor goes to whoever shall write there.
    pub fn create(name: &str, len: usize) -> io::Result<(Self, OwnedFd)> {
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, len as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let map = Mapping::new(fd.as_fd(), 0, len, true)?;
        Ok((Self { map, skip: 0, len, writable: true }, fd))
    }

    /// Maps `len` bytes from `offset` of a descriptor that someone else made. The file must be that long; it
    /// need not be sealed: whoever lends it already rules our desktop.
    pub fn lent(fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        let size = u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0);
        let end = offset.checked_add(len as u64).ok_or(io::ErrorKind::InvalidInput)?;
        if len == 0 || end > size {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("bytes {offset} to {end} asked of shared memory that has {size}"),
            ));
        }
        let skip = offset % LARGEST_PAGE;
        let map = Mapping::new(fd, offset - skip, len + skip as usize, false)?;
        Ok(Self { map, skip: skip as usize, len, writable: false })
    }

    /// Bytes that can be read.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true: nothing can't be mapped.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the protocols that lend memory, Wayland's and PipeWire's, forbid the
        // owner to write between "ready" and "given back", which is when these bytes are read. One who breaks
        // that tears his own picture: every value of a byte is valid, no length, index or pointer is ever read
        // from here, and copying a frame first would cost more than everything else that is done to it.
        unsafe { self.map.bytes(self.skip, self.len) }.unwrap_or(&[])
    }

    /// The bytes of memory made here, to draw in while nobody else does; `None` for lent memory.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        if !self.writable {
            return None;
        }
        // SAFETY: mapped writable, as just checked; for the rest see `bytes`.
        Some(unsafe { self.map.bytes_mut() })
    }
}

/// Our own descriptor for the one that a C library keeps in a plain number; a number that is no descriptor
/// gives `EBADF`.
pub fn duplicate_raw(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: not -1; used for this one system call only, which answers EBADF if it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    Ok(rustix::io::fcntl_dupfd_cloexec(borrowed, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_here_can_be_written_by_the_other_side_but_not_shrunk() {
        let (map, fd) = SharedMap::create("test", 8192).expect("memfd");
        rustix::io::pwrite(&fd, b"picture", 5000).expect("the other side writes");
        assert_eq!(&map.bytes()[5000..5007], b"picture");
        assert!(rustix::fs::ftruncate(&fd, 0).is_err(), "sealed");
    }

    #[test]
    fn lent_memory_is_checked_and_may_begin_anywhere() {
        let (_map, fd) = SharedMap::create("test", 8192).expect("memfd");
        rustix::io::pwrite(&fd, b"picture", 5000).expect("written");
        let mut lent = SharedMap::lent(fd.as_fd(), 5000, 7).expect("mapped");
        assert_eq!(lent.bytes(), b"picture");
        assert!(lent.bytes_mut().is_none(), "lent memory is for reading");
        assert!(SharedMap::lent(fd.as_fd(), 8000, 193).is_err(), "beyond the end");
        assert!(SharedMap::lent(fd.as_fd(), u64::MAX, 2).is_err(), "overflow");
        assert!(SharedMap::lent(fd.as_fd(), 0, 0).is_err(), "nothing");
    }

    #[test]
    fn a_number_that_is_no_descriptor_is_refused() {
        for fd in [-1, i32::MAX] {
            let error = duplicate_raw(fd).expect_err("no descriptor");
            assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::BADF.raw_os_error()));
        }
    }
}
