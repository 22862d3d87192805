//! Bounded queue of one viewer.
//!
//! ```text
//!            full, delta                  IDR
//! following ─────────────▶ waiting ───────────▶ following
//!     ▲                     │   ▲       (queued units are discarded)
//!     └── starts with GOP   └───┘ delta: lost
//! ```
//! A queue is full by count, by size, or when its oldest unit exceeds the maximum age: a viewer that receives all units,
//! but late, would otherwise stay late.
//!
//! The cached GOP that a viewer starts with does not count towards these limits; the cache has its own. A viewer that
//! reads nothing for the stall timeout while its queue is full is disconnected.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Unit;

/// Limits of a queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) units: usize,
    pub(super) bytes: usize,
    pub(super) age: Duration,
    pub(super) stall_timeout: Duration,
}

/// Result of [`Queue::offer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Offered {
    /// Number of units that this viewer will not receive.
    pub(super) lost: u64,
    /// True if the viewer cannot continue without an IDR.
    pub(super) needs_idr: bool,
    /// True if this call closed the queue of a stalled viewer.
    pub(super) stalled: bool,
}

#[derive(Debug)]
pub(super) struct Queue {
    limits: Limits,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    units: VecDeque<Unit>,
    live_units: usize,
    live_bytes: usize,
    waiting: bool,
    full_since: Option<u64>,
    closed: bool,
}

impl Queue {
    /// A queue that starts with `gop`; if that is empty, it waits for an IDR.
    pub(super) fn new(limits: Limits, gop: &[Unit]) -> Self {
        let units: VecDeque<Unit> = gop.iter().map(|unit| Unit { backlog: true, ..unit.clone() }).collect();
        let waiting = units.is_empty();
        let state = State { units, live_units: 0, live_bytes: 0, waiting, full_since: None, closed: false };
        Self { limits, state: Mutex::new(state), changed: Notify::new() }
    }

    pub(super) fn offer(&self, unit: &Unit, now_ns: u64) -> Offered {
        let mut state = self.state.lock();
        if state.closed {
            return Offered::default();
        }
        let size = unit.au.data.len();
        let full = state.live_units >= self.limits.units
            || state.live_bytes + size > self.limits.bytes
            || u128::from(state.age_ns(now_ns)) > self.limits.age.as_nanos();
        let mut lost = 0;
        let mut discontinuity = unit.discontinuity;
        if full || state.waiting {
            if !unit.au.idr {
                if full {
                    let since = *state.full_since.get_or_insert(now_ns);
                    if u128::from(now_ns.saturating_sub(since)) >= self.limits.stall_timeout.as_nanos() {
                        state.close();
                        self.changed.notify_one();
                        return Offered { lost: 1, needs_idr: false, stalled: true };
                    }
                }
                state.waiting = true;
                return Offered { lost: 1, needs_idr: true, stalled: false };
            }
            lost = state.units.len() as u64;
            discontinuity = true;
            state.discard();
        }
        state.waiting = false;
        state.live_units += 1;
        state.live_bytes += size;
        state.units.push_back(Unit { discontinuity, ..unit.clone() });
        self.changed.notify_one();
        Offered { lost, ..Offered::default() }
    }

    pub(super) fn close(&self) {
        self.state.lock().close();
        self.changed.notify_one();
    }

    /// The next unit; `None` once the queue is closed. Cancel safe.
    pub(super) async fn take(&self) -> Option<Unit> {
        loop {
            {
                let mut state = self.state.lock();
                if let Some(unit) = state.take() {
                    return Some(unit);
                }
                if state.closed {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }
}

impl State {
    fn take(&mut self) -> Option<Unit> {
        let unit = self.units.pop_front()?;
        self.full_since = None;
        if !unit.backlog {
            self.live_units -= 1;
            self.live_bytes -= unit.au.data.len();
        }
        Some(unit)
    }

    /// Age of the oldest live unit.
    fn age_ns(&self, now_ns: u64) -> u64 {
        let oldest = self.units.iter().find(|unit| !unit.backlog);
        oldest.map_or(0, |unit| now_ns.saturating_sub(unit.published_ns))
    }

    fn discard(&mut self) {
        self.units.clear();
        self.live_units = 0;
        self.live_bytes = 0;
    }

    fn close(&mut self) {
        self.discard();
        self.closed = true;
    }
}
