//! The capture cycle: request a frame, choose buffers by the compositor's offers, copy, deliver.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use encode::clock::clock_ns;
use protocol::Rect;
use wayland_protocols_wlr::screencopy::v1::client::zwlr_screencopy_frame_v1::ZwlrScreencopyFrameV1;

use super::buffers::{Buffers, GpuBuffersError, Kind, offer_dmabuf};
use super::globals::{DmabufOffer, FrameState, State};
use super::session::{PING_INTERVAL, REPLY_TIMEOUT, Session, Waited};
use crate::error::CaptureError;
use crate::frame::{BufferOwner, Frame, Lease, clip_damage};
use crate::negotiated::{Negotiated, ShmReason, fourcc_text};
use crate::release::ReleaseQueue;
use crate::source_context::SourceContext;
use crate::{CaptureOptions, Cursor, Memory};

/// Consecutive failures that end the source. An output that is being resized fails one or two captures.
const MAX_FAILURES: u32 = 20;
/// Consecutive failures with DMA-BUF that switch to shared memory.
const MAX_DMABUF_FAILURES: u32 = 5;
/// Pause after a failed capture.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);

/// Outcome of one capture.
enum Outcome {
    /// A frame was delivered.
    Delivered,
    /// The compositor failed the capture.
    Failed,
    /// The capture is stopped.
    Stopped,
}

/// State that lasts over captures.
pub struct Cycle<'a> {
    session: Session,
    options: &'a CaptureOptions,
    context: &'a SourceContext,
    release: Arc<ReleaseQueue>,
    released: Receiver<u64>,
    buffers: Option<Buffers>,
    /// Reason for shared memory, once DMA-BUF is ruled out.
    shm_reason: Option<ShmReason>,
    /// Number of the current buffer set.
    generation: u32,
    /// Consecutive failed captures.
    failures: u32,
    /// True once a frame was copied into the current buffer set: later copies wait for damage.
    delivered: bool,
}

impl<'a> Cycle<'a> {
    /// A cycle on `session` without buffers.
    pub fn new(session: Session, options: &'a CaptureOptions, context: &'a SourceContext) -> Self {
        let (release, released) = ReleaseQueue::new(context.waker());
        Self {
            session,
            options,
            context,
            release,
            released,
            buffers: None,
            shm_reason: options.dmabuf_excluded(),
            generation: 0,
            failures: 0,
            delivered: false,
        }
    }

    /// Captures until an error occurs, or until the capture is stopped (`Ok`).
    pub fn run(mut self) -> Result<(), CaptureError> {
        let manager = self.session.manager()?;
        let overlay_cursor = match self.options.cursor {
            Cursor::Hidden => 0,
            // The protocol does not deliver the cursor apart from the picture.
            Cursor::Embedded | Cursor::Viewer => 1,
        };
        let mut due = Instant::now();
        loop {
            let now = Instant::now();
            if self.context.is_stopped() {
                return Ok(());
            }
            if now < due {
                self.session.turn(due - now)?;
                continue;
            }
            let output = self.session.output(self.options.output.as_deref())?;
            self.session.state.frame = FrameState::default();
            let frame = manager.capture_output(overlay_cursor, &output, &self.session.handle(), ());
            let outcome = self.capture(&frame);
            frame.destroy();
            match outcome? {
                Outcome::Delivered => {
                    self.failures = 0;
                    // Jitter does not lower the frame rate, and missed frames are not made up for.
                    due = (due + self.options.frame_interval()).max(now);
                }
                Outcome::Failed => {
                    self.capture_failed()?;
                    due = Instant::now() + FAILURE_PAUSE;
                }
                Outcome::Stopped => return Ok(()),
            }
        }
    }

    /// Performs one capture.
    fn capture(&mut self, frame: &ZwlrScreencopyFrameV1) -> Result<Outcome, CaptureError> {
        let offers = |state: &State| state.frame.offered || state.frame.failed;
        if let Waited::Stopped = self.session.wait(offers, "offer buffers", Some(REPLY_TIMEOUT))? {
            return Ok(Outcome::Stopped);
        }
        if self.session.state.frame.failed {
            return Ok(Outcome::Failed);
        }
        self.prepare_buffers()?;
        let Some(buffers) = &mut self.buffers else { return Ok(Outcome::Failed) };
        let (index, proxy) = loop {
            self.released.try_iter().for_each(|token| buffers.release(token));
            if let Some(free) = buffers.take() {
                break free;
            }
            if self.context.is_stopped() {
                return Ok(Outcome::Stopped);
            }
            self.session.turn(PING_INTERVAL)?;
        };
        if self.delivered {
            frame.copy_with_damage(&proxy);
        } else {
            frame.copy(&proxy);
        }
        let ended = |state: &State| state.frame.ready.is_some() || state.frame.failed;
        if let Waited::Stopped = self.session.wait(ended, "copy", None)? {
            return Ok(Outcome::Stopped);
        }
        let (width, height) = buffers.kind().size();
        let result = self.session.state.frame.clone();
        let buffer = result.ready.and_then(|_| buffers.frame_buffer(index, result.y_invert));
        let Some(buffer) = buffer else {
            if result.y_invert && matches!(buffers.kind(), Kind::Gpu(_)) {
                self.shm_reason = Some(ShmReason::UpsideDown);
            }
            buffers.put_back(index);
            return Ok(Outcome::Failed);
        };
        let damage = if self.delivered {
            clip_damage(result.damage, width, height)
        } else {
            Rect::full(width, height)
        };
        self.delivered = true;
        self.context.deliver(Frame {
            seq: 0,
            capture_ns: result.ready.filter(|time| *time != 0).unwrap_or_else(clock_ns),
            width,
            height,
            format: buffers.format(),
            damage,
            buffer,
            lease: Lease::new(Arc::clone(&self.release) as Arc<dyn BufferOwner>, buffers.token(index)),
        });
        Ok(Outcome::Delivered)
    }

    /// Allocates buffers for the current offers, unless the existing ones fit.
    fn prepare_buffers(&mut self) -> Result<(), CaptureError> {
        let offer = self.session.state.frame.clone();
        if self.shm_reason.is_none() {
            self.shm_reason = match (offer.dmabuf, &self.session.state.dmabuf) {
                (None, _) => Some(ShmReason::CompositorWithoutDmaBuf),
                (_, None) => Some(ShmReason::NoLinuxDmabuf),
                _ => None,
            };
        }
        if self.shm_reason.is_none()
            && let Some(wanted) = offer.dmabuf
        {
            if self.fits(Kind::Gpu(wanted)) {
                return Ok(());
            }
            match self.allocate_gpu(wanted) {
                Ok(buffers) => {
                    self.use_buffers(buffers, &offer);
                    return Ok(());
                }
                Err(GpuBuffersError::Fatal(error)) => return Err(error),
                Err(GpuBuffersError::Unavailable(reason)) => self.shm_reason = Some(reason),
            }
        }
        if let Some(reason) = &self.shm_reason
            && self.options.memory == Memory::DmaBuf
        {
            return Err(CaptureError::NoDmaBuf(reason.clone()));
        }
        let Some(wanted) = offer.shm else { return Ok(()) };
        if self.fits(Kind::Shm(wanted)) {
            return Ok(());
        }
        self.generation += 1;
        let buffers = Buffers::shm(wanted, &self.session.state, &self.session.handle(), self.generation)?;
        self.use_buffers(buffers, &offer);
        Ok(())
    }

    fn allocate_gpu(&mut self, wanted: DmabufOffer) -> Result<Buffers, GpuBuffersError> {
        let Some(device) = &self.options.device else {
            let path = self.options.render_node.clone();
            return Err(GpuBuffersError::Unavailable(ShmReason::NoRenderNode(path)));
        };
        self.generation += 1;
        let session = &mut self.session;
        Buffers::gpu(wanted, device, self.generation, |buffer| {
            session.state.created = None;
            if offer_dmabuf(buffer, wanted, &session.state, &session.handle()) {
                session
                    .wait(|state| state.created.is_some(), "accept a DMA-BUF", Some(REPLY_TIMEOUT))
                    .map_err(GpuBuffersError::Fatal)?;
            }
            match session.state.created.take() {
                Some(Ok(proxy)) => Ok(proxy),
                _ => Err(GpuBuffersError::Unavailable(ShmReason::BufferRejected(fourcc_text(wanted.fourcc)))),
            }
        })
    }

    /// Replaces the buffer set and reports the negotiation.
    fn use_buffers(&mut self, buffers: Buffers, offer: &FrameState) {
        let (width, height) = buffers.kind().size();
        let mut offered = self.session.state.describe_dmabuf();
        if let Some(dmabuf) = offer.dmabuf {
            offered.push(format!(
                "screencopy linux_dmabuf {} {}x{}",
                fourcc_text(dmabuf.fourcc),
                dmabuf.width,
                dmabuf.height
            ));
        }
        if let Some(shm) = offer.shm {
            let (format, size) = (fourcc_text(shm.format), format!("{}x{}", shm.width, shm.height));
            offered.push(format!("screencopy shm format {format} {size} stride {}", shm.stride));
        }
        let dmabuf = matches!(buffers.kind(), Kind::Gpu(_));
        let memory = if dmabuf { "DMA-BUF, modifier INVALID" } else { "shared memory" };
        self.context.report_negotiated(Negotiated {
            source: "wayland".to_owned(),
            offered,
            chosen: format!("{:?} {width}x{height} in {memory}, {}", buffers.format(), buffers.describe()),
            format: buffers.format(),
            width,
            height,
            dmabuf,
            shm_reason: self.shm_reason.clone(),
        });
        self.buffers = Some(buffers);
        self.delivered = false;
    }

    fn fits(&self, kind: Kind) -> bool {
        self.buffers.as_ref().is_some_and(|buffers| buffers.kind() == kind)
    }

    /// Counts a failed capture: after [`MAX_DMABUF_FAILURES`] switches to shared memory, after [`MAX_FAILURES`] fails.
    fn capture_failed(&mut self) -> Result<(), CaptureError> {
        self.failures += 1;
        let gpu = self.buffers.as_ref().is_some_and(|buffers| matches!(buffers.kind(), Kind::Gpu(_)));
        if gpu
            && self.failures >= MAX_DMABUF_FAILURES
            && self.options.memory == Memory::Auto
            && self.shm_reason.is_none()
        {
            self.shm_reason = Some(ShmReason::CopyFailed);
        }
        if self.failures >= MAX_FAILURES {
            return Err(CaptureError::CaptureFailed { failures: self.failures });
        }
        Ok(())
    }
}
