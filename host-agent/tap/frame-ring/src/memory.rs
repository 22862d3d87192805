//! The memory mapping: the unsafe part of the ring.
//!
//! Slots are handed out by number; the callers ([`consumer`](crate::consumer),
//! [`producer`](crate::producer)) guarantee exclusive access by the slot's state.

use std::os::fd::{AsFd, OwnedFd};

use memmap2::{MmapOptions, MmapRaw};

use crate::RingError;
use crate::layout::{HEADER_BYTES, Header, Layout};
use crate::sys;

/// A ring's memory, mapped shared and writable.
pub(crate) struct Mapping {
    map: MmapRaw,
    layout: Layout,
}

impl Mapping {
    /// Maps memory of this layout. With `populate` all pages are made present, so that the first write
    /// to a page does not fault.
    pub(crate) fn map(fd: &OwnedFd, layout: Layout, populate: bool) -> Result<Self, RingError> {
        let mut options = MmapOptions::new();
        options.len(layout.total_bytes());
        if populate {
            options.populate();
        }
        let map = options.map_raw(fd).map_err(|source| RingError::System { step: "map", source })?;
        Ok(Self { map, layout })
    }

    /// Maps memory that a peer made, with the layout in its header. Checks that the memory has exactly
    /// the size that the layout needs, and cannot shrink.
    pub(crate) fn map_foreign(fd: &OwnedFd, populate: bool) -> Result<Self, RingError> {
        let bytes = sys::checked_bytes(fd.as_fd())?;
        if bytes < HEADER_BYTES as u64 {
            return Err(RingError::NotARing("the memory is too small for a header"));
        }
        let map = MmapOptions::new()
            .len(HEADER_BYTES)
            .map_raw(fd)
            .map_err(|source| RingError::System { step: "map the header of", source })?;
        // Only the header of this mapping is used, so a layout without slots is enough.
        let layout = Self { map, layout: Layout { slots: 0, slot_bytes: 0 } }.header().layout()?;
        if bytes != layout.total_bytes() as u64 {
            return Err(RingError::NotARing("the memory's size differs from its header"));
        }
        Self::map(fd, layout, populate)
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    #[expect(clippy::cast_ptr_alignment, reason = "mmap returns page-aligned addresses")]
    pub(crate) fn header(&self) -> &Header {
        // SAFETY:
        // - valid: the mapping has at least HEADER_BYTES bytes (both constructors) and `Header` fits
        //   into them (asserted in layout.rs); the memory cannot shrink (`sys::checked_bytes`, or made by
        //   `sys::create`).
        // - aligned: mappings begin at a page, and `Header` needs 128 bytes.
        // - initialised: atomics of integers accept any bytes.
        // - aliasing: all fields are atomics, so stores by the other process are not data races.
        // - lifetime: the reference borrows `self`, which owns the mapping.
        unsafe { &*self.map.as_ptr().cast::<Header>() }
    }

    fn slot_ptr(&self, slot: usize) -> *mut u8 {
        debug_assert!(slot < self.layout.slots);
        self.map.as_mut_ptr().wrapping_add(self.layout.slot_offset(slot))
    }

    /// A slot's bytes.
    ///
    /// # Safety
    /// `slot` must be less than the layout's number of slots. The caller must have put it into state
    /// `Reading`, and must keep it there as long as the returned reference lives.
    pub(crate) unsafe fn slot(&self, slot: usize) -> &[u8] {
        // SAFETY:
        // - valid: a slot less than `layout.slots` (caller) ends within `Layout::total_bytes`, the
        //   mapping's length; the memory cannot shrink.
        // - aligned and initialised: u8 has alignment 1 and accepts any value.
        // - aliasing: no writer of this crate writes to a slot in state Reading (caller). A peer that
        //   writes nevertheless runs as the same user and is trusted with the pixels.
        // - lifetime: the reference borrows `self`, which owns the mapping.
        unsafe { std::slice::from_raw_parts(self.slot_ptr(slot), self.layout.slot_bytes) }
    }

    /// A slot's bytes, writable.
    ///
    /// # Safety
    /// `slot` must be less than the layout's number of slots. The caller must have put it into state
    /// `Writing`, and must keep it there as long as the returned reference lives.
    pub(crate) unsafe fn slot_mut(&mut self, slot: usize) -> &mut [u8] {
        // SAFETY:
        // - valid, aligned, initialised, lifetime: as in `slot`.
        // - aliasing: no reader or other writer of this crate accesses a slot in state Writing (caller),
        //   and `&mut self` excludes a second reference in this process.
        unsafe { std::slice::from_raw_parts_mut(self.slot_ptr(slot), self.layout.slot_bytes) }
    }
}

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mapping").field("layout", &self.layout).finish_non_exhaustive()
    }
}
