//! One viewer's queue. The hub puts in and never waits; the viewer's task takes out.
//!
//! ```text
//!            full, no IDR                 IDR
//! following ───────────────▶ waiting ───────────▶ following
//!     ▲                        │  ▲                  (what was queued is thrown away: it is old)
//!     └── subscribe with GOP   └──┘ delta: lost
//! ```
//! Full is a queue by count, by bytes, or because its oldest unit has waited for too long: a viewer that
//! keeps up but is late would stay late for ever.
//!
//! A late joiner's GOP is put in at the start and doesn't count against the live bound: it has its own.
//! A viewer that takes nothing for `stall` while its queue is full is given up.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::Unit;

/// Bounds of a queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) units: usize,
    pub(super) bytes: usize,
    pub(super) age: Duration,
    pub(super) stall: Duration,
}

/// What became of an offered unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Offered {
    /// Units that this viewer will not get.
    pub(super) lost: u64,
    /// The viewer can't go on without a keyframe.
    pub(super) needs_idr: bool,
    /// It was given up just now.
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
    stuck_since: Option<u64>,
    closed: bool,
}

impl Queue {
    /// A queue that begins with `gop`; empty, it waits for an IDR.
    pub(super) fn new(limits: Limits, gop: &[Unit]) -> Self {
        let units: VecDeque<Unit> = gop.iter().map(|unit| Unit { backlog: true, ..unit.clone() }).collect();
        let waiting = units.is_empty();
        let state = State { units, live_units: 0, live_bytes: 0, waiting, stuck_since: None, closed: false };
        Self { limits, state: Mutex::new(state), changed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn offer(&self, unit: &Unit, now_ns: u64) -> Offered {
        let mut state = self.state();
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
                    let since = *state.stuck_since.get_or_insert(now_ns);
                    if u128::from(now_ns.saturating_sub(since)) >= self.limits.stall.as_nanos() {
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
            state.drop_queued();
        }
        state.waiting = false;
        state.live_units += 1;
        state.live_bytes += size;
        state.units.push_back(Unit { discontinuity, ..unit.clone() });
        self.changed.notify_one();
        Offered { lost, ..Offered::default() }
    }

    pub(super) fn close(&self) {
        self.state().close();
        self.changed.notify_one();
    }

    /// The next unit; `None` when the queue was closed. Cancelling loses nothing.
    pub(super) async fn take(&self) -> Option<Unit> {
        loop {
            {
                let mut state = self.state();
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
        self.stuck_since = None;
        if !unit.backlog {
            self.live_units -= 1;
            self.live_bytes -= unit.au.data.len();
        }
        Some(unit)
    }

    /// How long the oldest live unit has waited.
    fn age_ns(&self, now_ns: u64) -> u64 {
        let oldest = self.units.iter().find(|unit| !unit.backlog);
        oldest.map_or(0, |unit| now_ns.saturating_sub(unit.published_ns))
    }

    fn drop_queued(&mut self) {
        self.units.clear();
        self.live_units = 0;
        self.live_bytes = 0;
    }

    fn close(&mut self) {
        self.drop_queued();
        self.closed = true;
    }
}
