//! How one frame is carried, rung by rung.

use std::time::{Duration, Instant};

use bytes::Bytes;
use encode::{Picture, Settings};
use protocol::mailbox::{FrameRequest, Operation, REQUEST_BYTES, Status};
use protocol::stream::{ClientMessage, Path, Pixels};
use protocol::{PixelFormat, Rect};

use super::{Pump, SETTLE, TAP_TIMEOUT};
use capture::{Frame, FrameBuffer};
use crate::source_switch::Source;
use crate::fallback::Binding;
use crate::local::Local;

/// Whether a frame's buffer can go by resource ID, else why not.
pub fn by_id(frame: &Frame) -> Result<(), &'static str> {
    match &frame.buffer {
        FrameBuffer::Gpu(buffer) if buffer.blob_mem() == 0 => Ok(()),
        FrameBuffer::Gpu(_) => Err("the compositor's buffers are blobs, which the tap cannot read"),
        FrameBuffer::Shm(_) => Err("capture gives shared memory, not DMA-BUF (see capture.reason)"),
    }
}

/// What a refusal means, with the remedy.
pub fn explain(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::BadRequest => "the tap does not understand the request: are tap and sidecar of one version?",
        Status::UnknownResource => "the tap does not know the buffer",
        Status::NotAttached => "the buffer is not attached to this sidecar's GPU context",
        Status::NotBound => "the tap knows no session of this sidecar",
        Status::BadFormat => "the tap cannot read the buffer's pixel format",
        Status::BadBox => "the frame's size is not the buffer's",
        Status::RateLimited => "the tap's rate limit was hit",
        Status::ReadFailed => "virglrenderer could not read the buffer",
        Status::Disabled => "the tap switched itself off after faults: restart the VM, and report its log",
        Status::NoHostAgent => "no host-agent is connected to the tap: start it with the same --link socket",
        Status::TooLarge => "the picture is larger than the host-agent allows (--max-pixels)",
    }
}

impl Pump {
    fn under_way(&mut self) {
        self.in_flight.push_back((self.seq, Instant::now()));
    }

    /// Rung `ResourceId`. False if the frame has to be carried again, by another rung.
    pub(super) fn carry_by_id(&mut self, frame: &Frame) -> bool {
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
        self.parts.report.mailbox(REQUEST_BYTES);
        let now = Instant::now();
        self.seq += 1;
        // The request's number is the frame's: it comes back with the access unit.
        match mailbox.call_as(self.seq, Operation::Frame(request), TAP_TIMEOUT) {
            Ok(answer) if answer.status == Status::Ok => {
                self.parts.report.tap(Duration::from_nanos(answer.spent_ns.into()));
                self.under_way();
                return true;
            }
            Ok(answer)
                if matches!(answer.status, Status::NotBound | Status::TooLarge)
                    && self.configured_at.elapsed() < SETTLE =>
            {
                self.due = now + Duration::from_millis(5);
            }
            Ok(answer) => {
                self.parts.report.update(|status| status.frames.refused += 1);
                let reason = explain(answer.status).to_owned();
                match answer.status {
                    // Full slots of time: the next frame may pass.
                    Status::RateLimited => return true,
                    Status::NotBound | Status::NoHostAgent | Status::Disabled => {
                        self.ladder.binding = Binding::Failed(now, reason);
                    }
                    _ => self.ladder.refused = Some((now, reason)),
                }
            }
            Err(error) => {
                self.ladder.binding = Binding::Failed(now, format!("the tap stopped answering: {error}"));
            }
        }
        false
    }

    /// Rung `Pixels`.
    pub(super) fn carry_pixels(&mut self, frame: &Frame) -> bool {
        let format = if self.options.push_nv12 { PixelFormat::Nv12 } else { frame.format };
        let first = self.configured.is_none_or(|config| config.path != Path::Pixels)
            || self.parts.switch.selected() != Some(Source::HostAgent);
        if !self.configure(frame, format, Path::Pixels) {
            return false;
        }
        self.parts.switch.select(Source::HostAgent);
        let whole = Rect::full(frame.width, frame.height);
        let rect = if first { whole } else { crate::pixels::even(frame.damage, frame.width, frame.height) };
        let data = match crate::pixels::gather(frame, rect, format) {
            Ok(data) => data,
            Err(error) => {
                tracing::warn!(%error, "a frame's pixels could not be read");
                return true;
            }
        };
        self.seq += 1;
        let pixels = Pixels {
            seq: self.seq,
            capture_ns: frame.capture_ns,
            format,
            width: frame.width as u16,
            height: frame.height as u16,
            rects: vec![rect],
            data,
        };
        let sent = self.parts.upstream.as_ref().is_some_and(|it| it.send(ClientMessage::Pixels(pixels)));
        if sent {
            self.under_way();
        }
        sent
    }

    /// Rung `Local`.
    pub(super) fn carry_local(&mut self, frame: &Frame) -> bool {
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
        let data = match crate::pixels::gather(frame, Rect::full(frame.width, frame.height), frame.format) {
            Ok(data) => data,
            Err(error) => {
                tracing::warn!(%error, "a frame's pixels could not be read");
                return true;
            }
        };
        let picture = picture(frame, data);
        self.seq += 1;
        let Some(local) = &mut self.local else { return false };
        if let Err(error) = local.submit(picture, self.seq, frame.capture_ns) {
            tracing::warn!(%error, "the local encoder failed; it is made anew");
            self.local = None;
            return false;
        }
        true
    }
}

impl Pump {
    /// Starts the local encoder on a thread of its own: the first start in a process makes GStreamer look at
    /// its plugins, and meanwhile the host-agent may come back. False while it is not ready.
    fn start_local(&mut self, settings: Settings) -> bool {
        let soon = Instant::now() + Duration::from_millis(20);
        let Some(starting) = self.starting.take() else {
            let (choice, switch) = (self.options.local_encoder.clone(), self.parts.switch.clone());
            let start = move || Local::start(&choice, settings, switch);
            self.starting = std::thread::Builder::new().name("local-start".into()).spawn(start).ok();
            self.due = soon;
            return false;
        };
        if !starting.is_finished() {
            self.starting = Some(starting);
            self.due = soon;
            return false;
        }
        match starting.join() {
            Ok(Ok(local)) if local.settings() == settings => {
                self.parts.report.update(|status| local.name().clone_into(&mut status.encoder));
                self.local = Some(local);
                self.parts.switch.encoder_replaced();
                true
            }
            Ok(Ok(_)) => false,
            Ok(Err(error)) => {
                tracing::error!(%error, "no local encoder");
                self.parts.report.update(|status| status.rung_reason = error.to_string());
                self.due = Instant::now() + Duration::from_secs(1);
                false
            }
            Err(_) => {
                tracing::error!("the local encoder panicked while it started");
                self.due = Instant::now() + Duration::from_secs(1);
                false
            }
        }
    }
}

fn picture(frame: &Frame, data: Bytes) -> Picture {
    Picture { format: frame.format, width: frame.width, height: frame.height, stride: 4 * frame.width, data }
}
