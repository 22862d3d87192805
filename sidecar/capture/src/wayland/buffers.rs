//! The buffer set that the compositor copies into: all of one kind and size, each free or leased.

use std::os::fd::AsFd;
use std::sync::Arc;

use protocol::PixelFormat;
use protocol::pixel::MAX_SIDE;
use virtgpu::{Device, SharedMap};
use wayland_client::QueueHandle;
use wayland_client::protocol::{wl_buffer::WlBuffer, wl_shm};
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_buffer_params_v1;

use super::globals::{DmabufOffer, ShmOffer, State};
use super::session::PEER;
use crate::error::CaptureError;
use crate::frame::{FrameBuffer, GpuBuffer, ShmView};
use crate::negotiated::{MOD_INVALID, ShmReason, fourcc_text};

/// Buffers per set: one held by the consumer, one in the slot, one being copied into.
pub const COUNT: usize = 3;

/// Kind and size of a buffer set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// DMA-BUFs allocated on the render node.
    Gpu(DmabufOffer),
    /// Shared memory pools.
    Shm(ShmOffer),
}

impl Kind {
    /// Width and height in pixels.
    pub fn size(self) -> (u32, u32) {
        match self {
            Self::Gpu(offer) => (offer.width, offer.height),
            Self::Shm(offer) => (offer.width, offer.height),
        }
    }

    /// The pixel format, if format, size and stride are supported.
    pub fn check(self) -> Result<PixelFormat, CaptureError> {
        let (width, height) = self.size();
        if width == 0 || height == 0 || width > MAX_SIDE || height > MAX_SIDE {
            return Err(CaptureError::Size { width, height });
        }
        let (fourcc, stride) = match self {
            Self::Gpu(offer) => (offer.fourcc, None),
            Self::Shm(offer) => (shm_fourcc(offer.format), Some(offer.stride)),
        };
        let bad = || CaptureError::Format { peer: PEER, format: fourcc_text(fourcc) };
        let format = PixelFormat::from_fourcc(fourcc).map_err(|_| bad())?;
        if format == PixelFormat::Nv12
            || stride.is_some_and(|stride| !(4 * width..=8 * MAX_SIDE).contains(&stride))
        {
            return Err(bad());
        }
        Ok(format)
    }
}

/// The fourcc of a `wl_shm` format: 0 and 1 are ARGB8888 and XRGB8888, other values are fourcc codes.
fn shm_fourcc(format: u32) -> u32 {
    match format {
        0 => PixelFormat::Bgra.fourcc(),
        1 => PixelFormat::Bgrx.fourcc(),
        other => other,
    }
}

#[derive(Debug)]
struct Buffer {
    proxy: WlBuffer,
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    Gpu(virtgpu::Buffer),
    Shm(Arc<SharedMap>, u32),
}

/// A set of [`COUNT`] buffers.
#[derive(Debug)]
pub struct Buffers {
    kind: Kind,
    format: PixelFormat,
    all: Vec<Buffer>,
    free: Vec<usize>,
    /// Distinguishes leases of this set from those of earlier sets.
    generation: u32,
}

/// Error of [`Buffers::gpu`].
#[derive(Debug)]
pub enum GpuBuffersError {
    /// DMA-BUF is not available; shared memory may be.
    Unavailable(ShmReason),
    /// The connection failed.
    Fatal(CaptureError),
}

impl Buffers {
    /// Allocates shared memory.
    pub fn shm(
        offer: ShmOffer,
        state: &State,
        queue: &QueueHandle<State>,
        generation: u32,
    ) -> Result<Self, CaptureError> {
        let kind = Kind::Shm(offer);
        let format = kind.check()?;
        let Some(shm) = &state.shm else {
            return Err(CaptureError::Format { peer: PEER, format: "none (wl_shm is missing)".to_owned() });
        };
        let len = offer.stride as usize * offer.height as usize;
        let code = wl_shm::Format::try_from(offer.format)
            .map_err(|()| CaptureError::Format { peer: PEER, format: fourcc_text(offer.format) })?;
        let mut all = Vec::with_capacity(COUNT);
        for _ in 0..COUNT {
            let (map, fd) = SharedMap::create("desktopstream-capture", len)
                .map_err(|source| CaptureError::Buffer { operation: "creating shared memory", source })?;
            let pool = shm.create_pool(fd.as_fd(), len as i32, queue, ());
            let [width, height, stride] = [offer.width, offer.height, offer.stride].map(|n| n as i32);
            let proxy = pool.create_buffer(0, width, height, stride, code, queue, ());
            pool.destroy();
            all.push(Buffer { proxy, memory: Memory::Shm(Arc::new(map), offer.stride) });
        }
        Ok(Self { kind, format, all, free: (0..COUNT).collect(), generation })
    }

    /// Allocates DMA-BUFs. `create` passes one to the compositor and waits for the `wl_buffer`.
    pub fn gpu(
        offer: DmabufOffer,
        device: &Device,
        generation: u32,
        mut create: impl FnMut(&virtgpu::Buffer) -> Result<WlBuffer, GpuBuffersError>,
    ) -> Result<Self, GpuBuffersError> {
        let kind = Kind::Gpu(offer);
        let format = kind
            .check()
            .map_err(|error| GpuBuffersError::Unavailable(ShmReason::Unsupported(error.to_string())))?;
        let mut all: Vec<Buffer> = Vec::with_capacity(COUNT);
        for _ in 0..COUNT {
            let buffer = device
                .allocate(offer.width, offer.height, format)
                .map_err(|error| GpuBuffersError::Unavailable(ShmReason::Allocation(error.to_string())))?;
            match create(&buffer) {
                Ok(proxy) => all.push(Buffer { proxy, memory: Memory::Gpu(buffer) }),
                Err(error) => {
                    for buffer in &all {
                        buffer.proxy.destroy();
                    }
                    return Err(error);
                }
            }
        }
        Ok(Self { kind, format, all, free: (0..COUNT).collect(), generation })
    }

    /// Kind and size.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Pixel format.
    pub fn format(&self) -> PixelFormat {
        self.format
    }

    /// Stride and resource IDs, for display.
    pub fn describe(&self) -> String {
        match self.all.first().map(|buffer| &buffer.memory) {
            Some(Memory::Gpu(buffer)) => format!(
                "stride {}, resources {}",
                buffer.stride(),
                self.resources().iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
            ),
            Some(Memory::Shm(_, stride)) => format!("stride {stride}"),
            None => String::new(),
        }
    }

    fn resources(&self) -> Vec<u32> {
        let id = |buffer: &Buffer| match &buffer.memory {
            Memory::Gpu(buffer) => Some(buffer.imported().resource_id()),
            Memory::Shm(..) => None,
        };
        self.all.iter().filter_map(id).collect()
    }

    /// Takes a free buffer: its index and its Wayland object.
    pub fn take(&mut self) -> Option<(usize, WlBuffer)> {
        // The longest unused first, so that the buffers rotate.
        let index = (!self.free.is_empty()).then(|| self.free.remove(0))?;
        Some((index, self.all[index].proxy.clone()))
    }

    /// Returns a taken buffer that was not leased.
    pub fn put_back(&mut self, index: usize) {
        self.free.push(index);
    }

    /// The token for a lease on a buffer.
    pub fn token(&self, index: usize) -> u64 {
        u64::from(self.generation) << 32 | index as u64
    }

    /// Returns a leased buffer; ignores tokens of earlier sets.
    pub fn release(&mut self, token: u64) {
        let index = token as u32 as usize;
        if token >> 32 == u64::from(self.generation) && index < self.all.len() && !self.free.contains(&index)
        {
            self.free.push(index);
        }
    }

    /// A buffer's pixels. `flip` reverses the order of rows, which only shared memory supports.
    pub fn frame_buffer(&mut self, index: usize, flip: bool) -> Option<FrameBuffer> {
        match &mut self.all[index].memory {
            Memory::Gpu(_) if flip => None,
            Memory::Gpu(buffer) => {
                Some(FrameBuffer::Gpu(GpuBuffer::new(Arc::clone(buffer.imported()), buffer.stride())))
            }
            Memory::Shm(map, stride) => {
                let (_, height) = self.kind.size();
                if flip {
                    flip_rows(Arc::get_mut(map)?.bytes_mut()?, *stride as usize);
                }
                ShmView::new(Arc::clone(map), 0, *stride, height).map(FrameBuffer::Shm)
            }
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // Delivered frames keep the memory alive; the compositor's objects end here.
        for buffer in &self.all {
            buffer.proxy.destroy();
        }
    }
}

fn flip_rows(bytes: &mut [u8], stride: usize) {
    let mut rows = bytes.chunks_exact_mut(stride);
    while let (Some(top), Some(bottom)) = (rows.next(), rows.next_back()) {
        top.swap_with_slice(bottom);
    }
}

/// Passes a DMA-BUF to the compositor, which replies in [`State::created`]. Returns false without
/// `zwp_linux_dmabuf_v1`.
pub fn offer_dmabuf(
    buffer: &virtgpu::Buffer,
    offer: DmabufOffer,
    state: &State,
    queue: &QueueHandle<State>,
) -> bool {
    let Some(dmabuf) = &state.dmabuf else { return false };
    let params = dmabuf.create_params(queue, ());
    let (high, low) = ((MOD_INVALID >> 32) as u32, MOD_INVALID as u32);
    params.add(buffer.fd().as_fd(), 0, 0, buffer.stride(), high, low);
    let flags = zwp_linux_buffer_params_v1::Flags::empty();
    params.create(offer.width as i32, offer.height as i32, offer.fourcc, flags);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flipped_rows_are_in_reverse_order() {
        let mut bytes = *b"aabbccdde";
        flip_rows(&mut bytes[..8], 2);
        assert_eq!(&bytes, b"ddccbbaae");
        let mut odd = *b"aabbcc";
        flip_rows(&mut odd, 2);
        assert_eq!(&odd, b"ccbbaa");
    }

    #[test]
    fn offer_with_unsupported_format_size_or_stride_is_refused() {
        let shm =
            |format, width, stride| Kind::Shm(ShmOffer { format, width, height: 10, stride }).check().ok();
        assert_eq!(shm(0, 10, 40), Some(PixelFormat::Bgra));
        assert_eq!(shm(1, 10, 64), Some(PixelFormat::Bgrx));
        assert_eq!(shm(PixelFormat::Rgbx.fourcc(), 10, 40), Some(PixelFormat::Rgbx));
        assert_eq!(shm(0, 10, 39), None, "rows overlap");
        assert_eq!(shm(0, 0, 40), None);
        assert_eq!(shm(0, MAX_SIDE + 1, u32::MAX), None);
        assert_eq!(shm(0, 10, u32::MAX), None, "the buffer would need terabytes");
        let gpu = |code: [u8; 4]| {
            Kind::Gpu(DmabufOffer { fourcc: u32::from_le_bytes(code), width: 10, height: 10 }).check().ok()
        };
        assert_eq!(gpu(*b"XR24"), Some(PixelFormat::Bgrx));
        assert_eq!(gpu(*b"XR30"), None);
        assert_eq!(gpu(*b"NV12"), None);
    }
}
