//! Conversion of GStreamer buffers to frames.
//!
//! DMA-BUFs are imported. The last [`MAX_IMPORTED`] imports are kept: attaching a resource takes a round trip to the
//! host, and producers cycle through a few buffers. System memory is copied.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use capture::resolve::Resolver;
use capture::{BufferOwner, Copies, Frame, FrameBuffer, GpuBuffer, Lease, ShmView};
use gstreamer as gst;
use gstreamer_allocators::DmaBufMemory;
use gstreamer_video::VideoMeta;
use protocol::Rect;
use virtgpu::{Device, Imported, duplicate_raw};

use crate::caps::{Memory, Video};

/// Number of imports kept; more than producers cycle through.
const MAX_IMPORTED: usize = 16;

/// Buffer that cannot be converted to a frame.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The caps announce DMA-BUF, the buffer is none.
    #[error(
        "the buffer is not a DMA-BUF although its caps announce one; replace the element before desktopstreamenc"
    )]
    NoDmaBuf,
    /// The picture has an offset or several memories.
    #[error(
        "the picture starts {offset} bytes into its buffer and has {memories} memories; the host reads only pictures \
         that start at offset 0 of a single memory"
    )]
    Layout {
        /// Offset of the picture in bytes.
        offset: usize,
        /// Number of memories.
        memories: usize,
    },
    /// The import failed.
    #[error(
        "the DMA-BUF does not belong to this VM's virtio-gpu ({0}): render the desktop on the same render node, or \
         request system memory with a capsfilter video/x-raw,format=BGRx"
    )]
    Import(io::Error),
    /// Mapping failed.
    #[error("cannot map the buffer: {0}")]
    Read(gst::glib::BoolError),
    /// The buffer is too small for its caps.
    #[error("the buffer has {has} bytes, its caps require {need}")]
    Short {
        /// Size in bytes.
        has: usize,
        /// Required size in bytes.
        need: usize,
    },
    /// Allocation failed.
    #[error("cannot allocate shared memory for a copy: {0}")]
    Copy(io::Error),
}

/// Keeps a GStreamer buffer alive until the frame is dropped.
struct Held(#[expect(dead_code, reason = "owns the buffer until the frame is dropped")] gst::Buffer);

impl BufferOwner for Held {
    fn release(&self, _: u64) {}
}

/// Converts buffers to frames.
#[derive(Debug)]
pub struct Input {
    video: Video,
    resolver: Option<Resolver>,
    imported: VecDeque<Arc<Imported>>,
    copies: Copies,
}

impl Input {
    /// Creates a converter for pictures like `video`. DMA-BUFs require a device.
    pub fn new(video: Video, device: Option<Device>) -> Self {
        let resolver = device.map(Resolver::new);
        Self { video, resolver, imported: VecDeque::new(), copies: Copies::default() }
    }

    /// Properties of the pictures.
    pub fn video(&self) -> Video {
        self.video
    }

    /// Converts a buffer.
    pub fn frame(&mut self, buffer: gst::Buffer, capture_ns: u64) -> Result<Frame, InputError> {
        let Video { width, height, format, memory, .. } = self.video;
        let (buffer, lease) = match memory {
            Memory::DmaBuf | Memory::DmaDrm => (self.import(&buffer)?, Lease::new(Arc::new(Held(buffer)), 0)),
            Memory::System => (self.copy(&buffer)?, Lease::default()),
        };
        let damage = Rect::full(width, height);
        Ok(Frame { seq: 0, capture_ns, width, height, format, damage, buffer, lease })
    }

    fn import(&mut self, buffer: &gst::Buffer) -> Result<FrameBuffer, InputError> {
        let (offset, stride) = layout(buffer, self.video.width);
        let memories = buffer.n_memory();
        if offset != 0 || memories != 1 {
            return Err(InputError::Layout { offset, memories });
        }
        let memory =
            buffer.peek_memory(0).downcast_memory_ref::<DmaBufMemory>().ok_or(InputError::NoDmaBuf)?;
        let fd = duplicate_raw(memory.fd()).map_err(InputError::Import)?;
        let resolver = self.resolver.as_mut().ok_or(InputError::NoDmaBuf)?;
        let imported = resolver.resolve(&fd).map_err(InputError::Import)?;
        let need = stride as usize * self.video.height as usize;
        if imported.size() < need {
            return Err(InputError::Short { has: imported.size(), need });
        }
        if !self.imported.iter().any(|kept| Arc::ptr_eq(kept, &imported)) {
            self.imported.truncate(MAX_IMPORTED - 1);
            self.imported.push_front(Arc::clone(&imported));
        }
        Ok(FrameBuffer::Gpu(GpuBuffer::new(imported, stride)))
    }

    fn copy(&mut self, buffer: &gst::Buffer) -> Result<FrameBuffer, InputError> {
        let (offset, stride) = layout(buffer, self.video.width);
        let (row, rows) = (self.video.width as usize * 4, self.video.height as usize);
        let map = buffer.map_readable().map_err(InputError::Read)?;
        let need = offset + stride as usize * (rows - 1) + row;
        let bytes = map.get(offset..need).ok_or(InputError::Short { has: map.len(), need })?;
        let copy = self.copies.make(row * rows, |out| {
            for (from, to) in bytes.chunks(stride as usize).zip(out.chunks_exact_mut(row)) {
                to.copy_from_slice(&from[..row]);
            }
            Ok(())
        });
        let view = ShmView::new(copy.map_err(InputError::Copy)?, 0, row as u32, rows as u32);
        view.map(FrameBuffer::Shm).ok_or(InputError::Short { has: 0, need })
    }
}

/// Offset and stride of the picture, bytes.
fn layout(buffer: &gst::Buffer, width: u32) -> (usize, u32) {
    let tight = 4 * width;
    let Some(meta) = buffer.meta::<VideoMeta>() else { return (0, tight) };
    let stride = meta.stride().first().and_then(|stride| u32::try_from(*stride).ok()).unwrap_or(tight);
    (meta.offset().first().copied().unwrap_or(0), stride.max(tight))
}

#[cfg(test)]
mod tests {
    use gstreamer_video::{VideoFormat, VideoFrameFlags};
    use protocol::PixelFormat;

    use super::*;

    fn input(memory: Memory) -> Input {
        gst::init().expect("GStreamer starts");
        Input::new(Video { width: 2, height: 2, format: PixelFormat::Bgrx, memory, fps: None }, None)
    }

    fn bytes(frame: &Frame) -> Vec<u8> {
        match &frame.buffer {
            FrameBuffer::Shm(view) => view.bytes().to_vec(),
            FrameBuffer::Gpu(_) => Vec::new(),
        }
    }

    #[test]
    fn system_memory_is_copied_without_row_padding() {
        let mut input = input(Memory::System);
        let mut buffer = gst::Buffer::from_mut_slice((0..32).collect::<Vec<u8>>());
        let (flags, format) = (VideoFrameFlags::empty(), VideoFormat::Bgrx);
        VideoMeta::add_full(buffer.make_mut(), flags, format, 2, 2, &[4], &[12]).expect("a meta");
        let frame = input.frame(buffer, 7).expect("a frame");
        assert_eq!(bytes(&frame), [4, 5, 6, 7, 8, 9, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23]);
        assert_eq!((frame.capture_ns, frame.damage), (7, Rect::full(2, 2)));
    }

    #[test]
    fn copies_are_reused_after_their_frame_is_dropped() {
        let mut input = input(Memory::System);
        let picture = |value| gst::Buffer::from_mut_slice(vec![value; 16]);
        let frames: Vec<_> = (1..=5).map(|value| input.frame(picture(value), 0).expect("a frame")).collect();
        for (frame, value) in frames.iter().zip(1..) {
            assert_eq!(bytes(frame), [value; 16]);
        }
        drop(frames);
        for value in 6..20 {
            assert_eq!(bytes(&input.frame(picture(value), 0).expect("a frame")), [value; 16]);
        }
    }

    #[test]
    fn short_buffer_and_wrong_memory_are_refused() {
        let short = input(Memory::System).frame(gst::Buffer::from_mut_slice(vec![0; 15]), 0);
        assert!(matches!(short, Err(InputError::Short { has: 15, need: 16 })), "{short:?}");
        let plain = input(Memory::DmaBuf).frame(gst::Buffer::from_mut_slice(vec![0; 16]), 0);
        assert!(matches!(plain, Err(InputError::NoDmaBuf)), "{plain:?}");
    }
}
