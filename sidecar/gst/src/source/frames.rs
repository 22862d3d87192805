//! Conversion of captured frames to GStreamer buffers.

use std::io;

use capture::{Frame, FrameBuffer, GpuBuffer, ShmView};
use gstreamer as gst;
use gstreamer::glib;
use gstreamer_allocators::DmaBufAllocator;
use gstreamer_video::{VideoFrameFlags, VideoMeta};

use crate::caps::{self, Memory, Video};
use crate::dmabuf;

/// Frame that cannot be converted.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The DMA-BUF could not be exported.
    #[error("cannot export the buffer from the render node: {0}")]
    Export(#[from] io::Error),
    /// GStreamer could not create the buffer.
    #[error("cannot create a GStreamer buffer: {0}")]
    Memory(#[from] glib::BoolError),
    /// The buffer is smaller than picture size and stride require.
    #[error("the frame's buffer is shorter than its size and stride require")]
    Short,
}

/// Frame owned by a GStreamer buffer: dropping it returns the compositor's buffer.
struct OwnedFrame(#[expect(dead_code, reason = "owns the frame until the buffer is dropped")] Frame);

/// `Buffer::from_slice` requires bytes; these are not used.
impl AsRef<[u8]> for OwnedFrame {
    fn as_ref(&self) -> &[u8] {
        &[0]
    }
}

/// Properties of a frame, with DMA-BUF in the older form.
pub fn describe(frame: &Frame, fps: u16) -> Video {
    let memory = match &frame.buffer {
        FrameBuffer::Gpu(_) => Memory::DmaBuf,
        FrameBuffer::Shm(_) => Memory::System,
    };
    Video { width: frame.width, height: frame.height, format: frame.format, memory, fps: Some(fps) }
}

/// Converts a frame.
pub fn buffer(frame: Frame, allocator: &DmaBufAllocator) -> Result<gst::Buffer, FrameError> {
    match frame.buffer.clone() {
        FrameBuffer::Gpu(gpu) => wrap(frame, &gpu, allocator),
        FrameBuffer::Shm(view) => copy(&frame, &view),
    }
}

fn wrap(frame: Frame, gpu: &GpuBuffer, allocator: &DmaBufAllocator) -> Result<gst::Buffer, FrameError> {
    let memory = dmabuf::memory(allocator, gpu.export()?, gpu.size())?;
    let mut buffer = gst::Buffer::new();
    let (format, width, height) = (caps::video_format(frame.format), frame.width, frame.height);
    let fresh = buffer.make_mut();
    fresh.append_memory(memory);
    let stride = gpu.stride() as i32;
    VideoMeta::add_full(fresh, VideoFrameFlags::empty(), format, width, height, &[0], &[stride])?;
    // Copies of the buffer share its memory and this meta, so the frame lives as long as the last copy.
    gst::ParentBufferMeta::add(fresh, &gst::Buffer::from_slice(OwnedFrame(frame)));
    Ok(buffer)
}

/// Copies shared memory, rows packed: consumers may hold buffers for long, and the compositor has few.
fn copy(frame: &Frame, view: &ShmView) -> Result<gst::Buffer, FrameError> {
    let (row, stride) = (frame.width as usize * 4, view.stride() as usize);
    let size = row * frame.height as usize;
    let bytes = view.bytes();
    if stride < row || bytes.len() < stride * frame.height as usize {
        return Err(FrameError::Short);
    }
    let packed = if stride == row {
        bytes[..size].to_vec()
    } else {
        bytes
            .chunks_exact(stride)
            .take(frame.height as usize)
            .flat_map(|line| &line[..row])
            .copied()
            .collect()
    };
    Ok(gst::Buffer::from_mut_slice(packed))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use capture::{BufferOwner, Lease};
    use protocol::{PixelFormat, Rect};
    use virtgpu::SharedMap;

    use super::*;

    #[derive(Default)]
    struct Released(AtomicBool);

    impl BufferOwner for Released {
        fn release(&self, _: u64) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn frame(owner: &Arc<Released>) -> Frame {
        let (mut map, _) = SharedMap::create("test", 4096).expect("memfd");
        for (at, byte) in map.bytes_mut().expect("ours").iter_mut().enumerate() {
            *byte = at as u8;
        }
        let owner: Arc<dyn BufferOwner> = owner.clone();
        Frame {
            seq: 1,
            capture_ns: 1,
            width: 2,
            height: 3,
            format: PixelFormat::Bgrx,
            damage: Rect::full(2, 3),
            buffer: FrameBuffer::Shm(ShmView::new(Arc::new(map), 0, 20, 3).expect("fits")),
            lease: Lease::new(owner, 1),
        }
    }

    #[test]
    fn shared_memory_is_copied_packed_and_released_at_once() {
        gst::init().expect("GStreamer starts");
        let released = Arc::new(Released::default());
        let allocator = DmaBufAllocator::new();
        let buffer = buffer(frame(&released), &allocator).expect("copied");
        let map = buffer.map_readable().expect("readable");
        assert_eq!(
            &map[..],
            [0, 1, 2, 3, 4, 5, 6, 7, 20, 21, 22, 23, 24, 25, 26, 27, 40, 41, 42, 43, 44, 45, 46, 47]
        );
        assert!(released.0.load(Ordering::Relaxed));
    }

    #[test]
    fn frame_is_released_with_the_last_copy_of_its_buffer() {
        gst::init().expect("GStreamer starts");
        let released = Arc::new(Released::default());
        let mut buffer = gst::Buffer::new();
        gst::ParentBufferMeta::add(buffer.make_mut(), &gst::Buffer::from_slice(OwnedFrame(frame(&released))));
        let copy = buffer.copy();
        drop(buffer);
        assert!(!released.0.load(Ordering::Relaxed), "a copy is left");
        drop(copy);
        assert!(released.0.load(Ordering::Relaxed), "no copy is left");
    }
}
