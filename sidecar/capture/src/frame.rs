//! A captured frame and the lease on its buffer.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use protocol::{PixelFormat, Rect};
use virtgpu::{Imported, SharedMap};

/// A captured frame. Dropping it returns the buffer to the compositor.
#[derive(Debug)]
pub struct Frame {
    /// Sequence number; increases over the capture's life, also across reconnections.
    pub seq: u64,
    /// Time at which the compositor finished the frame, in nanoseconds of `CLOCK_MONOTONIC`.
    pub capture_ns: u64,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Pixel format; never NV12.
    pub format: PixelFormat,
    /// Area that differs from the previously delivered frame; non-empty and inside the frame.
    pub damage: Rect,
    /// Pixels of the frame.
    pub buffer: FrameBuffer,
    /// Returns the buffer when dropped.
    pub lease: Lease,
}

/// Memory that holds a frame's pixels.
#[derive(Debug, Clone)]
pub enum FrameBuffer {
    /// A resource on the host's GPU.
    Gpu(GpuBuffer),
    /// Shared memory.
    Shm(ShmView),
}

/// An imported DMA-BUF.
#[derive(Debug, Clone)]
pub struct GpuBuffer {
    imported: Arc<Imported>,
    stride: u32,
}

impl GpuBuffer {
    /// A buffer whose rows are `stride` bytes apart.
    pub fn new(imported: Arc<Imported>, stride: u32) -> Self {
        Self { imported, stride }
    }

    /// Resource ID of the buffer in the guest kernel and the host's renderer.
    pub fn resource_id(&self) -> u32 {
        self.imported.resource_id()
    }

    /// Distance between rows in bytes.
    pub fn stride(&self) -> u32 {
        self.stride
    }

    /// Size in bytes.
    pub fn size(&self) -> usize {
        self.imported.size()
    }

    /// A DMA-BUF descriptor of the buffer, for use with other libraries.
    ///
    /// # Errors
    /// The error of `PRIME_HANDLE_TO_FD`.
    pub fn export(&self) -> io::Result<OwnedFd> {
        self.imported.export()
    }

    /// The resource's `blob_mem` from `RESOURCE_INFO`; 0 for a classic resource, the only kind the tap reads.
    pub fn blob_mem(&self) -> u32 {
        self.imported.blob_mem()
    }

    /// Transfers `area` from the host and calls `read` with the bytes up to the frame's last pixel and the
    /// stride. See [`Imported::with_pixels`].
    ///
    /// # Errors
    /// The error of the transfer or the mapping.
    pub fn with_pixels<T>(&self, area: Rect, read: impl FnOnce(&[u8], u32) -> T) -> io::Result<T> {
        self.imported.with_pixels(area, self.stride, |bytes| read(bytes, self.stride))
    }
}

/// A frame's pixels in shared memory.
#[derive(Debug, Clone)]
pub struct ShmView {
    map: Arc<SharedMap>,
    offset: usize,
    len: usize,
    stride: u32,
}

impl ShmView {
    /// `height` rows of `stride` bytes at `offset`; `None` unless all rows lie in `map`.
    pub fn new(map: Arc<SharedMap>, offset: usize, stride: u32, height: u32) -> Option<Self> {
        let len = (stride as usize).checked_mul(height as usize)?;
        (offset.checked_add(len)? <= map.len()).then_some(Self { map, offset, len, stride })
    }

    /// The rows, [`Self::stride`] bytes apart, starting at the first pixel.
    pub fn bytes(&self) -> &[u8] {
        self.map.bytes().get(self.offset..self.offset + self.len).unwrap_or(&[])
    }

    /// Distance between rows in bytes.
    pub fn stride(&self) -> u32 {
        self.stride
    }
}

/// Owner of leased buffers.
pub trait BufferOwner: Send + Sync {
    /// Takes back the buffer `token`. Called on the thread that drops the frame: it must not block.
    fn release(&self, token: u64);
}

/// A lease on a buffer; dropping it releases the buffer. The default lease releases nothing.
#[derive(Default)]
pub struct Lease(Option<(Arc<dyn BufferOwner>, u64)>);

impl Lease {
    /// A lease on the buffer `token` of `owner`.
    pub fn new(owner: Arc<dyn BufferOwner>, token: u64) -> Self {
        Self(Some((owner, token)))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some((owner, token)) = self.0.take() {
            owner.release(token);
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Lease").field(&self.0.as_ref().map(|(_, token)| token)).finish()
    }
}

/// Clips `damage` to the frame; the whole frame if nothing of it remains.
pub(crate) fn clip_damage(damage: Rect, width: u32, height: u32) -> Rect {
    let x = damage.x.min(width);
    let y = damage.y.min(height);
    let clipped = Rect { x, y, width: damage.width.min(width - x), height: damage.height.min(height - y) };
    if clipped.fits(width, height) { clipped } else { Rect::full(width, height) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_outside_the_frame_is_clipped_and_never_empty() {
        let full = Rect::full(100, 50);
        let clip = |x, y, width, height| clip_damage(Rect { x, y, width, height }, 100, 50);
        assert_eq!(clip(10, 10, 5, 5), Rect { x: 10, y: 10, width: 5, height: 5 });
        assert_eq!(clip(90, 40, 50, 50), Rect { x: 90, y: 40, width: 10, height: 10 });
        assert_eq!(clip(0, 0, u32::MAX, u32::MAX), full);
        assert_eq!(clip(100, 0, 5, 5), full);
        assert_eq!(clip(0, 0, 0, 0), full);
    }

    #[test]
    fn shm_view_outside_its_map_is_refused() {
        let (map, _) = SharedMap::create("test", 4096).expect("memfd");
        let map = Arc::new(map);
        assert_eq!(ShmView::new(Arc::clone(&map), 96, 400, 10).map(|view| view.bytes().len()), Some(4000));
        assert!(ShmView::new(Arc::clone(&map), 97, 400, 10).is_none());
        assert!(ShmView::new(map, usize::MAX, u32::MAX, u32::MAX).is_none());
    }
}
