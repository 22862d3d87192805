//! From GStreamer's buffers to frames as the pump takes them.
//!
//! A DMA-BUF is resolved to its resource; the resource stays ours for as long as its buffer is among the last
//! few that were seen, as attaching it costs a round trip to the host and a producer cycles through a few.
//! System memory is copied into memory of our own. It does not know what becomes of a frame.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use gstreamer as gst;
use gstreamer_allocators::DmaBufMemory;
use gstreamer_video::VideoMeta;
use protocol::Rect;
use capture::{BufferOwner, Frame, FrameBuffer, GpuBuffer, Lease, ShmView};
use capture::resolve::Resolver;
use virtgpu::{Device, Imported, SharedMap, duplicate_raw};

use crate::caps::{Memory, Video};

/// Buffers that stay resolved: more than any producer cycles through.
const KEPT: usize = 16;
/// Copies under way: one with the pump, one before it, one being written.
const COPIES: usize = 3;

/// Why a buffer is no frame.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// Caps and buffer contradict each other.
    #[error(
        "the buffer's memory is no DMA-BUF though its caps say so: is the element before desktopstreamenc broken?"
    )]
    NoDmaBuf,
    /// More planes or an offset.
    #[error(
        "the picture begins {offset} bytes into its buffer, in {memories} pieces: the host reads whole buffers only"
    )]
    Layout {
        /// Bytes before the picture.
        offset: usize,
        /// Pieces of memory.
        memories: usize,
    },
    /// The kernel says no.
    #[error(
        "the DMA-BUF is none of this VM's virtio-gpu ({0}): the desktop must draw on the same render node, or ask \
         for system memory by a capsfilter video/x-raw,format=BGRx"
    )]
    Resolve(io::Error),
    /// Mapping failed.
    #[error("the buffer cannot be read: {0}")]
    Read(gst::glib::BoolError),
    /// Fewer bytes than the caps promise.
    #[error("the buffer has {has} bytes where its caps promise {need}")]
    Short {
        /// Bytes there are.
        has: usize,
        /// Bytes there should be.
        need: usize,
    },
    /// No memory.
    #[error("no shared memory for a copy: {0}")]
    Copy(io::Error),
}

/// Keeps a GStreamer buffer until the frame goes.
struct Held(#[expect(dead_code, reason = "kept until it is dropped")] gst::Buffer);

impl BufferOwner for Held {
    fn release(&self, _: u64) {}
}

/// Makes frames.
#[derive(Debug)]
pub struct Input {
    video: Video,
    resolver: Option<Resolver>,
    kept: VecDeque<Arc<Imported>>,
    copies: Vec<Arc<SharedMap>>,
}

impl Input {
    /// For pictures like this; without a device there are no DMA-BUFs.
    pub fn new(video: Video, device: Option<Device>) -> Self {
        let resolver = device.map(Resolver::new);
        Self { video, resolver, kept: VecDeque::new(), copies: Vec::new() }
    }

    /// The pictures.
    pub fn video(&self) -> Video {
        self.video
    }

    /// The frame of a buffer.
    pub fn frame(&mut self, buffer: gst::Buffer, capture_ns: u64) -> Result<Frame, InputError> {
        let Video { width, height, format, memory, .. } = self.video;
        let (buffer, lease) = match memory {
            Memory::DmaBuf | Memory::DmaDrm => {
                (self.resolve(&buffer)?, Lease::new(Arc::new(Held(buffer)), 0))
            }
            Memory::System => (self.copy(&buffer)?, Lease::default()),
        };
        let damage = Rect::full(width, height);
        Ok(Frame { seq: 0, capture_ns, width, height, format, damage, buffer, lease })
    }

    fn resolve(&mut self, buffer: &gst::Buffer) -> Result<FrameBuffer, InputError> {
        let (offset, stride) = layout(buffer, self.video.width);
        let memories = buffer.n_memory();
        if offset != 0 || memories != 1 {
            return Err(InputError::Layout { offset, memories });
        }
        let memory =
            buffer.peek_memory(0).downcast_memory_ref::<DmaBufMemory>().ok_or(InputError::NoDmaBuf)?;
        let fd = duplicate_raw(memory.fd()).map_err(InputError::Resolve)?;
        let resolver = self.resolver.as_mut().ok_or(InputError::NoDmaBuf)?;
        let imported = resolver.resolve(&fd).map_err(InputError::Resolve)?;
        let need = stride as usize * self.video.height as usize;
        if imported.size() < need {
            return Err(InputError::Short { has: imported.size(), need });
        }
        if !self.kept.iter().any(|kept| Arc::ptr_eq(kept, &imported)) {
            self.kept.truncate(KEPT - 1);
            self.kept.push_front(Arc::clone(&imported));
        }
        Ok(FrameBuffer::Gpu(GpuBuffer::new(imported, stride)))
    }

    fn copy(&mut self, buffer: &gst::Buffer) -> Result<FrameBuffer, InputError> {
        let (offset, stride) = layout(buffer, self.video.width);
        let (row, rows) = (self.video.width as usize * 4, self.video.height as usize);
        let map = buffer.map_readable().map_err(InputError::Read)?;
        let need = offset + stride as usize * (rows - 1) + row;
        let bytes = map.get(offset..need).ok_or(InputError::Short { has: map.len(), need })?;
        let free = self.copies.iter_mut().position(|copy| Arc::get_mut(copy).is_some());
        let index = free.map_or_else(|| self.another(row * rows), Ok)?;
        let copy = &mut self.copies[index];
        if let Some(out) = Arc::get_mut(copy).and_then(SharedMap::bytes_mut) {
            for (from, to) in bytes.chunks(stride as usize).zip(out.chunks_exact_mut(row)) {
                to.copy_from_slice(&from[..row]);
            }
        }
        let view = ShmView::new(Arc::clone(copy), 0, row as u32, rows as u32);
        view.map(FrameBuffer::Shm).ok_or(InputError::Short { has: 0, need })
    }

    /// Another copy: the number of one that nobody looks at.
    fn another(&mut self, bytes: usize) -> Result<usize, InputError> {
        let (fresh, _) = SharedMap::create("desktopstreamenc", bytes).map_err(InputError::Copy)?;
        // More than are ever under way are not kept.
        self.copies.truncate(COPIES);
        self.copies.push(Arc::new(fresh));
        Ok(self.copies.len() - 1)
    }
}

/// Where the picture begins, and its bytes from row to row.
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
    fn system_memory_is_copied_without_its_padding() {
        let mut input = input(Memory::System);
        let mut buffer = gst::Buffer::from_mut_slice((0..32).collect::<Vec<u8>>());
        let (flags, format) = (VideoFrameFlags::empty(), VideoFormat::Bgrx);
        VideoMeta::add_full(buffer.make_mut(), flags, format, 2, 2, &[4], &[12]).expect("a meta");
        let frame = input.frame(buffer, 7).expect("a frame");
        assert_eq!(bytes(&frame), [4, 5, 6, 7, 8, 9, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23]);
        assert_eq!((frame.capture_ns, frame.damage), (7, Rect::full(2, 2)));
    }

    #[test]
    fn copies_are_used_again_but_never_while_somebody_looks() {
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
        assert!(input.copies.len() <= COPIES + 1, "{}", input.copies.len());
    }

    #[test]
    fn short_and_contradictory_buffers_are_refused() {
        let short = input(Memory::System).frame(gst::Buffer::from_mut_slice(vec![0; 15]), 0);
        assert!(matches!(short, Err(InputError::Short { has: 15, need: 16 })), "{short:?}");
        let plain = input(Memory::DmaBuf).frame(gst::Buffer::from_mut_slice(vec![0; 16]), 0);
        assert!(matches!(plain, Err(InputError::NoDmaBuf)), "{plain:?}");
    }
}
