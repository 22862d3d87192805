//! Access units from an encoder to the outbox.
//!
//! The encoder calls [`EncoderOutput::complete`] on a thread of its own, with the ticket that it was given.

use std::sync::Arc;
use std::time::{Duration, Instant};

use encode::{EncodeError, InFlight, Output};
use frame_ring::wake::Waker;
use parking_lot::Mutex;
use protocol::stream::{AccessUnit, MAX_ACCESS_UNIT};

use crate::meter::{Count, Meter, Time};
use crate::outbox::Outbox;

/// Space for the fixed fields of an `AccessUnit` message, bytes.
const FIELDS_BYTES: usize = 64;

/// A frame that the encoder has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InFlightFrame {
    /// Number that the sidecar gave the frame.
    pub(super) seq: u64,
    /// Guest's clock, ns.
    pub(super) capture_ns: u64,
    /// Whether it was encoded before.
    pub(super) repeat: bool,
    /// Time from frame available to encoder called, µs; 0 for a repeat.
    pub(super) queue_us: u64,
}

/// Frames in flight, and the destination of their access units.
#[derive(Debug)]
pub(super) struct EncoderOutput {
    in_flight: Mutex<InFlight<InFlightFrame>>,
    outbox: Arc<Outbox>,
    meter: Meter,
    waker: Arc<Waker>,
}

impl EncoderOutput {
    /// An output for at most `capacity` frames in flight.
    pub(super) fn new(capacity: usize, outbox: Arc<Outbox>, meter: Meter, waker: Arc<Waker>) -> Self {
        Self { in_flight: Mutex::new(InFlight::new(capacity)), outbox, meter, waker }
    }

    /// Adds a frame before it is submitted. Returns false if too many are in flight.
    pub(super) fn begin(&self, ticket: u64, frame: InFlightFrame) -> bool {
        self.in_flight.lock().begin(ticket, frame, Instant::now()).is_ok()
    }

    /// Removes a frame that the encoder refused.
    pub(super) fn cancel(&self, ticket: u64) {
        self.in_flight.lock().complete(ticket);
    }

    /// Whether another frame may be submitted.
    pub(super) fn has_space(&self) -> bool {
        !self.in_flight.lock().is_full()
    }

    /// Age of the oldest frame in flight.
    pub(super) fn oldest_age(&self) -> Option<Duration> {
        self.in_flight.lock().oldest_age(Instant::now())
    }

    /// Restarts the deadlines of all frames: for time in which the process did not run.
    pub(super) fn extend_deadlines(&self) {
        self.in_flight.lock().extend(Instant::now());
    }

    /// Drops all frames of an encoder that was closed.
    pub(super) fn clear(&self) {
        for entry in self.in_flight.lock().clear() {
            self.drop_frame(entry.value.seq);
        }
    }

    fn drop_frame(&self, seq: u64) {
        self.meter.add(Count::Dropped, 1);
        self.outbox.push_dropped(seq);
    }

    /// Handles the result of a frame.
    pub(super) fn complete(&self, outcome: Result<Output, (u64, EncodeError)>) {
        let encoded_at = Instant::now();
        let ticket = match &outcome {
            Ok(output) => output.ticket,
            Err((ticket, _)) => *ticket,
        };
        let Some(entry) = self.in_flight.lock().complete(ticket) else {
            tracing::warn!(ticket, "access unit for an unknown ticket");
            return;
        };
        match outcome {
            Ok(output) => {
                let encode_us = encoded_at.duration_since(entry.since).as_micros() as u64;
                self.send(&entry.value, encode_us, output, encoded_at);
            }
            Err((_, error)) => {
                tracing::debug!(seq = entry.value.seq, %error, "frame dropped: encoder failed");
                self.drop_frame(entry.value.seq);
            }
        }
        self.waker.wake();
    }

    fn send(&self, frame: &InFlightFrame, encode_us: u64, output: Output, encoded_at: Instant) {
        self.meter.record(Time::Encode, encode_us);
        if !frame.repeat {
            self.meter.record(Time::Queue, frame.queue_us);
        }
        self.meter.add(if frame.repeat { Count::Repeated } else { Count::Encoded }, 1);
        if output.idr {
            self.meter.add(Count::Idr, 1);
        }
        if output.data.len() > MAX_ACCESS_UNIT as usize - FIELDS_BYTES {
            tracing::warn!(bytes = output.data.len(), limit = MAX_ACCESS_UNIT, "access unit too large");
            self.outbox.mark_lost();
            return;
        }
        let unit = AccessUnit {
            seq: frame.seq,
            capture_ns: frame.capture_ns,
            idr: output.idr,
            repeat: frame.repeat,
            queue_us: u32::try_from(frame.queue_us).unwrap_or(u32::MAX),
            encode_us: u32::try_from(encode_us).unwrap_or(u32::MAX),
            data: output.data,
        };
        self.outbox.push_unit(unit, encoded_at);
    }
}

#[cfg(test)]
impl EncoderOutput {
    /// Makes all frames in flight older.
    pub(super) fn age(&self, by: Duration) {
        for entry in self.in_flight.lock().iter_mut() {
            entry.since = entry.since.checked_sub(by).unwrap_or(entry.since);
        }
    }
}
