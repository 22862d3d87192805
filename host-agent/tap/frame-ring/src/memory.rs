//! The mapping: the unsafe part of the ring. It knows where slots lie and nothing of who may touch them;
//! its callers hold a slot by its state.

use std::os::fd::{AsFd, OwnedFd};

use memmap2::{MmapOptions, MmapRaw};

use crate::RingError;
use crate::layout::{HEADER_BYTES, Header, Layout};
use crate::sys;

/// The ring's memory, mapped shared and writable.
pub(crate) struct Mapping {
    map: MmapRaw,
    layout: Layout,
}

impl Mapping {
    /// Maps memory of this layout; `populate` has all pages present at once, so that no page fault
    /// falls on whoever writes first.
    pub(crate) fn map(fd: &OwnedFd, layout: Layout, populate: bool) -> Result<Self, RingError> {
        let mut options = MmapOptions::new();
        options.len(layout.total_bytes());
        if populate {
            options.populate();
        }
        let map = options.map_raw(fd).map_err(|source| RingError::System { step: "map", source })?;
        Ok(Self { map, layout })
    }

    /// Maps a peer's memory, of whatever layout its header names, after checking that it really has
    /// that size and can't lose it.
    pub(crate) fn map_foreign(fd: &OwnedFd, populate: bool) -> Result<Self, RingError> {
        let bytes = sys::checked_bytes(fd.as_fd())?;
        if bytes < HEADER_BYTES as u64 {
            return Err(RingError::NotARing("too small for a header"));
        }
        let first = MmapOptions::new()
            .len(HEADER_BYTES)
            .map_raw(fd)
            .map_err(|source| RingError::System { step: "map the header of", source })?;
        // The smallest layout lies inside any: only the header of this mapping is touched.
        let layout = Self { map: first, layout: Layout { slots: 0, slot_bytes: 0 } }.header().layout()?;
        if bytes != layout.total_bytes() as u64 {
            return Err(RingError::NotARing("its size is not what its header says"));
        }
        Self::map(fd, layout, populate)
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    #[expect(clippy::cast_ptr_alignment, reason = "mappings begin at a page")]
    pub(crate) fn header(&self) -> &Header {
        // SAFETY: the mapping has at least HEADER_BYTES bytes (both constructors), which hold a
        // `Header` (asserted in layout.rs); it is page-aligned; it lives as long as `self`; all fields
        // are atomics, so changes by the other process are no data race and any bytes are valid.
        unsafe { &*self.map.as_ptr().cast::<Header>() }
    }

    fn slot_ptr(&self, slot: usize) -> *mut u8 {
        debug_assert!(slot < self.layout.slots);
        self.map.as_mut_ptr().wrapping_add(self.layout.slot_at(slot))
    }

    /// A slot's bytes.
    ///
    /// # Safety
    /// `slot` is below the layout's number of slots, and in state `Reading` by the caller's hand until
    /// the returned reference is gone: then no writer of ours touches it.
    pub(crate) unsafe fn slot(&self, slot: usize) -> &[u8] {
        // SAFETY: slots below `layout.slots` lie inside the mapping (`Layout::total_bytes` is its
        // length), which lives as long as `self` and can't shrink (sealed); u8 has no alignment and no
        // invalid values; that nobody writes meanwhile is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.slot_ptr(slot), self.layout.slot_bytes) }
    }

    /// A slot's bytes, to write.
    ///
    /// # Safety
    /// `slot` is below the layout's number of slots, and in state `Writing` by the caller's hand until
    /// the returned reference is gone: then no reader of ours looks at it.
    pub(crate) unsafe fn slot_mut(&mut self, slot: usize) -> &mut [u8] {
        // SAFETY: as in `slot`; that nobody reads or writes meanwhile is the caller's promise, and
        // `&mut self` keeps a second reference of this process away.
        unsafe { std::slice::from_raw_parts_mut(self.slot_ptr(slot), self.layout.slot_bytes) }
    }
}

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mapping").field("layout", &self.layout).finish_non_exhaustive()
    }
}
