//! Pump: submits the newest captured frame by the path that [`Fallback`] chooses.
//!
//! At most [`MAX_IN_FLIGHT`] frames are in flight; meanwhile capture keeps only the newest frame. One thread runs the
//! pump and is the only user of the mailbox.

mod events;
mod frames;
mod submit;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use capture::{Capture, Frame};
use contract::{FramePath, HostAgentConnection};
use protocol::PixelFormat;
use protocol::mailbox::{Operation, REQUEST_BYTES, Status};
use protocol::stream::{ClientMessage, Codec, Config};
use virtgpu::{Device, Mailbox};

use crate::fallback::{Binding, Candidate, Decision, Fallback, Reason, explain};
use crate::local::Local;
use crate::report::Report;
use crate::source_switch::SourceSwitch;
use crate::upstream::{Event, Session, Upstream};
use frames::Frames;

/// Maximum number of frames between submission and access unit: one is encoded while the next is read.
const MAX_IN_FLIGHT: usize = 2;
/// Time after which a submitted frame without access unit no longer counts as in flight.
const FRAME_TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout of a mailbox request.
const TAP_TIMEOUT: Duration = Duration::from_millis(500);
/// Time after `Configure` within which the tap may still lack the ring, or have the one of the previous size.
const SETTLE_TIME: Duration = Duration::from_secs(1);
/// Longest wait of the pump's loop.
const TICK: Duration = Duration::from_millis(20);

/// Options of a [`Pump`].
#[derive(Debug, Clone)]
pub struct PumpOptions {
    /// The only frame path to use, if set.
    pub only_path: Option<FramePath>,
    /// On path `Pixels`: send NV12 instead of the captured format.
    pub push_nv12: bool,
    /// Encoder of path `Local`.
    pub local_encoder: encode::Choice,
    /// Bit rate, kbit/s.
    pub bitrate_kbps: u32,
    /// Maximum frame rate, frames per second.
    pub max_fps: u16,
    /// Maximum time between keyframes, ms; 0 for keyframes on demand only.
    pub keyframe_ms: u32,
    /// Video codec to request.
    pub codec: Codec,
}

/// Parts that a [`Pump`] connects.
#[derive(Debug)]
pub struct Parts {
    /// Source of frames.
    pub capture: Capture,
    /// Render node, or the error of opening it.
    pub device: Result<Device, String>,
    /// Connection to the host-agent, if one is configured.
    pub upstream: Option<Upstream>,
    /// Events of that connection.
    pub events: Receiver<Event>,
    /// Receiver of the local encoder's access units.
    pub switch: Arc<SourceSwitch>,
    /// Status to update.
    pub report: Arc<Report>,
    /// Set by viewers to request an IDR.
    pub want_idr: Arc<AtomicBool>,
    /// Set to end the pump.
    pub stop: Arc<AtomicBool>,
}

/// State of the pump.
#[derive(Debug)]
pub struct Pump {
    options: PumpOptions,
    parts: Parts,
    fallback: Fallback,
    mailbox: Option<Mailbox>,
    session: Option<Session>,
    /// Last configuration sent in this session, and when.
    configured: Option<Config>,
    configured_at: Instant,
    frames: Frames,
    local: Option<Local>,
    /// Local encoder while it starts.
    starting: Option<JoinHandle<Result<Local, encode::EncodeError>>>,
    /// Sequence number of the last mailbox request or frame.
    seq: u64,
    /// Earliest time of the next submission.
    due: Instant,
    path: Option<FramePath>,
}

impl Pump {
    /// Creates a pump; [`Self::run`] starts it.
    pub fn new(options: PumpOptions, parts: Parts) -> Self {
        let now = Instant::now();
        let (mailbox, binding) = match &parts.device {
            Ok(device) => match Mailbox::new(device) {
                Ok(mailbox) => (Some(mailbox), Binding::Untried),
                Err(error) => {
                    let error = format!("cannot create a mailbox on the render node: {error}");
                    (None, Binding::Unavailable(error))
                }
            },
            Err(error) => (None, Binding::Unavailable(error.clone())),
        };
        let fallback = Fallback::new(options.only_path, parts.upstream.is_some(), binding, now);
        if parts.upstream.is_some() {
            parts.report.update(|status| status.host_agent = HostAgentConnection::Connecting);
        }
        let frames = Frames::new(MAX_IN_FLIGHT, Arc::clone(&parts.report));
        Self {
            options,
            parts,
            fallback,
            mailbox,
            session: None,
            configured: None,
            configured_at: now,
            frames,
            local: None,
            starting: None,
            seq: 0,
            due: now,
            path: None,
        }
    }

    /// Runs until `stop` is set.
    pub fn run(mut self) {
        while !self.parts.stop.load(Ordering::Relaxed) {
            while let Ok(event) = self.parts.events.try_recv() {
                self.on_event(event);
            }
            self.on_capture_events();
            let now = Instant::now();
            if self.fallback.should_bind(now) {
                self.bind(now);
            }
            self.forward_idr_request();
            self.frames.expire(now, FRAME_TIMEOUT);
            let pause = self.due.saturating_duration_since(now);
            if self.frames.is_full() || !pause.is_zero() {
                let wait = if pause.is_zero() { TICK } else { pause.min(TICK) };
                match self.parts.events.recv_timeout(wait) {
                    Ok(event) => self.on_event(event),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => std::thread::sleep(wait),
                }
                continue;
            }
            let frame = self.parts.capture.recv_newest(TICK);
            self.frames.count_overwritten(self.parts.capture.overwritten());
            if let Some(frame) = frame {
                self.frames.hold(frame);
            }
            match self.frames.take_pending() {
                Some(frame) => self.submit(frame),
                None => self.repeat_locally(),
            }
        }
        if let Some(upstream) = &self.parts.upstream {
            upstream.send(ClientMessage::Bye);
        }
    }

    /// Submits `frame` by the path chosen now, or holds it if a better path is about to be available.
    fn submit(&mut self, frame: Frame) {
        let candidate = Candidate {
            by_resource_id: submit::by_resource_id(&frame),
            pixels: u64::from(frame.width) * u64::from(frame.height),
        };
        let submitted = match self.fallback.choose(candidate, Instant::now()) {
            Decision::Wait(event) => {
                tracing::debug!(?event, "frame held");
                false
            }
            Decision::Use(path, reason) => {
                self.enter(path, reason.as_ref(), &frame);
                match path {
                    FramePath::ResourceId => self.submit_resource_id(&frame),
                    FramePath::Pixels => self.submit_pixels(&frame),
                    FramePath::Local => self.submit_local(&frame),
                }
            }
        };
        if submitted {
            let interval = Duration::from_secs(1) / u32::from(self.options.max_fps.max(1));
            // Jitter does not shift the schedule, but time lost is not made up for.
            self.due = (self.due + interval).max(Instant::now().checked_sub(interval).unwrap_or(self.due));
        }
        self.frames.put_back(frame, submitted);
    }

    /// Switches to `path` and reports it.
    fn enter(&mut self, path: FramePath, reason: Option<&Reason>, frame: &Frame) {
        let reason = reason.map(ToString::to_string).unwrap_or_default();
        if self.path != Some(path) {
            tracing::info!(%path, reason, width = frame.width, height = frame.height, "frame path changed");
            if path != FramePath::Local {
                self.local = None;
            }
            self.frames.interrupt(Some(frame));
            self.path = Some(path);
        }
        let connection = self.connection(path);
        self.parts.report.update(|status| {
            if let Some(connection) = connection {
                status.host_agent = connection;
            }
            status.frame_path = Some(path);
            status.frame_path_reason = reason;
            status.width = frame.width;
            status.height = frame.height;
        });
    }

    /// Connection state to report while a session exists.
    ///
    /// A host-agent that has not confirmed the binding in time serves another VM. This holds until a new attempt is
    /// confirmed or fails.
    fn connection(&self, path: FramePath) -> Option<HostAgentConnection> {
        let Session { endpoint, server, .. } = self.session.as_ref()?;
        let (endpoint, server) = (endpoint.clone(), server.clone());
        let unconfirmed = path == FramePath::Pixels && matches!(self.fallback.binding, Binding::Requested(_));
        Some(if unconfirmed {
            HostAgentConnection::OtherVm { endpoint, server }
        } else {
            HostAgentConnection::Connected { endpoint, server }
        })
    }

    /// Repeats an unchanged picture on path `Local`. On the other paths the host-agent does.
    fn repeat_locally(&mut self) {
        if self.path != Some(FramePath::Local) {
            return;
        }
        if let Some(Err(error)) = self.local.as_mut().map(Local::repeat_if_due) {
            tracing::warn!(%error, "local encoder failed; starting another");
            self.local = None;
            self.frames.resubmit();
        }
    }

    fn forward_idr_request(&mut self) {
        if !self.parts.want_idr.swap(false, Ordering::Relaxed) {
            return;
        }
        if let Some(local) = &mut self.local {
            local.want_idr();
        } else if let Some(upstream) = &self.parts.upstream {
            upstream.send(ClientMessage::RequestKeyframe);
        }
    }

    /// Sends the session's nonce to the tap.
    fn bind(&mut self, now: Instant) {
        let (Some(mailbox), Some(session)) = (&mut self.mailbox, &self.session) else { return };
        self.parts.report.mailbox_request(REQUEST_BYTES);
        self.seq += 1;
        self.fallback.binding = match mailbox.call_as(self.seq, Operation::Bind(session.nonce), TAP_TIMEOUT) {
            Ok(answer) => match answer.status {
                Status::Ok => Binding::Requested(now),
                status => Binding::Failed { at: now, error: explain(status).to_owned() },
            },
            Err(error) => {
                Binding::Failed { at: now, error: format!("the tap does not answer the mailbox: {error}") }
            }
        };
        self.frames.resubmit();
        tracing::debug!(binding = ?self.fallback.binding, "bind request");
    }

    /// Sends the stream's configuration if it differs from the last one of this session. False if it cannot be sent.
    fn configure(&mut self, frame: &Frame, format: PixelFormat, path: protocol::stream::Path) -> bool {
        let Some(upstream) = &self.parts.upstream else { return false };
        let config = Config {
            width: frame.width as u16,
            height: frame.height as u16,
            format,
            max_fps: self.options.max_fps,
            bitrate_kbps: self.options.bitrate_kbps,
            keyframe_ms: self.options.keyframe_ms,
            codec: self.options.codec,
            path,
        };
        if self.configured == Some(config) {
            return true;
        }
        if !upstream.send(ClientMessage::Configure(config)) {
            return false;
        }
        self.configured = Some(config);
        self.configured_at = Instant::now();
        self.parts.switch.encoder_replaced();
        true
    }
}
