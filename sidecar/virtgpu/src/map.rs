//! Memory mapped from a file: address, length, and their end.
//!
//! What is in it, and who else writes there, is the users' business: [`mailbox`](crate::mailbox) reads with
//! atomics, [`import`](crate::import) and [`shared`](crate::shared) say when their bytes stand still.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::AtomicU64;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A shared mapping; unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and `Mapping` is its only owner; `&self`
// gives atomics and read-only bytes only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd` from `offset`, a multiple of the page size, shared with whoever else has it.
    pub fn new(fd: BorrowedFd<'_>, offset: u64, len: usize, writable: bool) -> io::Result<Self> {
        if len == 0 || isize::try_from(len).is_err() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let prot = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: no address is asked for, so that the kernel chooses free space and nothing that is mapped
        // changes; the result is owned by `Mapping` alone.
        let start = unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, fd, offset) }?;
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { start, len })
    }

    /// The eight bytes at `offset`, which must be a multiple of 8 in a writable mapping.
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len, "word at {offset} of {}", self.len);
        // SAFETY: `offset` is inside the mapping.
        let at = unsafe { self.start.as_ptr().add(offset) };
        // SAFETY: `at` is aligned, as mappings begin at pages and `offset` is a multiple of 8; it is valid for
        // as long as `self`; this process reaches it by atomics only (see the callers), and what the host
        // does to it are writes of aligned words.
        unsafe { AtomicU64::from_ptr(at.cast()) }
    }

    /// `len` bytes from `offset`, or `None` if they are not all inside.
    ///
    /// # Safety
    ///
    /// Nobody may write these bytes while the slice lives, or whoever does can only tear a picture: see
    /// [`SharedMap::bytes`](crate::SharedMap::bytes).
    pub unsafe fn bytes(&self, offset: usize, len: usize) -> Option<&[u8]> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: `offset` is inside the mapping or at its end.
        let at = unsafe { self.start.as_ptr().add(offset) };
        // SAFETY: `len` bytes from `at` are mapped readable, initialised by the kernel, for as long as `self`;
        // that they stand still is the caller's promise.
        Some(unsafe { slice::from_raw_parts(at, len) })
    }

    /// All bytes, to write.
    ///
    /// # Safety
    ///
    /// As for [`Self::bytes`], and the mapping must be writable.
    pub unsafe fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `len` bytes from `start` are mapped; exclusive by `&mut self` and the caller's promise.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `start` and `len` are what mmap gave, and no reference outlives `self`. An error could only
        // say that they are not.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}
