//! Imported DMA-BUFs: their resource IDs and, for frame path `Pixels`, their contents.
//!
//! Importing attaches the resource to this open's virgl context, which the tap requires of the resources it reads.
//! An [`Imported`] must therefore live as long as frames of its buffer are requested.
//!
//! The pixels are in host memory. A mapping of the buffer shows zeros until `TRANSFER_FROM_HOST` has copied them into
//! the guest's pages; [`Imported::with_pixels`] does this for the requested rectangle only. Formats are 4 bytes per
//! pixel.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use drm::control::Device as _;
use parking_lot::Mutex;
use protocol::Rect;

use crate::device::Device;
use crate::gem::Handle;
use crate::map::Mapping;
use crate::{sys, uapi};

const BYTES_PER_PIXEL: usize = 4;

/// Imported buffer. Dropping the last one of a buffer detaches the resource from this context.
#[derive(Debug)]
pub struct Imported {
    // Independent of the handle: the kernel keeps the pages for the mapping.
    map: Mutex<Option<Mapping>>,
    handle: Handle,
    resource_id: u32,
    size: usize,
    blob_mem: u32,
}

impl Device {
    /// Imports a DMA-BUF. Takes 0.1 to 1 ms, so import each buffer once. The descriptor may be closed afterwards.
    pub fn import(&self, buffer: impl AsFd) -> io::Result<Imported> {
        let handle = self.node.take(|node| sys::retry(|| node.prime_fd_to_buffer(buffer.as_fd())))?;
        Imported::of(handle)
    }
}

impl Imported {
    /// Queries the resource of a GEM handle.
    pub(crate) fn of(handle: Handle) -> io::Result<Self> {
        let info = sys::resource_info(handle.node().as_fd(), handle.raw())?;
        Ok(Self {
            map: Mutex::new(None),
            resource_id: info.res_handle,
            size: info.size as usize,
            blob_mem: info.blob_mem,
            handle,
        })
    }

    /// Resource ID, shared by guest kernel and virglrenderer.
    pub fn resource_id(&self) -> u32 {
        self.resource_id
    }

    /// GEM handle, local to this open of the node; for logs.
    pub fn gem_handle(&self) -> u32 {
        self.handle.raw().into()
    }

    /// Size in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// 0 for a classic resource, else `VIRTGPU_BLOB_MEM_*`: 1 guest, 2 host, 3 host and guest.
    pub fn blob_mem(&self) -> u32 {
        self.blob_mem
    }

    /// Exports the buffer as a DMA-BUF.
    pub fn export(&self) -> io::Result<OwnedFd> {
        let node = self.handle.node();
        sys::retry(|| node.buffer_to_prime_fd(self.handle.raw(), drm::CLOEXEC | drm::RDWR))
    }

    /// Copies `area` of the picture from the host into the guest's pages and calls `read` with them.
    ///
    /// The slice starts at the *picture's* first pixel and ends at the area's last, rows `stride` bytes apart. Pixels
    /// outside `area` are those of earlier copies. Blocks until the copy has completed, at most 15 s.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if `area` is empty or not inside the buffer.
    pub fn with_pixels<T>(&self, area: Rect, stride: u32, read: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        let span = Span::new(area, stride, self.size)?;
        let mut map = self.map.lock();
        let map = match &mut *map {
            Some(map) => map,
            None => map.insert(self.map()?),
        };
        sys::transfer_from_host(
            self.fd(),
            uapi::Transfer {
                bo_handle: self.handle.raw().into(),
                area: uapi::Box3d { x: area.x, y: area.y, z: 0, w: area.width, h: area.height, d: 1 },
                offset: u32::try_from(span.offset).map_err(|_| io::ErrorKind::InvalidInput)?,
                ..Default::default()
            },
        )?;
        sys::wait(self.fd(), self.handle.raw())?;
        // SAFETY: the bytes must not be written while the slice lives. Only transfers write these pages; this one has
        // completed, and the lock, held until `read` returns, excludes further ones of this process. Another process
        // that imported the buffer can start one: it would write pixels of the same buffer, which is tolerated for
        // the reasons given at `SharedMap::bytes`.
        let bytes = unsafe { map.bytes(0, span.offset + span.len) };
        Ok(read(bytes.ok_or(io::ErrorKind::UnexpectedEof)?))
    }

    fn map(&self) -> io::Result<Mapping> {
        let offset = sys::map_offset(self.fd(), self.handle.raw())?;
        Mapping::new(self.fd(), offset, self.size, false)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.handle.node().as_fd()
    }
}

/// Byte range of an area: from its first pixel to its last.
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
    fn area_outside_the_buffer_is_refused() {
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
