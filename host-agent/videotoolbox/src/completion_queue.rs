//! Pictures in flight, between the thread that submits them and the threads on which VideoToolbox calls
//! back.
//!
//! Every picture has exactly one outcome, and outcomes are given to the sink in the order of submission,
//! whatever the order and number of callbacks. A callback of an earlier session, a second one for the same
//! picture and one after [`CompletionQueue::close`] are counted and ignored. If a picture fails, later ones
//! may refer to it, so they fail too until the next IDR: the sink's access units always decode.
//!
//! The sink is called without the state's lock; the lock [`CompletionQueue::sink_order`] keeps the order.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use bytes::Bytes;
use encode::in_flight::InFlight;
use encode::{Codec, EncodeError, Output, Sink, is_idr};

use crate::api::{Delivery, Sample, Status};
use crate::avcc;
use crate::sync::{Arc, Condvar, Mutex, MutexGuard};

/// Largest number of pictures in flight; VideoToolbox's own queue is unbounded.
const MAX_IN_FLIGHT: usize = 8;
/// Number of consecutive failures after which the encoder gives up.
pub const MAX_FAILURES: u32 = 10;

/// The pictures in flight, and the sink of their outcomes.
pub struct CompletionQueue {
    codec: Codec,
    state: Mutex<State>,
    /// Notified when a picture leaves the queue.
    changed: Condvar,
    /// Held while the sink is called.
    sink_order: Mutex<()>,
}

struct State {
    /// Counts sessions; deliveries of earlier ones are void.
    generation: u64,
    /// The pictures by their numbers in the session's callbacks.
    in_flight: InFlight<Picture>,
    /// Parameter sets of the session's last keyframe.
    parameter_sets: Vec<Bytes>,
    /// The next picture must be an IDR.
    needs_idr: bool,
    /// References are missing: a picture failed, or a session began. Only an IDR can follow.
    references_broken: bool,
    /// The session is unusable.
    lost: Option<Status>,
    /// Failures since the last access unit.
    failures: u32,
    unmatched: u64,
    /// `None` after the queue is closed.
    sink: Option<Arc<Sink>>,
}

struct Picture {
    /// The caller's ticket.
    ticket: u64,
    idr: bool,
    outcome: Option<Result<Output, EncodeError>>,
    /// The encoder skipped it, so no later picture refers to it.
    skipped: bool,
}

impl std::fmt::Debug for CompletionQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompletionQueue").field("codec", &self.codec).finish_non_exhaustive()
    }
}

fn broken(text: &str) -> EncodeError {
    EncodeError::Broken(text.to_owned())
}

impl CompletionQueue {
    /// An empty queue without a session.
    pub fn new(codec: Codec, sink: Sink) -> Self {
        let state = State {
            generation: 0,
            in_flight: InFlight::new(MAX_IN_FLIGHT),
            parameter_sets: Vec::new(),
            needs_idr: false,
            references_broken: false,
            lost: None,
            failures: 0,
            unmatched: 0,
            sink: Some(Arc::new(sink)),
        };
        Self { codec, state: Mutex::new(state), changed: Condvar::new(), sink_order: Mutex::new(()) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a session: pictures in flight in the previous one fail. Returns the generation for
    /// [`CompletionQueue::deliver`].
    pub fn begin_session(&self) -> u64 {
        let mut state = self.lock();
        state.generation += 1;
        (state.references_broken, state.needs_idr, state.lost) = (true, true, None);
        state.parameter_sets.clear();
        state.fail_all(&broken("the session ended before the access unit arrived"));
        let generation = state.generation;
        drop(state);
        self.complete_ready();
        generation
    }

    /// Why the session is unusable, if it is.
    pub fn lost(&self) -> Option<Status> {
        self.lock().lost
    }

    /// Marks the session as unusable.
    pub fn mark_lost(&self, status: Status) {
        let mut state = self.lock();
        state.failures += 1;
        state.lost.get_or_insert(status);
    }

    /// Number of consecutive failures.
    pub fn failures(&self) -> u32 {
        self.lock().failures
    }

    /// Number of deliveries that matched no picture in flight.
    pub fn unmatched(&self) -> u64 {
        self.lock().unmatched
    }

    /// True if the next picture must be an IDR, even if the caller does not request one.
    pub fn needs_idr(&self) -> bool {
        self.lock().needs_idr
    }

    /// Adds a picture that is about to be submitted; waits for room for at most `timeout`. `number` must be
    /// unique.
    ///
    /// # Errors
    /// [`EncodeError::Broken`] if there is no room in time.
    pub fn begin(&self, number: u64, ticket: u64, idr: bool, timeout: Duration) -> Result<(), EncodeError> {
        let end = Instant::now() + timeout;
        let mut state = self.lock();
        while state.in_flight.is_full() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let picture = Picture { ticket, idr, outcome: None, skipped: false };
        if state.in_flight.begin(number, picture, Instant::now()).is_err() {
            return Err(EncodeError::Broken(format!(
                "{MAX_IN_FLIGHT} pictures were in flight for {timeout:?}"
            )));
        }
        if idr {
            state.needs_idr = false;
        }
        Ok(())
    }

    /// Removes a picture that VideoToolbox refused.
    pub fn cancel(&self, number: u64) {
        let mut state = self.lock();
        if let Some(entry) = state.in_flight.complete(number) {
            state.needs_idr |= entry.value.idr;
        }
        drop(state);
        self.changed.notify_all();
        self.complete_ready();
    }

    /// Handles a callback for picture `number` of the session with this generation.
    pub fn deliver(&self, generation: u64, number: u64, delivery: Delivery) {
        {
            let mut guard = self.lock();
            let state = &mut *guard;
            let current = state.generation == generation && state.sink.is_some();
            let entry =
                state.in_flight.get_mut(number).filter(|entry| current && entry.value.outcome.is_none());
            let Some((ticket, idr)) = entry.map(|entry| (entry.value.ticket, entry.value.idr)) else {
                state.unmatched += 1;
                return;
            };
            let skipped = matches!(delivery, Delivery::Dropped);
            let outcome = state.outcome(self.codec, ticket, idr, delivery);
            if let Err(error) = &outcome {
                tracing::debug!(number, %error, "picture failed");
                state.failures += 1;
            }
            if let Some(entry) = state.in_flight.get_mut(number) {
                (entry.value.outcome, entry.value.skipped) = (Some(outcome), skipped);
            }
        }
        self.complete_ready();
    }

    /// Gives the outcomes at the front of the queue to the sink, in order.
    fn complete_ready(&self) {
        let _order = self.sink_order.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut state = self.lock();
            if state.in_flight.oldest().is_none_or(|first| first.value.outcome.is_none()) {
                return;
            }
            let (Some(first), Some(sink)) = (state.in_flight.complete_oldest(), state.sink.clone()) else {
                return;
            };
            let picture = first.value;
            let outcome = picture.outcome.map(|outcome| state.after_earlier(outcome, picture.skipped));
            drop(state);
            self.changed.notify_all();
            if let Some(outcome) = outcome {
                sink(outcome.map_err(|error| (picture.ticket, error)));
            }
        }
    }

    /// Drops the sink. It is not called after this returns.
    pub fn close(&self) {
        let sink = self.lock().sink.take();
        // A thread that is calling the sink holds this lock.
        let _order = self.sink_order.lock().unwrap_or_else(PoisonError::into_inner);
        drop(sink);
    }
}

impl State {
    fn fail_all(&mut self, error: &EncodeError) {
        for entry in self.in_flight.iter_mut() {
            entry.value.outcome.get_or_insert_with(|| Err(error.clone()));
        }
    }

    /// The final outcome of a picture, given those of all earlier ones.
    fn after_earlier(
        &mut self,
        outcome: Result<Output, EncodeError>,
        skipped: bool,
    ) -> Result<Output, EncodeError> {
        match &outcome {
            Ok(output) if self.references_broken && !output.idr => {
                // An IDR that is in flight need not be requested again.
                if !self.in_flight.iter().any(|entry| entry.value.idr) {
                    self.needs_idr = true;
                    self.failures += 1;
                }
                return Err(broken("the picture may refer to one that failed"));
            }
            Ok(_) => (self.references_broken, self.failures) = (false, 0),
            Err(_) => self.references_broken |= !skipped,
        }
        outcome
    }

    /// The outcome of a delivery, and its effect on later pictures.
    fn outcome(
        &mut self,
        codec: Codec,
        ticket: u64,
        idr: bool,
        delivery: Delivery,
    ) -> Result<Output, EncodeError> {
        match delivery {
            Delivery::Sample(sample) => match self.access_unit(codec, ticket, sample) {
                Err(error) => {
                    // Later pictures may refer to it.
                    self.needs_idr = true;
                    Err(error)
                }
                Ok(output) => {
                    // An IDR was requested and not made: it is requested again.
                    self.needs_idr |= idr && !output.idr;
                    Ok(output)
                }
            },
            Delivery::Dropped => {
                // No picture refers to a skipped one, but a requested IDR is still due.
                self.needs_idr |= idr;
                Err(broken("the encoder skipped the picture"))
            }
            Delivery::Failed(status) => {
                self.needs_idr = true;
                if status.ends_the_session() {
                    self.lost.get_or_insert(status);
                }
                Err(EncodeError::Broken(status.to_string()))
            }
        }
    }

    fn access_unit(&mut self, codec: Codec, ticket: u64, sample: Sample) -> Result<Output, EncodeError> {
        if sample.keyframe && !sample.parameter_sets.is_empty() {
            self.parameter_sets = sample.parameter_sets;
        }
        if sample.keyframe && self.parameter_sets.is_empty() {
            return Err(broken("a keyframe without parameter sets"));
        }
        let sets = if sample.keyframe { self.parameter_sets.as_slice() } else { &[] };
        let data = avcc::to_annex_b(sets, &sample.data, sample.length_bytes)
            .map_err(|malformed| broken(&format!("malformed access unit: {}", malformed.0)))?;
        let entry_point = match codec {
            Codec::H264 => is_idr(&data),
            Codec::Hevc => avcc::is_irap(&data),
        };
        let idr = sample.keyframe && entry_point;
        Ok(Output { ticket, idr, data })
    }
}
