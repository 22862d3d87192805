//! A DMA-BUF of someone else's: which resource it is, and, for rung `Pixels`, what is in it.
//!
//! Import attaches the resource to our own virgl context: that is what entitles the sidecar to ask the tap
//! for it, so an [`Imported`] is kept for as long as frames of that buffer may come.
//!
//! **Mapping is not reading.** The pixels live on the host; a mapping of such a buffer holds zeros until
//! `TRANSFER_FROM_HOST` has copied them into the guest's pages. [`Imported::with_pixels`] does that for just
//! the rectangle asked for. It does not know formats other than "four bytes a pixel".

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use protocol::Rect;

use crate::device::Device;
use crate::gem::Handle;
use crate::map::Mapping;
use crate::{duplicate_raw, sys, uapi};

const BYTES_PER_PIXEL: usize = 4;

/// An imported buffer. Dropping the last one of a buffer detaches it from our context.
#[derive(Debug)]
pub struct Imported {
    // The mapping does not need the handle: the kernel keeps the pages for it.
    map: Mutex<Option<Mapping>>,
    handle: Handle,
    resource_id: u32,
    size: usize,
    blob_mem: u32,
}

impl Device {
    /// Imports a DMA-BUF: 0.1 to 1 ms, so do it once per buffer. The descriptor is not needed afterwards.
    pub fn import(&self, buffer: impl AsFd) -> io::Result<Imported> {
        Imported::of(self.node.take(|node| sys::prime_import(node, buffer.as_fd()))?)
    }

    /// [`Self::import`] for a descriptor that a C library keeps in a plain number.
    pub fn import_raw(&self, buffer: RawFd) -> io::Result<Imported> {
        self.import(duplicate_raw(buffer)?)
    }
}

impl Imported {
    /// What a handle stands for.
    pub(crate) fn of(handle: Handle) -> io::Result<Self> {
        let info = sys::resource_info(handle.fd(), handle.raw())?;
        Ok(Self {
            map: Mutex::new(None),
            resource_id: info.res_handle,
            size: info.size as usize,
            blob_mem: info.blob_mem,
            handle,
        })
    }

    /// The number under which virglrenderer knows the buffer.
    pub fn resource_id(&self) -> u32 {
        self.resource_id
    }

    /// The handle that only this open of the node knows; for logs, never for the tap.
    pub fn gem_handle(&self) -> u32 {
        self.handle.raw()
    }

    /// Bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// 0 for a classic resource, else `VIRTGPU_BLOB_MEM_*`: 1 guest, 2 host, 3 host and guest.
    pub fn blob_mem(&self) -> u32 {
        self.blob_mem
    }

    /// A descriptor of the DMA-BUF, to be handed to others.
    pub fn export(&self) -> io::Result<OwnedFd> {
        sys::prime_export(self.fd(), self.handle.raw())
    }

    /// Waits until the host is through with what was queued for it; at most 15 s.
    pub fn wait(&self) -> io::Result<()> {
        sys::wait(self.fd(), self.handle.raw())
    }

    /// Copies `area` of the picture from the host into the guest's pages and lends them to `read`, from the
    /// *picture's* first pixel to the area's last, rows `stride` bytes apart. Outside of `area` lies whatever
    /// was copied before.
    pub fn with_pixels<T>(&self, area: Rect, stride: u32, read: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        let span = Span::new(area, stride, self.size)?;
        // A panic in `read` leaves the mapping as good as it was.
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let map = match &mut *map {
            Some(map) => map,
            None => map.insert(self.map()?),
        };
        sys::transfer_from_host(
            self.fd(),
            uapi::Transfer {
                bo_handle: self.handle.raw(),
                area: uapi::Box3d { x: area.x, y: area.y, z: 0, w: area.width, h: area.height, d: 1 },
                offset: u32::try_from(span.offset).map_err(|_| io::ErrorKind::InvalidInput)?,
                ..Default::default()
            },
        )?;
        sys::wait(self.fd(), self.handle.raw())?;
        // SAFETY: only a transfer writes these pages, and the lock, which is held until `read` returns, keeps
        // ours out. Another process that imported the same buffer could start one of its own: it would write
        // the same picture (see `SharedMap::bytes` for why that is tolerable).
        let bytes = unsafe { map.bytes(0, span.offset + span.len) };
        Ok(read(bytes.ok_or(io::ErrorKind::UnexpectedEof)?))
    }

    /// [`Self::with_pixels`] into `out`, rows packed tightly: `4 * area.width * area.height` bytes.
    pub fn read_pixels(&self, area: Rect, stride: u32, out: &mut [u8]) -> io::Result<()> {
        let row = area.width as usize * BYTES_PER_PIXEL;
        let start = Span::new(area, stride, self.size)?.offset;
        if out.len() != row * area.height as usize {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.with_pixels(area, stride, |bytes| {
            for (from, to) in bytes[start..].chunks(stride as usize).zip(out.chunks_mut(row)) {
                to.copy_from_slice(&from[..row]);
            }
        })
    }

    fn map(&self) -> io::Result<Mapping> {
        let offset = sys::map_offset(self.fd(), self.handle.raw())?;
        Mapping::new(self.fd(), offset, self.size, false)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.handle.fd()
    }
}

/// Where in a buffer an area's bytes are.
#[derive(Debug, PartialEq, Eq)]
struct Span {
    offset: usize,
    len: usize,
}

impl Span {
    fn new(area: Rect, stride: u32, size: usize) -> io::Result<Self> {
        let [x, y, width, height, stride] =
            [area.x, area.y, area.width, area.height, stride].map(|number| number as usize);
        let row = width * BYTES_PER_PIXEL;
        if width == 0 || height == 0 || x * BYTES_PER_PIXEL + row > stride {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let offset = y * stride + x * BYTES_PER_PIXEL;
        let len = (height - 1) * stride + row;
        if offset + len > size {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self { offset, len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_must_lie_in_the_buffer() {
        let size = 64 * 4 * 10;
        let span = |x, y, width, height| Span::new(Rect { x, y, width, height }, 256, size).ok();
        assert_eq!(span(0, 0, 64, 10), Some(Span { offset: 0, len: size }));
        assert_eq!(span(2, 3, 1, 2), Some(Span { offset: 3 * 256 + 8, len: 256 + 4 }));
        assert_eq!(span(63, 9, 1, 1), Some(Span { offset: size - 4, len: 4 }));
        for (x, y, width, height) in [(0, 0, 65, 1), (0, 0, 1, 11), (64, 9, 1, 1), (0, 0, 0, 1), (0, 0, 1, 0)]
        {
            assert_eq!(span(x, y, width, height), None, "{x},{y} {width}x{height}");
        }
        let huge = Rect { x: u32::MAX, y: u32::MAX, width: u32::MAX, height: u32::MAX };
        assert!(Span::new(huge, u32::MAX, size).is_err());
    }
}
