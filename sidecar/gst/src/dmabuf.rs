//! A DMA-BUF as GStreamer memory. The plugin's fence: the one call here that the bindings leave to us.
//!
//! It does not know whose buffer it is, or when it goes back.

#![expect(unsafe_code, reason = "GStreamer takes over a descriptor")]

use std::os::fd::OwnedFd;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer_allocators::DmaBufAllocator;
use gstreamer_allocators::prelude::*;

/// Memory of `size` bytes that is the DMA-BUF `fd`; closes the descriptor when the memory goes.
pub fn memory(allocator: &DmaBufAllocator, fd: OwnedFd, size: usize) -> Result<gst::Memory, glib::BoolError> {
    // SAFETY: the allocator takes over a descriptor that is open, is a DMA-BUF of at least `size` bytes or
    // gives an error when mapped, and is closed by nobody else. An `OwnedFd` that is moved in is open and
    // nobody else's; it comes from PRIME_HANDLE_TO_FD, with the size that the kernel says the buffer has.
    unsafe { allocator.alloc_dmabuf(fd, size) }
}
