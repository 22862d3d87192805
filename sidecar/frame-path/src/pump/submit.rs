//! Submission of one frame, for each frame path.
//!
//! The functions return false if the frame has to be submitted again, perhaps by another path.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use capture::{Frame, FrameBuffer};
use encode::{Picture, Settings};
use protocol::mailbox::{FrameRequest, Operation, REQUEST_BYTES, Status};
use protocol::stream::{ClientMessage, Path, Pixels};
use protocol::{PixelFormat, Rect};

use super::{Pump, SETTLE_TIME, TAP_TIMEOUT};
use crate::fallback::{Binding, NoResourceId, Reason, explain};
use crate::local::Local;
use crate::pixels;
use crate::source_switch::Source;

/// Delay before a frame is submitted again while the tap has no ring of the configured size.
const RING_RETRY: Duration = Duration::from_millis(5);
/// Interval at which a starting local encoder is checked.
const START_POLL: Duration = Duration::from_millis(20);
/// Delay before another local encoder is started after a failure.
const START_RETRY: Duration = Duration::from_secs(1);

/// `Ok` if the frame's buffer can be read by resource ID.
pub fn by_resource_id(frame: &Frame) -> Result<(), NoResourceId> {
    match &frame.buffer {
        FrameBuffer::Gpu(buffer) if buffer.blob_mem() == 0 => Ok(()),
        FrameBuffer::Gpu(_) => Err(NoResourceId::Blob),
        FrameBuffer::Shm(_) => Err(NoResourceId::SharedMemory),
    }
}

impl Pump {
    /// Path `ResourceId`: requests that the tap read the frame's buffer.
    pub(super) fn submit_resource_id(&mut self, frame: &Frame) -> bool {
        let FrameBuffer::Gpu(buffer) = &frame.buffer else { return false };
        if !self.configure(frame, frame.format, Path::ResourceId) {
            return false;
        }
        self.parts.switch.select(Source::HostAgent);
        let request = FrameRequest {
            resource: buffer.resource_id(),
            format: frame.format,
            width: frame.width as u16,
            height: frame.height as u16,
            stride: buffer.stride(),
            damage: frame.damage,
            capture_ns: frame.capture_ns,
        };
        let Some(mailbox) = &mut self.mailbox else { return false };
        self.parts.report.mailbox_request(REQUEST_BYTES);
        let now = Instant::now();
        // The tap passes the number on to the host-agent, which returns it with the access unit.
        self.seq += 1;
        match mailbox.call_as(self.seq, Operation::Frame(request), TAP_TIMEOUT) {
            Ok(answer) if answer.status == Status::Ok => {
                self.parts.report.tap_time(Duration::from_nanos(answer.spent_ns.into()));
                self.frames.begin(self.seq, frame);
                return true;
            }
            Ok(answer)
                if matches!(answer.status, Status::NotBound | Status::TooLarge)
                    && self.configured_at.elapsed() < SETTLE_TIME =>
            {
                self.due = now + RING_RETRY;
            }
            Ok(answer) => {
                self.parts.report.update(|status| status.frames.refused += 1);
                match answer.status {
                    // Over the limit for now: the next frame may be accepted.
                    Status::RateLimited => return true,
                    status @ (Status::NotBound | Status::NoHostAgent | Status::Disabled) => {
                        let error = explain(status).to_owned();
                        self.fallback.binding = Binding::Failed { at: now, error };
                    }
                    status => self.fallback.refused = Some((now, Reason::Refused(status))),
                }
            }
            Err(error) => {
                let error = format!("the tap stopped answering: {error}");
                self.fallback.binding = Binding::Failed { at: now, error };
            }
        }
        false
    }

    /// Path `Pixels`: sends the damaged pixels, or all of them after a change of configuration or source.
    pub(super) fn submit_pixels(&mut self, frame: &Frame) -> bool {
        let format = if self.options.push_nv12 { PixelFormat::Nv12 } else { frame.format };
        let first = self.configured.is_none_or(|config| config.path != Path::Pixels)
            || self.parts.switch.selected() != Some(Source::HostAgent);
        if !self.configure(frame, format, Path::Pixels) {
            return false;
        }
        self.parts.switch.select(Source::HostAgent);
        let rect = if first {
            Rect::full(frame.width, frame.height)
        } else {
            pixels::align_to_chroma(frame.damage, frame.width, frame.height)
        };
        let Some(data) = self.read_pixels(frame, rect, format) else { return true };
        self.seq += 1;
        let message = ClientMessage::Pixels(Pixels {
            seq: self.seq,
            capture_ns: frame.capture_ns,
            format,
            width: frame.width as u16,
            height: frame.height as u16,
            rects: vec![rect],
            data,
        });
        let sent = self.parts.upstream.as_ref().is_some_and(|upstream| upstream.send(message));
        if sent {
            self.frames.begin(self.seq, frame);
        }
        sent
    }

    /// Path `Local`: encodes the frame in this process.
    pub(super) fn submit_local(&mut self, frame: &Frame) -> bool {
        let settings = Settings {
            width: frame.width,
            height: frame.height,
            codec: self.options.codec,
            bitrate_kbps: self.options.bitrate_kbps,
            max_fps: self.options.max_fps.into(),
            keyframe_ms: self.options.keyframe_ms,
        };
        if self.local.as_ref().is_none_or(|local| local.settings() != settings) {
            self.local = None;
            if !self.start_local(settings) {
                return false;
            }
        }
        self.parts.switch.select(Source::Local);
        let whole = Rect::full(frame.width, frame.height);
        let Some(data) = self.read_pixels(frame, whole, frame.format) else { return true };
        self.seq += 1;
        let Some(local) = &mut self.local else { return false };
        if let Err(error) = local.submit(picture(frame, data), self.seq, frame.capture_ns) {
            tracing::warn!(%error, "local encoder failed; starting another");
            self.local = None;
            return false;
        }
        true
    }

    /// Reads a rectangle of the frame; on failure the frame is dropped.
    fn read_pixels(&self, frame: &Frame, rect: Rect, format: PixelFormat) -> Option<Bytes> {
        pixels::read(frame, rect, format)
            .inspect_err(|error| {
                tracing::warn!(%error, "frame dropped: its pixels cannot be read");
                self.parts.report.dropped(|drops| drops.unreadable += 1);
            })
            .ok()
    }

    /// Starts the local encoder; true once it runs.
    ///
    /// It starts on a thread of its own: GStreamer scans its plugins at the first start in a process, and meanwhile
    /// the host-agent may reconnect.
    fn start_local(&mut self, settings: Settings) -> bool {
        let Some(starting) = self.starting.take() else {
            let choice = self.options.local_encoder.clone();
            let (switch, report) = (Arc::clone(&self.parts.switch), Arc::clone(&self.parts.report));
            let start = move || Local::start(&choice, settings, switch, report);
            self.starting = std::thread::Builder::new().name("local-start".into()).spawn(start).ok();
            self.due = Instant::now() + START_POLL;
            return false;
        };
        if !starting.is_finished() {
            self.starting = Some(starting);
            self.due = Instant::now() + START_POLL;
            return false;
        }
        match starting.join() {
            Ok(Ok(local)) if local.settings() == settings => {
                self.parts.report.update(|status| local.name().clone_into(&mut status.encoder));
                self.local = Some(local);
                self.parts.switch.encoder_replaced();
                return true;
            }
            // The picture's size changed meanwhile: start another.
            Ok(Ok(_)) => return false,
            Ok(Err(error)) => {
                tracing::error!(%error, "cannot start a local encoder");
                self.parts.report.update(|status| status.frame_path_reason = error.to_string());
            }
            Err(_) => tracing::error!("the local encoder panicked while it started"),
        }
        self.due = Instant::now() + START_RETRY;
        false
    }
}

fn picture(frame: &Frame, data: Bytes) -> Picture {
    Picture { format: frame.format, width: frame.width, height: frame.height, stride: 4 * frame.width, data }
}
