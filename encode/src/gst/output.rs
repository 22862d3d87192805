//! Where a submitted picture waits for its access unit: between the thread that calls the encoder and
//! the pipeline's. Knows tickets and failures, nothing of GStreamer.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::encoder::{Output, Sink};

/// See the module.
pub(super) struct Pending {
    state: Mutex<State>,
    changed: Condvar,
    sink: Sink,
}

#[derive(Default)]
struct State {
    /// The picture that is under way.
    ticket: Option<u64>,
    /// Its access unit came and was handed on; says whether it was an IDR.
    done: Option<bool>,
    /// The pipeline is broken for good.
    failure: Option<String>,
}

impl Pending {
    pub(super) fn new(sink: Sink) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), sink }
    }

    /// No code of others runs under the lock, so a poisoned one still holds a whole state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A picture is about to be pushed.
    pub(super) fn begin(&self, ticket: u64) {
        let mut state = self.lock();
        state.ticket = Some(ticket);
        state.done = None;
    }

    /// Its access unit is there; called on the pipeline's thread.
    pub(super) fn complete(&self, output: impl FnOnce(u64) -> Output) {
        let Some(ticket) = self.lock().ticket.take() else {
            return self.fail("it gave an access unit that nobody asked for".to_owned());
        };
        let output = output(ticket);
        let idr = output.idr;
        (self.sink)(Ok(output));
        self.lock().done = Some(idr);
        self.changed.notify_all();
    }

    /// The pipeline broke. The first reason is kept: what follows is its consequence.
    pub(super) fn fail(&self, reason: String) {
        self.lock().failure.get_or_insert(reason);
        self.changed.notify_all();
    }

    /// Why it broke, if it did.
    pub(super) fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    /// Waits for the access unit; says whether it is an IDR.
    pub(super) fn wait(&self, patience: Duration) -> Result<bool, String> {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        loop {
            if let Some(idr) = state.done.take() {
                return Ok(idr);
            }
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let failure = format!("it kept a picture for {patience:?}");
                state.failure = Some(failure.clone());
                return Err(failure);
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
