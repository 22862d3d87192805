//! What is under way: between the thread that submits and those on which VideoToolbox delivers.
//!
//! Each picture has one outcome, and outcomes go to the sink in the order of the pictures, whatever the order and
//! number of the callbacks. What belongs to an earlier session, or comes twice, or after the end, is counted and
//! forgotten. After one that failed, and that others may refer to, those others fail, too, until there is an IDR: what
//! the sink gets decodes as it is. The sink is called under no lock but [`Flow::delivering`], which keeps the order.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use bytes::Bytes;
use encode::{Codec, EncodeError, Output, Sink, is_idr};

use crate::api::{Delivery, Sample, Status};
use crate::avcc;
use crate::sync::{Arc, Condvar, Mutex, MutexGuard};

/// Pictures under way at once; more wait. VideoToolbox itself queues without end.
const UNDER_WAY: usize = 8;
/// Failures in a row that end the encoder.
pub const MAX_FAILURES: u32 = 10;

/// See the module.
pub struct Flow {
    codec: Codec,
    state: Mutex<State>,
    changed: Condvar,
    delivering: Mutex<()>,
}

#[derive(Default)]
struct State {
    /// Of the session whose deliveries count; earlier ones are void.
    generation: u64,
    waiting: VecDeque<Waiting>,
    /// The session's last.
    parameter_sets: Vec<Bytes>,
    /// The next picture must be an IDR.
    wants_idr: bool,
    /// What comes next in order refers to nothing that the sink got: a picture failed, or a session began.
    broken: bool,
    lost: Option<Status>,
    /// Failures since the last access unit.
    failures: u32,
    strays: u64,
    /// None after the end.
    sink: Option<Arc<Sink>>,
}

struct Waiting {
    number: u64,
    ticket: u64,
    idr: bool,
    outcome: Option<Result<Output, EncodeError>>,
    /// Nobody refers to it, for it was never encoded.
    left_out: bool,
}

impl std::fmt::Debug for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flow").field("codec", &self.codec).finish_non_exhaustive()
    }
}

impl Flow {
    /// Nothing is under way; there is no session.
    pub fn new(codec: Codec, sink: Sink) -> Self {
        let state = State { sink: Some(Arc::new(sink)), ..State::default() };
        Self { codec, state: Mutex::new(state), changed: Condvar::new(), delivering: Mutex::new(()) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new session: what is still under way in the old one has failed. Gives the new one's generation.
    pub fn begin_session(&self) -> u64 {
        let mut state = self.lock();
        state.generation += 1;
        (state.broken, state.wants_idr, state.lost) = (true, true, None);
        state.parameter_sets.clear();
        state.fail_all(&EncodeError::Broken("the session ended before its access unit came".to_owned()));
        let generation = state.generation;
        drop(state);
        self.drain();
        generation
    }

    /// Why the session is of no more use, if it is.
    pub fn lost(&self) -> Option<Status> {
        self.lock().lost
    }

    /// The session is of no more use.
    pub fn lose(&self, status: Status) {
        let mut state = self.lock();
        state.failures += 1;
        state.lost.get_or_insert(status);
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.lock().failures
    }

    /// Deliveries that nobody waited for.
    pub fn strays(&self) -> u64 {
        self.lock().strays
    }

    /// Whether the next picture must be an IDR, whatever the caller wants.
    pub fn wants_idr(&self) -> bool {
        self.lock().wants_idr
    }

    /// A picture is about to be submitted; waits for room.
    pub fn board(&self, number: u64, ticket: u64, idr: bool, patience: Duration) -> Result<(), EncodeError> {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        while state.waiting.len() >= UNDER_WAY {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(EncodeError::Broken(format!("it kept {UNDER_WAY} pictures for {patience:?}")));
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if idr {
            state.wants_idr = false;
        }
        state.waiting.push_back(Waiting { number, ticket, idr, outcome: None, left_out: false });
        Ok(())
    }

    /// The picture was not taken after all.
    pub fn unboard(&self, number: u64) {
        let mut state = self.lock();
        if let Some(at) = state.waiting.iter().position(|waiting| waiting.number == number)
            && let Some(waiting) = state.waiting.remove(at)
        {
            state.wants_idr |= waiting.idr;
        }
        drop(state);
        self.drain();
    }

    /// What VideoToolbox says; see [`Deliver`](crate::api::Deliver).
    pub fn deliver(&self, generation: u64, number: u64, delivery: Delivery) {
        {
            let mut state = self.lock();
            let current = state.generation == generation && state.sink.is_some();
            let at = state
                .waiting
                .iter()
                .position(|waiting| waiting.number == number && waiting.outcome.is_none())
                .filter(|_| current);
            let Some(at) = at else {
                state.strays += 1;
                return;
            };
            let (ticket, idr) =
                state.waiting.get(at).map_or((0, false), |waiting| (waiting.ticket, waiting.idr));
            let left_out = matches!(delivery, Delivery::Dropped);
            let outcome = state.judge(self.codec, ticket, idr, delivery);
            if let Err(error) = &outcome {
                tracing::debug!(number, %error, "a picture failed");
                state.failures += 1;
            }
            if let Some(waiting) = state.waiting.get_mut(at) {
                (waiting.outcome, waiting.left_out) = (Some(outcome), left_out);
            }
        }
        self.drain();
    }

    /// Hands on what is complete, in order.
    fn drain(&self) {
        let _order = self.delivering.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut state = self.lock();
            if state.waiting.front().is_none_or(|first| first.outcome.is_none()) {
                return;
            }
            let (Some(first), Some(sink)) = (state.waiting.pop_front(), state.sink.clone()) else { return };
            let outcome = first.outcome.map(|outcome| state.in_order(outcome, first.left_out));
            drop(state);
            self.changed.notify_all();
            if let Some(outcome) = outcome {
                sink(outcome.map_err(|error| (first.ticket, error)));
            }
        }
    }

    /// The end: the sink is dropped, and called no more once this returns.
    pub fn close(&self) {
        let sink = self.lock().sink.take();
        // Whoever is calling it now holds this.
        let _order = self.delivering.lock().unwrap_or_else(PoisonError::into_inner);
        drop(sink);
    }
}

impl State {
    fn fail_all(&mut self, error: &EncodeError) {
        for waiting in &mut self.waiting {
            waiting.outcome.get_or_insert_with(|| Err(error.clone()));
        }
    }

    /// What an outcome means after those before it.
    fn in_order(
        &mut self,
        outcome: Result<Output, EncodeError>,
        left_out: bool,
    ) -> Result<Output, EncodeError> {
        match &outcome {
            Ok(output) if self.broken && !output.idr => {
                // Unless the IDR is under way already.
                if !self.waiting.iter().any(|waiting| waiting.idr) {
                    self.wants_idr = true;
                    self.failures += 1;
                }
                return Err(EncodeError::Broken("it refers to a picture that did not come".to_owned()));
            }
            Ok(_) => (self.broken, self.failures) = (false, 0),
            Err(_) => self.broken |= !left_out,
        }
        outcome
    }

    /// What a delivery means for its picture and for the next ones.
    fn judge(
        &mut self,
        codec: Codec,
        ticket: u64,
        idr: bool,
        delivery: Delivery,
    ) -> Result<Output, EncodeError> {
        let broken = |text: &str| Err(EncodeError::Broken(text.to_owned()));
        match delivery {
            Delivery::Sample(sample) => match self.access_unit(codec, ticket, sample) {
                Err(error) => {
                    // What comes next may refer to it.
                    self.wants_idr = true;
                    Err(error)
                }
                Ok(output) => {
                    // It was asked for and did not come: asked for again.
                    self.wants_idr |= idr && !output.idr;
                    Ok(output)
                }
            },
            Delivery::Dropped => {
                // Nothing refers to a picture that was never encoded; a keyframe that was due still is.
                self.wants_idr |= idr;
                broken("the encoder left a picture out")
            }
            Delivery::Failed(status) => {
                self.wants_idr = true;
                if status.ends_the_session() {
                    self.lost.get_or_insert(status);
                }
                Err(EncodeError::Broken(status.to_string()))
            }
        }
    }

    fn access_unit(&mut self, codec: Codec, ticket: u64, sample: Sample) -> Result<Output, EncodeError> {
        let broken = |text: &str| EncodeError::Broken(text.to_owned());
        if sample.keyframe && !sample.parameter_sets.is_empty() {
            self.parameter_sets = sample.parameter_sets;
        }
        if sample.keyframe && self.parameter_sets.is_empty() {
            return Err(broken("a keyframe came without parameter sets"));
        }
        let sets = if sample.keyframe { self.parameter_sets.as_slice() } else { &[] };
        let data = avcc::to_annex_b(sets, &sample.data, sample.length_bytes)
            .map_err(|malformed| broken(&format!("a malformed access unit: {}", malformed.0)))?;
        let begins = match codec {
            Codec::H264 => is_idr(&data),
            Codec::Hevc => avcc::is_irap(&data),
        };
        let idr = sample.keyframe && begins;
        Ok(Output { ticket, idr, data })
    }
}
