//! Memory mappings of files.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::AtomicU64;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Shared mapping, unmapped on drop.
///
/// Other processes may write to it. [`mailbox`](crate::mailbox) accesses it by atomics; [`import`](crate::import) and
/// [`shared`](crate::shared) take slices and state why their bytes do not change meanwhile.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
    writable: bool,
}

// SAFETY: a mapping belongs to the process, not to a thread, and `Mapping` is its only owner, so it may be used and
// unmapped from any thread.
unsafe impl Send for Mapping {}
// SAFETY: `&Mapping` gives out atomics, which are `Sync`, and, in an unsafe fn whose caller excludes writes, read-only
// slices.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd` from `offset`, a multiple of the page size, with `MAP_SHARED`.
    pub fn new(fd: BorrowedFd<'_>, offset: u64, len: usize, writable: bool) -> io::Result<Self> {
        if len == 0 || isize::try_from(len).is_err() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let prot = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: mmap requires that no memory in use is replaced. The address is null and MAP_FIXED is not set, so
        // the kernel picks a free range, which `Mapping` owns from here on.
        let start = unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, fd, offset) }?;
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { start, len, writable })
    }

    /// The 8 bytes at `offset`.
    ///
    /// # Panics
    ///
    /// Panics if the mapping is read-only, `offset` is not a multiple of 8 or the word is outside the mapping.
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(self.writable, "word of a read-only mapping");
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len, "word at {offset} of {}", self.len);
        // SAFETY: `add` requires a result inside the same allocation: `offset + 8 <= len` was asserted.
        let at = unsafe { self.start.as_ptr().add(offset) };
        // SAFETY: `AtomicU64::from_ptr` requires that `at`
        // - is aligned to 8: mappings start at page boundaries, and `offset` is a multiple of 8;
        // - is valid for reads and writes for the result's lifetime: the mapping is writable, as asserted, and `self`,
        //   which unmaps on drop, is borrowed;
        // - is not accessed non-atomically meanwhile: this process takes no slices of the mailbox's mapping, and the
        //   host writes aligned words.
        unsafe { AtomicU64::from_ptr(at.cast()) }
    }

    /// `len` bytes from `offset`, or `None` if they are not all inside the mapping.
    ///
    /// # Safety
    ///
    /// The bytes must not be written while the slice lives, except by a process that breaks the protocol under which
    /// the memory is shared; see [`SharedMap::bytes`](crate::SharedMap::bytes).
    pub unsafe fn bytes(&self, offset: usize, len: usize) -> Option<&[u8]> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: `add` requires a result inside the allocation or at its end: `offset + len <= self.len`.
        let at = unsafe { self.start.as_ptr().add(offset) };
        // SAFETY: `from_raw_parts` requires `len` bytes at `at` that are
        // - non-null, aligned, readable and initialised: mapped with PROT_READ, filled by the kernel;
        // - at most `isize::MAX`: checked in `new`;
        // - valid and unchanged for the slice's lifetime: it borrows `self`; the rest is the caller's obligation.
        Some(unsafe { slice::from_raw_parts(at, len) })
    }

    /// All bytes, for writing; `None` if the mapping is read-only.
    ///
    /// # Safety
    ///
    /// As for [`Self::bytes`], and the bytes must not be read by others while the slice lives, with the same exception.
    pub unsafe fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        if !self.writable {
            return None;
        }
        // SAFETY: `from_raw_parts_mut` requires `len` bytes at `start` that are
        // - non-null, aligned, initialised and at most `isize::MAX`: as for `bytes`;
        // - writable: mapped with PROT_WRITE, as just checked;
        // - accessed by nothing else for the slice's lifetime: `&mut self` excludes this process, the caller excludes
        //   the others.
        Some(unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: munmap requires that the range is not used afterwards: it is the one mmap returned, owned by `self`
        // alone, and all references into it borrow `self`. It fails only for a range that is not mapped.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}
