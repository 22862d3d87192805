//! Pictures under way in an encoder: what the access unit that comes out needs to be told.
//!
//! The encoder calls [`Flight::landed`] on a thread of its own choice, with the ticket it was given.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use encode::{EncodeError, Output};
use protocol::stream::{AccessUnit, MAX_ACCESS_UNIT};

use crate::meter::{Count, Meter, Time};
use crate::outbox::Outbox;
use crate::waker::Waker;

/// A picture that an encoder has.
#[derive(Debug)]
pub(super) struct Passenger {
    pub(super) ticket: u64,
    pub(super) seq: u64,
    pub(super) capture_ns: u64,
    pub(super) repeat: bool,
    pub(super) queue_us: u64,
    pub(super) since: Instant,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Flight {
    passengers: Mutex<VecDeque<Passenger>>,
    outbox: Arc<Outbox>,
    meter: Meter,
    waker: Waker,
}

impl Flight {
    pub(super) fn new(outbox: Arc<Outbox>, meter: Meter, waker: Waker) -> Self {
        Self { passengers: Mutex::default(), outbox, meter, waker }
    }

    /// No code of others runs under the lock, so a poisoned one still holds a whole queue.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Passenger>> {
        self.passengers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A picture is about to be given to the encoder.
    pub(super) fn board(&self, passenger: Passenger) {
        self.lock().push_back(passenger);
    }

    /// The encoder refused it after all.
    pub(super) fn unboard(&self, ticket: u64) {
        self.lock().retain(|passenger| passenger.ticket != ticket);
    }

    /// Pictures under way, and how long the oldest has been.
    pub(super) fn under_way(&self) -> (usize, Duration) {
        let passengers = self.lock();
        (passengers.len(), passengers.front().map_or(Duration::ZERO, |oldest| oldest.since.elapsed()))
    }

    /// From now on as if they had boarded just now: time passed in which nobody ran.
    pub(super) fn pardon(&self) {
        let now = Instant::now();
        for passenger in self.lock().iter_mut() {
            passenger.since = now;
        }
    }

    /// Forgets them all: their encoder is gone.
    pub(super) fn clear(&self) {
        for passenger in self.lock().drain(..) {
            self.meter.add(Count::Dropped, 1);
            self.outbox.push_dropped(passenger.seq);
        }
    }

    /// What the encoder made of a picture.
    pub(super) fn landed(&self, outcome: Result<Output, (u64, EncodeError)>) {
        let out = Instant::now();
        let ticket = match &outcome {
            Ok(output) => output.ticket,
            Err((ticket, _)) => *ticket,
        };
        let passenger = {
            let mut passengers = self.lock();
            let at = passengers.iter().position(|passenger| passenger.ticket == ticket);
            at.and_then(|at| passengers.remove(at))
        };
        let Some(passenger) = passenger else {
            tracing::warn!(ticket, "an encoder gave an access unit that nobody waits for");
            return;
        };
        match outcome {
            Ok(output) => self.hand_on(&passenger, output, out),
            Err((_, error)) => {
                tracing::debug!(seq = passenger.seq, %error, "a picture failed");
                self.meter.add(Count::Dropped, 1);
                self.outbox.push_dropped(passenger.seq);
            }
        }
        self.waker.wake();
    }

    fn hand_on(&self, passenger: &Passenger, output: Output, out: Instant) {
        let encode_us = out.duration_since(passenger.since).as_micros() as u64;
        self.meter.record(Time::Encode, encode_us);
        if !passenger.repeat {
            self.meter.record(Time::Queue, passenger.queue_us);
        }
        self.meter.add(if passenger.repeat { Count::Repeated } else { Count::Encoded }, 1);
        if output.idr {
            self.meter.add(Count::Idr, 1);
        }
        if output.data.len() > MAX_ACCESS_UNIT as usize - 64 {
            tracing::warn!(bytes = output.data.len(), "an access unit is too large to be sent");
            self.outbox.mark_lost();
            return;
        }
        let unit = AccessUnit {
            seq: passenger.seq,
            capture_ns: passenger.capture_ns,
            idr: output.idr,
            repeat: passenger.repeat,
            queue_us: u32::try_from(passenger.queue_us).unwrap_or(u32::MAX),
            encode_us: u32::try_from(encode_us).unwrap_or(u32::MAX),
            data: output.data,
        };
        self.outbox.push_unit(unit, out);
    }
}

#[cfg(test)]
impl Flight {
    /// Makes everything under way older.
    pub(super) fn age(&self, by: Duration) {
        for passenger in self.lock().iter_mut() {
            passenger.since = passenger.since.checked_sub(by).unwrap_or(passenger.since);
        }
    }
}
