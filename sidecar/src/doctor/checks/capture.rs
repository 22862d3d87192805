//! Capture of one frame.

use std::time::{Duration, Instant};

use ::capture::{Capture, CaptureEvent, Frame, FrameBuffer, Negotiated};
use contract::doctor::{Check, checks};
use virtgpu::Device;

use crate::cli::Desktop;
use crate::run::capture_options;

/// Timeout of the desktop's first frame.
const FRAME_TIMEOUT: Duration = Duration::from_secs(15);

/// Captures until a frame arrives. The capture owns the frame's buffer, so it is returned too.
pub fn frame(desktop: &Desktop, device: Option<Device>, report: &mut Vec<Check>) -> Option<(Capture, Frame)> {
    let capture = ::capture::start(capture_options(desktop, device, 60));
    let end = Instant::now() + FRAME_TIMEOUT;
    let (mut negotiated, mut lost): (Option<Negotiated>, Option<String>) = (None, None);
    let frame = loop {
        let frame = capture.recv_newest(Duration::from_millis(50));
        // The negotiation precedes the first frame.
        while let Some(event) = capture.try_event() {
            match event {
                CaptureEvent::Negotiated(result) => negotiated = Some(result),
                CaptureEvent::Lost(error) => lost = Some(error.to_string()),
            }
        }
        if frame.is_some() || Instant::now() >= end {
            break frame;
        }
    };
    let Some(negotiated) = negotiated else {
        let error = lost.unwrap_or_else(|| format!("no desktop within {FRAME_TIMEOUT:?}"));
        let remedy = "start the desktop, share XDG_RUNTIME_DIR with it, and run the sidecar with its uid";
        report.push(Check::failed(checks::CAPTURE, error, remedy));
        return None;
    };
    let Negotiated { source, offered, chosen, shm_reason, .. } = negotiated;
    let detail = format!("{source}: offered {}; negotiated {chosen}", offered.join(", "));
    let Some(frame) = frame else {
        let detail = format!("{detail}; no frame within {FRAME_TIMEOUT:?}");
        let remedy = "move something on the desktop: an unchanged one delivers no frames";
        report.push(Check::failed(checks::CAPTURE, detail, remedy));
        return None;
    };
    report.push(match shm_reason {
        None => Check::ok(checks::CAPTURE, detail),
        Some(reason) => Check::failed(checks::CAPTURE, detail, format!("enable DMA-BUF: {reason}")),
    });
    report.push(match &frame.buffer {
        FrameBuffer::Gpu(buffer) => {
            let (width, height, format) = (frame.width, frame.height, frame.format);
            let detail = format!("{width}x{height} {format:?}: resource ID {}", buffer.resource_id());
            Check::ok(checks::IMPORT, detail)
        }
        FrameBuffer::Shm(_) => Check::failed(
            checks::IMPORT,
            "the buffer is shared memory, which has no resource ID",
            "give the desktop's container the render node and its group, so that it renders on the GPU",
        ),
    });
    Some((capture, frame))
}
