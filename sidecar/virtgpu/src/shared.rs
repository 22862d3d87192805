//! Shared memory: allocated and mapped here for a compositor to write, or received from one and read without a mapping.
//!
//! Memory of another process is never mapped. Its owner can truncate it at any time, and then a mapping raises `SIGBUS`;
//! and a page that its owner never wrote is allocated, and charged to this process's cgroup, when a mapping is read.
//! `pread` does neither.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{MemfdFlags, SealFlags};

use crate::map::Mapping;

/// Shared memory of this process, mapped.
#[derive(Debug)]
pub struct SharedMap {
    map: Mapping,
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
        Ok((Self { map, len }, fd))
    }

    /// Length in bytes; never 0.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The memory's bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the bytes must not be written while the slice lives. Wayland forbids the compositor to write between
        // "ready" and the next copy into the buffer, which is when this is called. A compositor that breaks the
        // protocol tears its own picture: the bytes are only ever copied or converted as pixels, never used as
        // lengths, indices or pointers. Copying each frame first would cost more than all other work on it.
        unsafe { self.map.bytes(0, self.len) }.unwrap_or(&[])
    }

    /// The memory's bytes, for writing; `None` if the mapping is read-only.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        // SAFETY: the bytes must not be accessed by others while the slice lives: callers write while they own the
        // buffer; an owner of the descriptor that breaks the protocol tears its own picture, as for `bytes`.
        unsafe { self.map.bytes_mut() }
    }
}

/// Copies `out.len()` bytes from `offset` of another process's shared memory, which may change and shrink meanwhile.
///
/// # Errors
///
/// `UnexpectedEof` if the memory ends before the range does. `EINVAL` if the file is not in memory (memfd or tmpfs): reads
/// of other files can block.
pub fn read_shared(fd: BorrowedFd<'_>, offset: u64, out: &mut [u8]) -> io::Result<()> {
    // Files of memory have seals, all others refuse the question (fcntl(2), F_GET_SEALS).
    rustix::fs::fcntl_get_seals(fd)?;
    let mut done = 0;
    while done < out.len() {
        let at = offset.checked_add(done as u64).ok_or(io::ErrorKind::InvalidInput)?;
        match rustix::io::pread(fd, &mut out[done..], at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => done += read,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
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
    fn memory_of_another_process_is_read_from_any_offset() {
        let (_map, fd) = SharedMap::create("test", 8192).expect("memfd");
        rustix::io::pwrite(&fd, b"picture", 5000).expect("written");
        let mut out = [0; 7];
        read_shared(fd.as_fd(), 5000, &mut out).expect("read");
        assert_eq!(&out, b"picture");
        let kind =
            |offset, len| read_shared(fd.as_fd(), offset, &mut vec![0; len]).map_err(|error| error.kind());
        assert_eq!(kind(8000, 192), Ok(()));
        assert_eq!(kind(8000, 193), Err(io::ErrorKind::UnexpectedEof));
        assert!(kind(u64::MAX, 2).is_err(), "overflow");
        assert_eq!(kind(9000, 0), Ok(()));
    }

    #[test]
    fn file_that_is_not_in_memory_is_refused() {
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        assert!(read_shared(reader.as_fd(), 0, &mut [0; 1]).is_err());
        let program = std::fs::File::open("/proc/self/exe").expect("this program");
        assert!(read_shared(program.as_fd(), 0, &mut [0; 1]).is_err(), "a file of a disk");
    }

    #[test]
    fn number_that_is_not_a_descriptor_is_refused() {
        for fd in [-1, i32::MAX] {
            let error = duplicate_raw(fd).expect_err("not a descriptor");
            assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::BADF.raw_os_error()));
        }
    }
}
