//! Test source: the picture of crate `numbered` in shared memory, drawn by the CPU; needs neither a GPU nor a
//! compositor.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use encode::clock::clock_ns;
use numbered::{COLUMNS, ROWS};
use protocol::pixel::MAX_SIDE;
use protocol::{PixelFormat, Rect};
use virtgpu::SharedMap;

use crate::CaptureOptions;
use crate::error::CaptureError;
use crate::frame::{BufferOwner, Frame, FrameBuffer, Lease, ShmView};
use crate::negotiated::{Negotiated, ShmReason};
use crate::release::ReleaseQueue;
use crate::resizer::Wanted;
use crate::source_context::SourceContext;

const BUFFERS: usize = 3;
/// Interval between checks for the stop flag while all buffers are leased.
const FREE_BUFFER_INTERVAL: Duration = Duration::from_millis(100);

/// Buffers of one size and what is left of them.
struct Buffers {
    size: (u32, u32),
    stride: u32,
    maps: Vec<Arc<SharedMap>>,
    release: Arc<ReleaseQueue>,
    released: Receiver<u64>,
    free: Vec<usize>,
}

impl Buffers {
    /// Allocates buffers and reports the negotiation.
    fn new(size: (u32, u32), context: &SourceContext) -> Result<Self, CaptureError> {
        let (width, height) = size;
        if !(COLUMNS..=MAX_SIDE).contains(&width) || !(ROWS..=MAX_SIDE).contains(&height) {
            return Err(CaptureError::Size { width, height });
        }
        let stride = width * 4;
        let mut maps = Vec::with_capacity(BUFFERS);
        for _ in 0..BUFFERS {
            let (map, _) = SharedMap::create("desktopstream-pattern", stride as usize * height as usize)
                .map_err(CaptureError::System)?;
            maps.push(Arc::new(map));
        }
        context.report_negotiated(Negotiated {
            source: "testpattern".to_owned(),
            offered: Vec::new(),
            chosen: format!("BGRx {width}x{height} in shared memory"),
            format: PixelFormat::Bgrx,
            width,
            height,
            dmabuf: false,
            shm_reason: Some(ShmReason::TestPattern),
        });
        // A queue of its own: leases of other sizes do not return to these buffers.
        let (release, released) = ReleaseQueue::new(context.waker());
        Ok(Self { size, stride, maps, release, released, free: (0..BUFFERS).collect() })
    }

    /// Draws a frame; `None` if the buffer is still read.
    fn draw(&mut self, index: usize, number: u32) -> Result<Option<Frame>, CaptureError> {
        let (width, height) = self.size;
        // A clone of the frame's `ShmView` may outlive its lease; such a buffer is skipped for now.
        let Some(map) = Arc::get_mut(&mut self.maps[index]).and_then(SharedMap::bytes_mut) else {
            return Ok(None);
        };
        let too_small = CaptureError::Size { width, height };
        // Fails only if the buffer is smaller than the picture, which it was allocated for.
        if numbered::draw(number, map, width, height, self.stride, PixelFormat::Bgrx).is_err() {
            return Err(too_small);
        }
        let view = ShmView::new(Arc::clone(&self.maps[index]), 0, self.stride, height);
        Ok(Some(Frame {
            seq: 0,
            capture_ns: clock_ns(),
            width,
            height,
            format: PixelFormat::Bgrx,
            damage: Rect::full(width, height),
            buffer: FrameBuffer::Shm(view.ok_or(too_small)?),
            lease: Lease::new(Arc::clone(&self.release) as Arc<dyn BufferOwner>, index as u64),
        }))
    }
}

/// Draws frames at the maximum frame rate, as long as buffers are released.
pub fn run(options: &CaptureOptions, context: &SourceContext) -> Result<(), CaptureError> {
    let size = |wanted: Wanted| (wanted.size.width(), wanted.size.height());
    let initial = context.resizer().wanted().map_or(options.initial_size, size);
    let mut buffers = Buffers::new(initial, context)?;
    let start = Instant::now();
    let interval = options.frame_interval();
    let mut number = 0u32;
    while !context.is_stopped() {
        if let Some(wanted) = context.resizer().wanted()
            && size(wanted) != buffers.size
        {
            buffers = Buffers::new(size(wanted), context)?;
        }
        buffers.free.extend(buffers.released.try_iter().map(|token| token as usize));
        let due = start + interval * number;
        let pause = due.saturating_duration_since(Instant::now());
        if !pause.is_zero() || buffers.free.is_empty() {
            let pause = if pause.is_zero() { FREE_BUFFER_INTERVAL } else { pause };
            context.waker().wait(None, pause).map_err(CaptureError::System)?;
            continue;
        }
        let Some(index) = buffers.free.pop() else { continue };
        let Some(frame) = buffers.draw(index, number)? else {
            buffers.free.insert(0, index);
            context.waker().wait(None, Duration::from_millis(1)).map_err(CaptureError::System)?;
            continue;
        };
        context.deliver(frame);
        // Overdue frames are skipped: the number follows the elapsed time.
        let elapsed = start.elapsed();
        number = (number + 1).max((elapsed.as_nanos() / interval.as_nanos().max(1)) as u32);
    }
    Ok(())
}
