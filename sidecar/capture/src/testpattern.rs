//! Test source: a numbered pattern in shared memory; needs neither a GPU nor a compositor.
//!
//! The picture is a grid of 16 x 9 cells of flat colour; cell (i, j) spans `width * i / 16` to
//! `width * (i + 1) / 16`, and likewise vertically. Rows 0 and 1 encode bits 31–16 and 15–0 of the frame number,
//! left to right, white for 1. Rows 7 and 8 are their complement. The other rows change colour with every frame.
//! The pattern is defined by `tests/fixtures/pattern`, module `layout`; its reader verifies this implementation.

use std::sync::Arc;
use std::time::{Duration, Instant};

use encode::clock::clock_ns;
use protocol::pixel::MAX_SIDE;
use protocol::{PixelFormat, Rect};
use virtgpu::SharedMap;

use crate::CaptureOptions;
use crate::error::CaptureError;
use crate::frame::{BufferOwner, Frame, FrameBuffer, Lease, ShmView};
use crate::negotiated::{Negotiated, ShmReason};
use crate::release::ReleaseQueue;
use crate::source_context::SourceContext;

const COLUMNS: u32 = 16;
const ROWS: u32 = 9;
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
        draw(number, map, width, height);
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

/// Draws frame `number` as BGRx with the fourth byte 255.
fn draw(number: u32, bytes: &mut [u8], width: u32, height: u32) {
    let stride = width as usize * 4;
    for row in 0..ROWS {
        let top = (height * row / ROWS) as usize;
        let bottom = (height * (row + 1) / ROWS) as usize;
        if top == bottom {
            continue;
        }
        let (first, rest) = bytes[top * stride..bottom * stride].split_at_mut(stride);
        for column in 0..COLUMNS {
            let left = (width * column / COLUMNS) as usize * 4;
            let right = (width * (column + 1) / COLUMNS) as usize * 4;
            let [red, green, blue] = colour(column, row, number);
            for pixel in first[left..right].as_chunks_mut::<4>().0 {
                *pixel = [blue, green, red, 255];
            }
        }
        for line in rest.chunks_exact_mut(stride) {
            line.copy_from_slice(first);
        }
    }
}

fn colour(column: u32, row: u32, number: u32) -> [u8; 3] {
    let (word, bit) = match row {
        0 => (number, 31 - column),
        1 => (number, 15 - column),
        7 => (!number, 31 - column),
        8 => (!number, 15 - column),
        _ => {
            let cell = row * COLUMNS + column;
            let red = number.wrapping_mul(37).wrapping_add(cell * 29);
            let green =
                number.wrapping_mul(101).wrapping_add((number >> 8).wrapping_mul(54)).wrapping_add(cell * 17);
            let blue = number
                .wrapping_mul(151)
                .wrapping_add((number >> 16).wrapping_mul(98))
                .wrapping_add(cell * 71);
            return [red as u8, green as u8, blue as u8];
        }
    };
    if word >> bit & 1 == 1 { [255; 3] } else { [0; 3] }
}
