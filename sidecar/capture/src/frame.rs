//! A frame: what the compositor drew, and the promise to give its buffer back.
//!
//! It does not know which source it came from; a [`Lease`] does.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use protocol::{PixelFormat, Rect};
use virtgpu::{Imported, SharedMap};

/// One picture. Dropping it gives its buffer back to the compositor.
#[derive(Debug)]
pub struct Frame {
    /// Counts up over the capture's life, also over reconnections.
    pub seq: u64,
    /// When the compositor finished it: `CLOCK_MONOTONIC`, ns.
    pub capture_ns: u64,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Layout of a pixel; never NV12.
    pub format: PixelFormat,
    /// What changed since the frame that was delivered before; not empty, inside the picture.
    pub damage: Rect,
    /// The pixels.
    pub buffer: FrameBuffer,
    /// Gives the buffer back.
    pub lease: Lease,
}

/// Where a frame's pixels are.
#[derive(Debug, Clone)]
pub enum FrameBuffer {
    /// On the host's GPU.
    Gpu(GpuBuffer),
    /// In shared memory.
    Shm(ShmView),
}

/// A DMA-BUF that was imported.
#[derive(Debug, Clone)]
pub struct GpuBuffer {
    imported: Arc<Imported>,
    stride: u32,
}

impl GpuBuffer {
    /// A buffer with rows `stride` bytes apart.
    pub fn new(imported: Arc<Imported>, stride: u32) -> Self {
        Self { imported, stride }
    }

    /// The number under which the tap knows it.
    pub fn resource_id(&self) -> u32 {
        self.imported.resource_id()
    }

    /// Bytes from row to row.
    pub fn stride(&self) -> u32 {
        self.stride
    }

    /// Bytes.
    pub fn size(&self) -> usize {
        self.imported.size()
    }

    /// A descriptor of the DMA-BUF, for other libraries than ours.
    pub fn export(&self) -> io::Result<OwnedFd> {
        self.imported.export()
    }

    /// 0 for a classic resource, the only kind that the tap can read.
    pub fn blob_mem(&self) -> u32 {
        self.imported.blob_mem()
    }

    /// Brings `area` from the host and lends the picture up to its last pixel: (bytes, stride). See
    /// [`Imported::with_pixels`].
    pub fn with_pixels<T>(&self, area: Rect, read: impl FnOnce(&[u8], u32) -> T) -> io::Result<T> {
        self.imported.with_pixels(area, self.stride, |bytes| read(bytes, self.stride))
    }
}

/// Pixels in shared memory.
#[derive(Debug, Clone)]
pub struct ShmView {
    map: Arc<SharedMap>,
    offset: usize,
    len: usize,
    stride: u32,
}

impl ShmView {
    /// A picture of `height` rows of `stride` bytes at `offset`; `None` if it is not all in `map`.
    pub fn new(map: Arc<SharedMap>, offset: usize, stride: u32, height: u32) -> Option<Self> {
        let len = (stride as usize).checked_mul(height as usize)?;
        (offset.checked_add(len)? <= map.len()).then_some(Self { map, offset, len, stride })
    }

    /// The picture, from its first pixel, rows [`Self::stride`] bytes apart.
    pub fn bytes(&self) -> &[u8] {
        self.map.bytes().get(self.offset..self.offset + self.len).unwrap_or(&[])
    }

    /// Bytes from row to row.
    pub fn stride(&self) -> u32 {
        self.stride
    }
}

/// Who takes a buffer back; called on whatever thread drops the frame, so it only notes and rings.
pub trait GiveBack: Send + Sync {
    /// Buffer `token` is free again.
    fn give_back(&self, token: u64);
}

/// A buffer on loan; dropping it gives the buffer back. The default has nothing to give back.
#[derive(Default)]
pub struct Lease(Option<(Arc<dyn GiveBack>, u64)>);

impl Lease {
    /// A lease of buffer `token` of `owner`.
    pub fn new(owner: Arc<dyn GiveBack>, token: u64) -> Self {
        Self(Some((owner, token)))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some((owner, token)) = self.0.take() {
            owner.give_back(token);
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Lease").field(&self.0.as_ref().map(|(_, token)| token)).finish()
    }
}

/// `damage` cut to the picture; the whole picture if nothing is left of it.
pub fn clamp_damage(damage: Rect, width: u32, height: u32) -> Rect {
    let x = damage.x.min(width);
    let y = damage.y.min(height);
    let cut = Rect { x, y, width: damage.width.min(width - x), height: damage.height.min(height - y) };
    if cut.fits(width, height) { cut } else { Rect::full(width, height) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_cut_to_the_picture_and_never_empty() {
        let full = Rect::full(100, 50);
        let cut = |x, y, width, height| clamp_damage(Rect { x, y, width, height }, 100, 50);
        assert_eq!(cut(10, 10, 5, 5), Rect { x: 10, y: 10, width: 5, height: 5 });
        assert_eq!(cut(90, 40, 50, 50), Rect { x: 90, y: 40, width: 10, height: 10 });
        assert_eq!(cut(0, 0, u32::MAX, u32::MAX), full);
        assert_eq!(cut(100, 0, 5, 5), full);
        assert_eq!(cut(0, 0, 0, 0), full);
    }

    #[test]
    fn a_view_lies_in_its_memory() {
        let (map, _) = SharedMap::create("test", 4096).expect("memfd");
        let map = Arc::new(map);
        assert_eq!(ShmView::new(Arc::clone(&map), 96, 400, 10).map(|view| view.bytes().len()), Some(4000));
        assert!(ShmView::new(Arc::clone(&map), 97, 400, 10).is_none());
        assert!(ShmView::new(map, usize::MAX, u32::MAX, u32::MAX).is_none());
    }
}
