//! Shared memory, allocated here for a compositor to write, or received from one to read.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{MemfdFlags, SealFlags};

use crate::map::Mapping;

/// Largest page size of the kernels we run on. Mapping offsets must be multiples of the page size.
const MAX_PAGE_BYTES: u64 = 64 << 10;

/// Mapped shared memory.
#[derive(Debug)]
pub struct SharedMap {
    map: Mapping,
    skip: usize,
    len: usize,
}

impl SharedMap {
    /// Allocates `len` zeroed bytes, writable by this process and by holders of the returned descriptor.
    ///
    /// The memory is sealed against shrinking: reading beyond the end of a shrunk file raises `SIGBUS`.
    pub fn create(name: &str, len: usize) -> io::Result<(Self, OwnedFd)> {
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, len as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let map = Mapping::new(fd.as_fd(), 0, len, true)?;
        Ok((Self { map, skip: 0, len }, fd))
    }

    /// Maps `len` bytes from `offset` of another process's memory, read-only. `offset` need not be page-aligned.
    ///
    /// The file need not be sealed: its owner, the compositor, already controls the desktop being streamed.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if `len` is 0 or the range is not inside the file.
    pub fn map_read_only(fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        let size = u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0);
        let end = offset.checked_add(len as u64).ok_or(io::ErrorKind::InvalidInput)?;
        if len == 0 || end > size {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("bytes {offset} to {end} are outside the shared memory, which has {size}"),
            ));
        }
        let skip = offset % MAX_PAGE_BYTES;
        let map = Mapping::new(fd, offset - skip, len + skip as usize, false)?;
        Ok(Self { map, skip: skip as usize, len })
    }

    /// Length in bytes; never 0.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The memory's bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the bytes must not be written while the slice lives. Wayland and PipeWire forbid the owner to write
        // between "ready" and release of the buffer, which is when this is called. An owner that breaks the protocol
        // tears its own picture: the bytes are only ever copied or converted as pixels, never used as lengths,
        // indices or pointers. Copying each frame first would cost more than all other work on it.
        unsafe { self.map.bytes(self.skip, self.len) }.unwrap_or(&[])
    }

    /// The bytes of memory from [`Self::create`], for writing; `None` for memory from [`Self::map_read_only`].
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        // SAFETY: the bytes must not be accessed by others while the slice lives: callers write while they own the
        // buffer; an owner of the descriptor that breaks the protocol tears its own picture, as for `bytes`.
        unsafe { self.map.bytes_mut() }
    }
}

/// Duplicates a descriptor that a C library passes as a number.
///
/// # Errors
///
/// `EBADF` if `fd` is not open.
pub fn duplicate_raw(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: `borrow_raw` requires that `fd` is not -1, which was checked, and that it stays open while borrowed: it
    // is used for the one system call below, which returns EBADF otherwise.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    Ok(rustix::io::fcntl_dupfd_cloexec(borrowed, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn created_memory_is_writable_by_peer_but_not_shrinkable() {
        let (map, fd) = SharedMap::create("test", 8192).expect("memfd");
        rustix::io::pwrite(&fd, b"picture", 5000).expect("the peer writes");
        assert_eq!(&map.bytes()[5000..5007], b"picture");
        assert!(rustix::fs::ftruncate(&fd, 0).is_err(), "sealed");
    }

    #[test]
    fn read_only_map_checks_range_and_accepts_unaligned_offset() {
        let (_map, fd) = SharedMap::create("test", 8192).expect("memfd");
        rustix::io::pwrite(&fd, b"picture", 5000).expect("written");
        let mut mapped = SharedMap::map_read_only(fd.as_fd(), 5000, 7).expect("mapped");
        assert_eq!(mapped.bytes(), b"picture");
        assert!(mapped.bytes_mut().is_none(), "read-only");
        assert!(SharedMap::map_read_only(fd.as_fd(), 8000, 193).is_err(), "beyond the end");
        assert!(SharedMap::map_read_only(fd.as_fd(), u64::MAX, 2).is_err(), "overflow");
        assert!(SharedMap::map_read_only(fd.as_fd(), 0, 0).is_err(), "empty");
    }

    #[test]
    fn number_that_is_not_a_descriptor_is_refused() {
        for fd in [-1, i32::MAX] {
            let error = duplicate_raw(fd).expect_err("not a descriptor");
            assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::BADF.raw_os_error()));
        }
    }
}
