//! Test source: the picture of crate `numbered` in shared memory, drawn by the CPU; needs neither a GPU nor a
//! compositor.

use std::sync::Arc;
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
use crate::source_context::SourceContext;

const BUFFERS: usize = 3;
/// Interval between checks for the stop flag while all buffers are leased.
const FREE_BUFFER_INTERVAL: Duration = Duration::from_millis(100);

/// Draws frames at the maximum frame rate, as long as buffers are released.
pub fn run(options: &CaptureOptions, context: &SourceContext) -> Result<(), CaptureError> {
    let (width, height) = options.pattern_size;
    if !(COLUMNS..=MAX_SIDE).contains(&width) || !(ROWS..=MAX_SIDE).contains(&height) {
        return Err(CaptureError::Size { width, height });
    }
    let stride = width * 4;
    let mut buffers = Vec::with_capacity(BUFFERS);
    for _ in 0..BUFFERS {
        let (map, _) = SharedMap::create("desktopstream-pattern", stride as usize * height as usize)
            .map_err(CaptureError::System)?;
        buffers.push(Arc::new(map));
    }
    let (release, released) = ReleaseQueue::new(context.waker());
    let mut free: Vec<usize> = (0..BUFFERS).collect();
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
    let start = Instant::now();
    let interval = options.frame_interval();
    let mut number = 0u32;
    while !context.is_stopped() {
        free.extend(released.try_iter().map(|token| token as usize));
        let due = start + interval * number;
        let pause = due.saturating_duration_since(Instant::now());
        if !pause.is_zero() || free.is_empty() {
            let pause = if pause.is_zero() { FREE_BUFFER_INTERVAL } else { pause };
            context.waker().wait(None, pause).map_err(CaptureError::System)?;
            continue;
        }
        let Some(index) = free.pop() else { continue };
        // A clone of the frame's `ShmView` may outlive its lease; such a buffer is skipped for now.
        let Some(map) = Arc::get_mut(&mut buffers[index]).and_then(SharedMap::bytes_mut) else {
            free.insert(0, index);
            context.waker().wait(None, Duration::from_millis(1)).map_err(CaptureError::System)?;
            continue;
        };
        // `draw` fails only if the buffer is smaller than the picture, which `run` allocated for it.
        if numbered::draw(number, map, width, height, stride, PixelFormat::Bgrx).is_err() {
            return Err(CaptureError::Size { width, height });
        }
        let Some(view) = ShmView::new(Arc::clone(&buffers[index]), 0, stride, height) else {
            return Err(CaptureError::Size { width, height });
        };
        context.deliver(Frame {
            seq: 0,
            capture_ns: clock_ns(),
            width,
            height,
            format: PixelFormat::Bgrx,
            damage: Rect::full(width, height),
            buffer: FrameBuffer::Shm(view),
            lease: Lease::new(Arc::clone(&release) as Arc<dyn BufferOwner>, index as u64),
        });
        // Overdue frames are skipped: the number follows the elapsed time.
        let elapsed = start.elapsed();
        number = (number + 1).max((elapsed.as_nanos() / interval.as_nanos().max(1)) as u32);
    }
    Ok(())
}
