//! Completion of the one picture in flight, between the thread that called the encoder and the
//! pipeline's.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::encoder::{Output, Sink};
use crate::in_flight::{Full, InFlight};

/// The picture in flight, and the sink for its access unit.
pub(super) struct Completion {
    state: Mutex<State>,
    changed: Condvar,
    sink: Sink,
}

struct State {
    in_flight: InFlight<()>,
    /// The last picture's access unit was given to the sink; true if it is an IDR.
    completed: Option<bool>,
    /// First error of the pipeline, which makes it unusable.
    failure: Option<String>,
}

impl Completion {
    pub(super) fn new(sink: Sink) -> Self {
        let state = State { in_flight: InFlight::new(1), completed: None, failure: None };
        Self { state: Mutex::new(state), changed: Condvar::new(), sink }
    }

    /// A picture is about to be pushed.
    pub(super) fn begin(&self, ticket: u64) {
        let mut state = self.state.lock();
        state.completed = None;
        if let Err(Full(())) = state.in_flight.begin(ticket, (), Instant::now()) {
            state.failure.get_or_insert_with(|| "the previous picture has not completed".to_owned());
        }
    }

    /// The pipeline produced an access unit; called on its thread.
    pub(super) fn complete(&self, output: impl FnOnce(u64) -> Output) {
        let Some(entry) = self.state.lock().in_flight.complete_oldest() else {
            return self.fail("an access unit without a picture".to_owned());
        };
        let output = output(entry.ticket);
        let idr = output.idr;
        (self.sink)(Ok(output));
        self.state.lock().completed = Some(idr);
        self.changed.notify_all();
    }

    /// The pipeline failed. Later errors are consequences of the first, so only that is kept.
    pub(super) fn fail(&self, reason: String) {
        self.state.lock().failure.get_or_insert(reason);
        self.changed.notify_all();
    }

    /// The pipeline's error, if it failed.
    pub(super) fn failure(&self) -> Option<String> {
        self.state.lock().failure.clone()
    }

    /// Waits for the access unit; returns true if it is an IDR.
    pub(super) fn wait(&self, timeout: Duration) -> Result<bool, String> {
        let end = Instant::now() + timeout;
        let mut state = self.state.lock();
        loop {
            if let Some(idr) = state.completed.take() {
                return Ok(idr);
            }
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if self.changed.wait_until(&mut state, end).timed_out() && state.completed.is_none() {
                let failure = format!("no access unit within {timeout:?}");
                return Err(state.failure.get_or_insert(failure).clone());
            }
        }
    }
}
