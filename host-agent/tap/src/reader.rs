//! Readers: how pixels get from a resource into a ring slot.
//!
//! [`CopyReader`] uses virglrenderer's synchronous read. That suits software GL; on a GPU it blocks the
//! VMM's thread until the GPU has finished drawing.

use frame_ring::clock::monotonic_ns;

use crate::original;

/// A resource to read as a whole, approved by [`access`](crate::access).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// Resource ID.
    pub resource: u32,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Distance between rows in the slot, in bytes.
    pub stride: u32,
}

impl Job {
    /// Size of the frame in bytes. Both sides are at most 8192, so it cannot overflow.
    pub fn bytes(&self) -> usize {
        self.stride as usize * self.height as usize
    }
}

/// A read failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The VMM's virglrenderer lacks a function.
    #[error("virglrenderer has no virgl_renderer_transfer_read_iov; install version 0.10 or newer")]
    Missing,
    /// virglrenderer returned an error code.
    #[error("virglrenderer failed to read the resource: error {0}")]
    Refused(i32),
}

/// Reads resources on the VMM's GPU thread.
pub trait Reader {
    /// Reads `job` into `out`, which has exactly [`Job::bytes`] bytes. Returns the time that the read
    /// took, ns.
    ///
    /// # Errors
    /// If the resource could not be read.
    fn read(&mut self, job: &Job, out: &mut [u8]) -> Result<u64, ReadError>;
}

/// The synchronous reader.
///
/// Row 0 is the top row, also for `VIRGL_RESOURCE_Y_0_TOP` resources: virglrenderer stores those upside
/// down and flips them in both directions (`vrend_renderer.c`, `vrend_transfer_send_readpixels`).
#[derive(Debug, Default)]
pub struct CopyReader;

impl Reader for CopyReader {
    fn read(&mut self, job: &Job, out: &mut [u8]) -> Result<u64, ReadError> {
        let start = monotonic_ns();
        original::get().read_resource(job, out)?;
        Ok(monotonic_ns().saturating_sub(start))
    }
}
