//! How a picture gets from a resource into a slot.
//!
//! There is one reader, [`Copy`]: virglrenderer's own synchronous read, right for software GL, where
//! nothing is asynchronous anyway. On a real GPU that read stops the VMM for as long as the GPU is busy.
//! The reader for that converts with a shader into a mapped buffer and returns at once; it fits here:
//! [`Reader::read`] answers [`Progress::Pending`], the slot and the mailbox's answer wait in the VMM
//! part, and the fence's callback, on the same thread, finishes both. Which reader to take is to be
//! chosen by the GL renderer's name at init.

use frame_ring::clock::monotonic_ns;

use crate::real;

/// A picture to read: all of a resource that [`judge`](crate::judge) has let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// Resource ID.
    pub resource: u32,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Bytes from row to row in the slot.
    pub stride: u32,
}

impl Job {
    /// Bytes that the picture takes. Both sides are at most 8192: no overflow.
    pub fn bytes(&self) -> usize {
        self.stride as usize * self.height as usize
    }
}

/// How far a read got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The pixels are in the slot.
    Done {
        /// Time that the read itself took on this thread, ns.
        ns: u64,
    },
    /// The pixels will be there later; see the module's text.
    Pending,
}

/// Why a read failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The VMM's virglrenderer lacks the function.
    #[error("virglrenderer has no virgl_renderer_transfer_read_iov; this version can't be read")]
    Missing,
    /// virglrenderer said no, with an errno.
    #[error("virglrenderer could not read the resource: {0}")]
    Refused(i32),
}

/// Reads pictures, on the VMM's GPU thread.
pub trait Reader {
    /// Reads `job` into `out`, which has exactly its bytes.
    fn read(&mut self, job: &Job, out: &mut [u8]) -> Result<Progress, ReadError>;
}

/// The synchronous reader. Row 0 comes out at the top, of `VIRGL_RESOURCE_Y_0_TOP` resources too:
/// virglrenderer keeps those upside down and turns them in both directions (`vrend_renderer.c`,
/// `vrend_transfer_send_readpixels`).
#[derive(Debug, Default)]
pub struct Copy;

impl Reader for Copy {
    fn read(&mut self, job: &Job, out: &mut [u8]) -> Result<Progress, ReadError> {
        let start = monotonic_ns();
        real::get().read_picture(job, out)?;
        Ok(Progress::Done { ns: monotonic_ns().saturating_sub(start) })
    }
}
