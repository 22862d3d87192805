//! The pump: takes the newest frame, carries it by the rung that the [`ladder`](crate::fallback) names, and
//! keeps at most two frames under way. One thread, the only one that touches the mailbox.
//!
//! It does not know how frames are captured, how the host-agent is reached, or who watches.

mod carry;

pub use carry::explain;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use protocol::PixelFormat;
use protocol::mailbox::{Operation, REQUEST_BYTES, Status};
use protocol::stream::{ClientMessage, Codec, Config, ErrorCode, ServerMessage};
use virtgpu::{Device, Mailbox};

use capture::{Capture, CaptureEvent, Frame};
use crate::gate::Gate;
use crate::fallback::{Binding, Choice, Ladder, Link, Rung};
use crate::local::Local;
use crate::report::Report;
use crate::upstream::{Event, Upstream};

/// Frames between ring and access unit: one being encoded, one read meanwhile.
const IN_FLIGHT: usize = 2;
/// A frame whose access unit has not come after this is no longer waited for.
const FORGET: Duration = Duration::from_secs(1);
/// How long a mailbox request may take before the tap counts as not there.
const TAP_TIMEOUT: Duration = Duration::from_millis(500);
/// How long after Configure the tap may not have its ring yet, or still the one of the old size.
const SETTLE: Duration = Duration::from_secs(1);
/// How often the pump looks around when nothing happens.
const TICK: Duration = Duration::from_millis(20);

/// What the pump is told once.
#[derive(Debug, Clone)]
pub struct PumpOptions {
    /// Use only this rung.
    pub rung: Option<Rung>,
    /// Layout of pushed pixels: NV12, or the frame's own.
    pub push_nv12: bool,
    /// Encoder of rung `Local`.
    pub local_encoder: encode::Choice,
    /// Bit rate, kbit/s.
    pub bitrate_kbps: u32,
    /// Highest frame rate.
    pub max_fps: u16,
    /// Longest time between keyframes, ms.
    pub keyframe_ms: u32,
    /// Codec.
    pub codec: Codec,
}

/// What the pump works with.
#[derive(Debug)]
pub struct Parts {
    /// Where frames come from.
    pub capture: Capture,
    /// The render node, or why there is none.
    pub device: Result<Device, String>,
    /// The host-agent, if one is configured.
    pub upstream: Option<Upstream>,
    /// What happens there.
    pub events: Receiver<Event>,
    /// Where local access units go.
    pub gate: Arc<Gate>,
    /// What is told about it.
    pub report: Arc<Report>,
    /// Raised by viewers who need an IDR.
    pub want_idr: Arc<AtomicBool>,
    /// Raised to end the pump.
    pub stop: Arc<AtomicBool>,
}

/// The pump's state.
#[derive(Debug)]
pub struct Pump {
    options: PumpOptions,
    parts: Parts,
    ladder: Ladder,
    mailbox: Option<Mailbox>,
    nonce: Option<[u8; 16]>,
    /// Whom the last connection was with.
    endpoint: String,
    max_pixels: u32,
    configured: Option<Config>,
    configured_at: Instant,
    in_flight: VecDeque<(u64, Instant)>,
    local: Option<Local>,
    /// The local encoder, while it starts.
    starting: Option<JoinHandle<Result<Local, encode::EncodeError>>>,
    /// The frame carried last: its buffer stays ours, so that a static screen survives a change of rung.
    last: Option<Frame>,
    /// `last` has to be carried again.
    again: bool,
    seq: u64,
    due: Instant,
    rung: Option<Rung>,
}

impl Pump {
    /// A pump that has not begun.
    pub fn new(options: PumpOptions, parts: Parts) -> Self {
        let now = Instant::now();
        let (mailbox, binding) = match &parts.device {
            Ok(device) => match Mailbox::new(device) {
                Ok(mailbox) => (Some(mailbox), Binding::Untried),
                Err(error) => (None, Binding::Impossible(format!("no mailbox on the render node: {error}"))),
            },
            Err(reason) => (None, Binding::Impossible(reason.clone())),
        };
        let ladder = Ladder::new(options.rung, parts.upstream.is_some(), binding, now);
        Self {
            options,
            parts,
            ladder,
            mailbox,
            nonce: None,
            endpoint: String::new(),
            max_pixels: u32::MAX,
            configured: None,
            configured_at: now,
            in_flight: VecDeque::new(),
            local: None,
            starting: None,
            last: None,
            again: false,
            seq: 0,
            due: now,
            rung: None,
        }
    }

    /// Runs until told to stop.
    pub fn run(mut self) {
        while !self.parts.stop.load(Ordering::Relaxed) {
            while let Ok(event) = self.parts.events.try_recv() {
                self.on_event(event);
            }
            self.on_capture_events();
            let now = Instant::now();
            if self.ladder.should_bind(now) {
                self.bind(now);
            }
            self.pass_on_idr_wish();
            while self.in_flight.front().is_some_and(|(_, since)| now.duration_since(*since) > FORGET) {
                self.in_flight.pop_front();
            }
            let pause = self.due.saturating_duration_since(now);
            if self.in_flight.len() >= IN_FLIGHT || !pause.is_zero() {
                let wait = if pause.is_zero() { TICK } else { pause.min(TICK) };
                match self.parts.events.recv_timeout(wait) {
                    Ok(event) => self.on_event(event),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => std::thread::sleep(wait),
                }
                continue;
            }
            match self.parts.capture.recv_newest(TICK) {
                Some(frame) => {
                    self.parts.report.update(|status| status.frames.captured += 1);
                    self.last = Some(frame);
                    self.carry_last();
                }
                None if self.again => self.carry_last(),
                None => self.idle(),
            }
        }
        if let Some(upstream) = &self.parts.upstream {
            upstream.send(ClientMessage::Bye);
        }
    }

    /// Carries the frame in `last` by the rung that is right now.
    fn carry_last(&mut self) {
        let Some(frame) = self.last.take() else {
            self.again = false;
            return;
        };
        let choice = self.ladder.choose(carry::by_id(&frame), Instant::now());
        match choice {
            Choice::Wait(what) => {
                tracing::debug!("waiting {what}");
                self.again = true;
            }
            Choice::Take(rung, reason) => {
                self.enter(rung, &reason, &frame);
                let carried = match rung {
                    Rung::ResourceId => self.carry_by_id(&frame),
                    Rung::Pixels => self.carry_pixels(&frame),
                    Rung::Local => self.carry_local(&frame),
                };
                self.again = !carried;
                if carried {
                    let gap = Duration::from_secs(1) / u32::from(self.options.max_fps.max(1));
                    // The best pace is kept over jitter, but time lost is not caught up.
                    self.due = (self.due + gap).max(Instant::now().checked_sub(gap).unwrap_or(self.due));
                }
            }
        }
        self.last = Some(frame);
    }

    /// Makes `rung` the one in use and tells everybody who has to know.
    fn enter(&mut self, rung: Rung, reason: &str, frame: &Frame) {
        if self.rung != Some(rung) {
            tracing::info!(?rung, reason, width = frame.width, height = frame.height, "rung");
            if rung != Rung::Local {
                self.local = None;
            }
            self.in_flight.clear();
            self.rung = Some(rung);
        }
        // Until it is asked anew, which takes a moment, a host-agent that did not confirm has not.
        let unconfirmed = rung == Rung::Pixels && matches!(self.ladder.binding, Binding::Asked(_));
        let unconfirmed_by = if unconfirmed { self.endpoint.as_str() } else { "" };
        self.parts.report.update(|status| {
            if status.unconfirmed_by != unconfirmed_by {
                unconfirmed_by.clone_into(&mut status.unconfirmed_by);
            }
            status.rung = Some(rung);
            if status.rung_reason != reason {
                reason.clone_into(&mut status.rung_reason);
            }
            status.width = frame.width;
            status.height = frame.height;
        });
    }

    /// Nothing new: a still picture on rung `Local` is kept alive here, on the others by the host-agent.
    fn idle(&mut self) {
        if self.rung != Some(Rung::Local) {
            return;
        }
        if let Some(Err(error)) = self.local.as_mut().map(Local::keep_alive) {
            tracing::warn!(%error, "the local encoder failed; it is made anew");
            self.local = None;
            self.again = true;
        }
    }

    fn pass_on_idr_wish(&mut self) {
        if !self.parts.want_idr.swap(false, Ordering::Relaxed) {
            return;
        }
        if let Some(local) = &mut self.local {
            local.want_idr();
        } else if let Some(upstream) = &self.parts.upstream {
            upstream.send(ClientMessage::RequestKeyframe);
        }
    }

    fn on_capture_events(&mut self) {
        while let Some(event) = self.parts.capture.try_event() {
            match event {
                CaptureEvent::Negotiated(negotiated) => self.parts.report.update(|status| {
                    status.capture.source.clone_from(&negotiated.source);
                    status.capture.offered.clone_from(&negotiated.offered);
                    status.capture.taken.clone_from(&negotiated.chosen);
                    status.capture.reason =
                        negotiated.shm_reason.as_ref().map(ToString::to_string).unwrap_or_default();
                    status.capture.error.clear();
                }),
                CaptureEvent::Lost(error) => {
                    tracing::warn!(%error, "capture lost; waiting for the desktop");
                    // Its buffers died with the compositor.
                    self.last = None;
                    self.again = false;
                    self.parts.report.update(|status| status.capture.error = error.to_string());
                }
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Connected(session) => {
                self.ladder.link = Link::Up;
                self.ladder.no_encoder = None;
                if !matches!(self.ladder.binding, Binding::Impossible(_)) {
                    self.ladder.binding = Binding::Untried;
                }
                self.nonce = Some(session.nonce);
                self.endpoint = session.endpoint.to_string();
                self.max_pixels = session.max_pixels;
                self.configured = None;
                self.in_flight.clear();
                self.again = true;
                self.parts
                    .report
                    .update(|status| status.host_agent = format!("connected to {}", session.server));
            }
            Event::Disconnected(error) => {
                let reason = error.to_string();
                if self.ladder.link == Link::Up {
                    tracing::warn!(reason, "host-agent lost");
                }
                let since = match &self.ladder.link {
                    Link::Down(since, _) => *since,
                    Link::Up | Link::Absent => now,
                };
                self.parts.report.update(|status| status.host_agent.clone_from(&reason));
                self.ladder.link = Link::Down(since, reason);
                self.nonce = None;
                self.in_flight.clear();
                self.again = true;
            }
            Event::Message(message) => self.on_message(message, now),
        }
    }

    fn on_message(&mut self, message: ServerMessage, now: Instant) {
        match message {
            ServerMessage::Bound { context, vm, .. } => {
                tracing::info!(context, vm, "bound");
                self.ladder.binding = Binding::Bound;
                self.again = true;
            }
            ServerMessage::Unbound { reason } => {
                tracing::warn!(reason, "unbound");
                self.ladder.binding = Binding::Failed(now, reason);
                self.in_flight.clear();
                self.again = true;
            }
            ServerMessage::Configured { encoder } => {
                self.parts.report.update(|status| status.encoder = encoder);
            }
            ServerMessage::AccessUnit(unit) if !unit.repeat => self.landed(unit.seq),
            ServerMessage::Dropped { seq } => {
                self.landed(seq);
                self.parts.report.update(|status| status.frames.dropped += 1);
            }
            ServerMessage::Error { code: ErrorCode::Encoder, message } => {
                tracing::warn!(message, "the host-agent cannot encode this");
                self.ladder.no_encoder = Some(message);
                self.again = true;
            }
            ServerMessage::Error { code, message } => tracing::warn!(?code, message, "host-agent"),
            ServerMessage::AccessUnit(_) | ServerMessage::HelloAck { .. } | ServerMessage::Pong(_) => {}
        }
    }

    /// Frame `seq` and all before it are no longer under way.
    fn landed(&mut self, seq: u64) {
        while self.in_flight.front().is_some_and(|(oldest, _)| *oldest <= seq) {
            self.in_flight.pop_front();
        }
    }

    /// Rings the session's nonce.
    fn bind(&mut self, now: Instant) {
        let (Some(mailbox), Some(nonce)) = (&mut self.mailbox, self.nonce) else { return };
        self.parts.report.mailbox(REQUEST_BYTES);
        self.seq += 1;
        self.ladder.binding = match mailbox.call_as(self.seq, Operation::Bind(nonce), TAP_TIMEOUT) {
            Ok(answer) => match answer.status {
                Status::Ok => Binding::Asked(now),
                status => Binding::Failed(now, carry::explain(status).to_owned()),
            },
            Err(error) => Binding::Failed(now, format!("no tap answers the mailbox: {error}")),
        };
        self.again = true;
        tracing::debug!(binding = ?self.ladder.binding, "bind");
    }

    /// Tells the host-agent what comes, if that is news.
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
        self.parts.gate.new_encoder();
        true
    }
}
