//! DMA-BUFs as GStreamer memory: the plugin's only unsafe call.

#![expect(unsafe_code, reason = "alloc_dmabuf is unsafe in the bindings")]

use std::os::fd::OwnedFd;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer_allocators::DmaBufAllocator;
use gstreamer_allocators::prelude::*;

/// Wraps the DMA-BUF `fd` of `size` bytes. The memory owns the descriptor and closes it.
pub fn memory(allocator: &DmaBufAllocator, fd: OwnedFd, size: usize) -> Result<gst::Memory, glib::BoolError> {
    // SAFETY: `alloc_dmabuf` requires that
    // - `fd` is open and its ownership passes to the memory: it is an `OwnedFd`, moved in;
    // - mapping `size` bytes stays inside the buffer: callers pass a descriptor from PRIME_HANDLE_TO_FD with the size
    //   that the kernel reports for the buffer. mmap of a DMA-BUF fails beyond its end.
    unsafe { allocator.alloc_dmabuf(fd, size) }
}
