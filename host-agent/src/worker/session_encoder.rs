//! The encoder of one session, with replacement after a failure.
//!
//! An encoder that fails or stalls is replaced once, and the new one starts with an IDR. If that one fails
//! within [`REPLACEMENT_INTERVAL`], the session receives an error and has no encoder until it is configured again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use encode::{EncodeError, Encoder, Settings, Sink};
use frame_ring::clock::monotonic_ns;
use frame_ring::wake::Waker;
use protocol::stream::Config;

use super::output::{EncoderOutput, InFlightFrame};
use super::source::Frame;
use crate::meter::{Count, Meter};
use crate::outbox::Outbox;

/// Minimum time between two replacements.
const REPLACEMENT_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum number of frames in flight: hardware accepts the next frame while it completes the last.
const MAX_IN_FLIGHT: usize = 2;
/// Time without an access unit after which an encoder counts as stalled.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens an encoder.
pub(super) type Opener = Box<dyn FnMut(Settings, Sink) -> Result<Box<dyn Encoder>, EncodeError> + Send>;

/// A frame that was not encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The encoder refused this frame and accepts others.
    FrameRefused,
    /// The session has no encoder any more, for this reason.
    NoEncoder(String),
}

/// The encoder of one session.
pub(super) struct SessionEncoder {
    open: Opener,
    settings: Option<Settings>,
    encoder: Option<Box<dyn Encoder>>,
    output: Arc<EncoderOutput>,
    meter: Meter,
    started: Instant,
    last_pts_us: u64,
    last_ticket: u64,
    replaced_at: Option<Instant>,
}

impl SessionEncoder {
    /// A session without an encoder; [`SessionEncoder::configure`] opens one.
    pub(super) fn new(open: Opener, outbox: Arc<Outbox>, meter: Meter, waker: Arc<Waker>) -> Self {
        Self {
            open,
            settings: None,
            encoder: None,
            output: Arc::new(EncoderOutput::new(MAX_IN_FLIGHT, outbox, meter.clone(), waker)),
            meter,
            started: Instant::now(),
            last_pts_us: 0,
            last_ticket: 0,
            replaced_at: None,
        }
    }

    /// Opens the encoder for a configuration and returns its name.
    pub(super) fn configure(&mut self, config: &Config) -> Result<String, EncodeError> {
        self.replaced_at = None;
        self.settings = Some(Settings {
            width: config.width.into(),
            height: config.height.into(),
            codec: config.codec,
            bitrate_kbps: config.bitrate_kbps,
            max_fps: config.max_fps.into(),
            keyframe_ms: config.keyframe_ms,
        });
        self.open()
    }

    /// Opens an encoder in place of the current one; its first access unit is an IDR.
    fn open(&mut self) -> Result<String, EncodeError> {
        self.close();
        let settings = self
            .settings
            .ok_or_else(|| EncodeError::Unsupported("the session is not configured".to_owned()))?;
        let output = Arc::clone(&self.output);
        let encoder = (self.open)(settings, Box::new(move |outcome| output.complete(outcome)))?;
        let name = encoder.name().to_owned();
        tracing::info!(encoder = name, ?settings, "encoder opened");
        self.encoder = Some(encoder);
        Ok(name)
    }

    /// Closes the encoder before another is opened: hardware has few sessions. Closing joins the encoder's
    /// threads.
    fn close(&mut self) {
        self.encoder = None;
        self.output.clear();
    }

    /// Whether the encoder may be given a frame now.
    pub(super) fn is_ready(&self) -> bool {
        self.encoder.is_some() && self.output.has_space()
    }

    /// Time until [`SessionEncoder::replace_if_stalled`] must be called; `None` if no frame is in flight.
    pub(super) fn time_to_stall(&self) -> Option<Duration> {
        let age = self.output.oldest_age()?;
        Some(STALL_TIMEOUT.saturating_sub(age) + Duration::from_millis(1))
    }

    /// Restarts the deadlines of frames in flight: for time in which the process did not run.
    pub(super) fn extend_deadlines(&self) {
        self.output.extend_deadlines();
    }

    /// Replaces a stalled encoder. Returns an error message if that failed.
    pub(super) fn replace_if_stalled(&mut self) -> Option<String> {
        let age = self.output.oldest_age()?;
        if self.encoder.is_none() || age <= STALL_TIMEOUT {
            return None;
        }
        self.replace(&EncodeError::Broken(format!("it returned no access unit for {age:?}"))).err()
    }

    /// Submits a frame; if the encoder fails, replaces it and submits the frame again.
    pub(super) fn encode(&mut self, frame: &Frame, idr: bool, repeat: bool) -> Result<(), Failure> {
        match self.submit(frame, idr, repeat) {
            Ok(()) => Ok(()),
            Err(EncodeError::BadPicture(reason)) => {
                tracing::debug!(seq = frame.seq, reason, "frame dropped: encoder refused it");
                Err(Failure::FrameRefused)
            }
            Err(error) => {
                self.replace(&error).map_err(Failure::NoEncoder)?;
                self.submit(frame, true, repeat).map_err(|error| Failure::NoEncoder(self.give_up(&error)))
            }
        }
    }

    fn submit(&mut self, frame: &Frame, idr: bool, repeat: bool) -> Result<(), EncodeError> {
        let Some(encoder) = &mut self.encoder else {
            return Err(EncodeError::Broken("no encoder is open".to_owned()));
        };
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        let pts_us = (self.started.elapsed().as_micros() as u64).max(self.last_pts_us + 1);
        self.last_pts_us = pts_us;
        let queue_us = if repeat { 0 } else { monotonic_ns().saturating_sub(frame.available_ns) / 1000 };
        let in_flight = InFlightFrame { seq: frame.seq, capture_ns: frame.capture_ns, repeat, queue_us };
        if !self.output.begin(ticket, in_flight) {
            return Err(EncodeError::BadPicture("too many frames are in flight"));
        }
        encoder.submit(&frame.picture, ticket, pts_us, idr).inspect_err(|_| self.output.cancel(ticket))
    }

    fn replace(&mut self, error: &EncodeError) -> Result<(), String> {
        self.meter.add(Count::EncoderFailure, 1);
        if self.replaced_at.is_some_and(|at| at.elapsed() < REPLACEMENT_INTERVAL) {
            return Err(self.give_up(error));
        }
        tracing::warn!(%error, "encoder failed; replacing it");
        self.replaced_at = Some(Instant::now());
        self.open().map(drop).map_err(|error| self.give_up(&error))
    }

    fn give_up(&mut self, error: &EncodeError) -> String {
        tracing::error!(%error, "encoder failed again; session has no encoder until it is configured");
        self.close();
        format!(
            "{error}; configure the session again, or choose another encoder with --encoder (see `host-agent doctor`)"
        )
    }
}

#[cfg(test)]
mod tests;
