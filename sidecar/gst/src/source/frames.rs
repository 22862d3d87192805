//! From captured frames to GStreamer's buffers.
//!
//! It does not know when frames come, or who takes the buffers.

use std::io;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer_allocators::DmaBufAllocator;
use gstreamer_video::{VideoFrameFlags, VideoMeta};
use capture::{Frame, FrameBuffer, GpuBuffer, ShmView};

use crate::caps::{self, Memory, Video};
use crate::dmabuf;

/// Why a frame did not become a buffer.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The kernel gives no descriptor.
    #[error("cannot export the buffer from the render node: {0}")]
    Export(#[from] io::Error),
    /// GStreamer takes none.
    #[error("cannot make a GStreamer buffer: {0}")]
    Memory(#[from] glib::BoolError),
    /// A buffer that is smaller than its size and stride say.
    #[error("the frame's buffer is shorter than its size and stride say")]
    Short,
}

/// A frame that is lent to GStreamer; it goes back to the compositor when the last user is through.
struct Loan(#[expect(dead_code, reason = "kept until it is dropped")] Frame);

/// The loan has no bytes to read, but GStreamer wants some.
impl AsRef<[u8]> for Loan {
    fn as_ref(&self) -> &[u8] {
        &[0]
    }
}

/// What a frame is; its DMA-BUF named the older way.
pub fn describe(frame: &Frame, fps: u16) -> Video {
    let memory = match &frame.buffer {
        FrameBuffer::Gpu(_) => Memory::DmaBuf,
        FrameBuffer::Shm(_) => Memory::System,
    };
    Video { width: frame.width, height: frame.height, format: frame.format, memory, fps: Some(fps) }
}

/// The buffer of a frame.
pub fn buffer(frame: Frame, allocator: &DmaBufAllocator) -> Result<gst::Buffer, FrameError> {
    match frame.buffer.clone() {
        FrameBuffer::Gpu(gpu) => lend(frame, &gpu, allocator),
        FrameBuffer::Shm(view) => copy(&frame, &view),
    }
}

fn lend(frame: Frame, gpu: &GpuBuffer, allocator: &DmaBufAllocator) -> Result<gst::Buffer, FrameError> {
    let memory = dmabuf::memory(allocator, gpu.export()?, gpu.size())?;
    let mut buffer = gst::Buffer::new();
    let (format, width, height) = (caps::video_format(frame.format), frame.width, frame.height);
    let fresh = buffer.make_mut();
    fresh.append_memory(memory);
    let stride = gpu.stride() as i32;
    VideoMeta::add_full(fresh, VideoFrameFlags::empty(), format, width, height, &[0], &[stride])?;
    // Copies of the buffer share its memory, and this too.
    gst::ParentBufferMeta::add(fresh, &gst::Buffer::from_slice(Loan(frame)));
    Ok(buffer)
}

/// Copied, rows packed: whoever takes system memory may keep it for long, and the compositor has few.
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

    use protocol::{PixelFormat, Rect};
    use capture::{BufferOwner, Lease};
    use virtgpu::SharedMap;

    use super::*;

    #[derive(Default)]
    struct Returned(AtomicBool);

    impl BufferOwner for Returned {
        fn release(&self, _: u64) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn frame(owner: &Arc<Returned>) -> Frame {
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
    fn shared_memory_is_packed_and_given_back_at_once() {
        gst::init().expect("GStreamer starts");
        let returned = Arc::new(Returned::default());
        let allocator = DmaBufAllocator::new();
        let buffer = buffer(frame(&returned), &allocator).expect("copied");
        let map = buffer.map_readable().expect("readable");
        assert_eq!(
            &map[..],
            [0, 1, 2, 3, 4, 5, 6, 7, 20, 21, 22, 23, 24, 25, 26, 27, 40, 41, 42, 43, 44, 45, 46, 47]
        );
        assert!(returned.0.load(Ordering::Relaxed));
    }

    #[test]
    fn a_loan_lasts_as_long_as_the_last_copy() {
        gst::init().expect("GStreamer starts");
        let returned = Arc::new(Returned::default());
        let mut buffer = gst::Buffer::new();
        gst::ParentBufferMeta::add(buffer.make_mut(), &gst::Buffer::from_slice(Loan(frame(&returned))));
        let copy = buffer.copy();
        drop(buffer);
        assert!(!returned.0.load(Ordering::Relaxed), "a copy is left");
        drop(copy);
        assert!(returned.0.load(Ordering::Relaxed), "nobody is left");
    }
}
