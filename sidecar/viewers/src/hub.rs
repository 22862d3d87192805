//! Keeps the current GOP and fans access units out.
//!
//! One publisher, many subscriptions. Publishing never waits: every viewer has a bounded queue, and a
//! viewer that is too slow loses units until the next IDR, which is asked for on its behalf; the others
//! don't notice. The hub knows access units and who wants them. It knows no sockets, no encoders and no
//! rungs: what it is told about those in [`StreamInfo`] it only repeats.

mod counters;
mod gop;
mod keyframes;
mod queue;
mod subscription;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use encode::annexb::{self, nal_type};
use protocol::stream::AccessUnit;
use serde::Serialize;
use tokio::sync::watch;

pub use self::counters::{Counters, Protocol, Refusal};
pub use self::keyframes::KeyframeRequests;
pub use self::subscription::{Event, Reporter, Subscription};

use self::gop::{Gop, Kept};
use self::keyframes::Keyframes;
use self::queue::{Limits, Queue};
use encode::clock::clock_ns;

/// Bounds of a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HubOptions {
    /// Most units of a GOP that are kept for late joiners.
    pub gop_units: usize,
    /// Most bytes of them.
    pub gop_bytes: usize,
    /// A joiner that gets more units than this also asks for a keyframe, to catch up soon.
    pub long_gop: usize,
    /// Most live units queued for one viewer.
    pub queue_units: usize,
    /// Most bytes of them.
    pub queue_bytes: usize,
    /// Longest time that a unit may be queued for a WebSocket viewer, who wants to see what is, not what
    /// was. Players and recordings may lag as far as the other bounds allow.
    pub queue_age: Duration,
    /// A viewer that takes nothing for so long, while its queue is full, is given up.
    pub stall: Duration,
    /// Shortest time between two requests for a keyframe.
    pub keyframe_interval: Duration,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self {
            gop_units: 600,
            gop_bytes: 32 << 20,
            long_gop: 60,
            queue_units: 120,
            queue_bytes: 16 << 20,
            queue_age: Duration::from_secs(1),
            stall: Duration::from_secs(10),
            keyframe_interval: Duration::from_millis(500),
        }
    }
}

/// What viewers are told about the stream; texts are for people.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct StreamInfo {
    /// The stream's name.
    pub name: String,
    /// The rung of the ladder in use, e.g. `ResourceId`.
    pub rung: String,
    /// Why not a better one; empty on the best.
    #[serde(rename = "reason")]
    pub rung_reason: String,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The encoder's name.
    pub encoder: String,
}

/// [`StreamInfo`] and what the hub knows itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Description {
    /// As it was set.
    #[serde(flatten)]
    pub info: StreamInfo,
    /// RFC 6381 name of the codec; empty before the first IDR.
    pub codec: String,
    /// Viewers connected.
    pub viewers: u64,
}

/// An access unit on its way to a viewer. Clones share the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The access unit.
    pub au: AccessUnit,
    /// When it was published, ns of `CLOCK_MONOTONIC`.
    pub published_ns: u64,
    /// It doesn't follow the unit before it; always an IDR.
    pub discontinuity: bool,
    /// Cached: it was made before this viewer came, and is there to be decoded, not to be looked at.
    pub backlog: bool,
}

/// What a viewer last said of itself. Unverified; for people.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct ViewerReport {
    /// Frames drawn per second.
    pub fps: f32,
    /// Median time from capture to drawn, ms.
    pub latency_ms: f32,
    /// Frames it left out.
    pub dropped: u64,
}

/// A live stream's viewers. Clones are the same hub.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: HubOptions,
    state: Mutex<State>,
    description: watch::Sender<Arc<Description>>,
    keyframes: Arc<Keyframes>,
    counters: Counters,
    last_unit_ns: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    gop: Gop,
    sps: Vec<u8>,
    /// The next IDR doesn't follow what was sent before.
    broken: bool,
    viewers: Vec<Viewer>,
    next_viewer: u64,
    closed: bool,
}

#[derive(Debug)]
struct Viewer {
    id: u64,
    queue: Arc<Queue>,
    report: Option<ViewerReport>,
}

impl Hub {
    /// An empty hub.
    pub fn new(options: HubOptions) -> Self {
        Self(Arc::new(Shared {
            options,
            state: Mutex::default(),
            description: watch::Sender::default(),
            keyframes: Arc::new(Keyframes::new(options.keyframe_interval)),
            counters: Counters::default(),
            last_unit_ns: AtomicU64::new(0),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a unit to every viewer; never waits.
    pub fn publish(&self, au: AccessUnit) {
        self.publish_at(au, clock_ns());
    }

    fn publish_at(&self, au: AccessUnit, now_ns: u64) {
        if au.data.is_empty() {
            return;
        }
        let shared = &*self.0;
        let counters = &shared.counters;
        Counters::add(&counters.units, 1);
        Counters::add(&counters.bytes, au.data.len() as u64);
        shared.last_unit_ns.store(now_ns, Ordering::Relaxed);

        let mut state = self.state();
        if !au.idr && state.broken {
            Counters::add(&counters.unusable, 1);
            drop(state);
            self.want_keyframe();
            return;
        }
        let mut unit = Unit { au, published_ns: now_ns, discontinuity: false, backlog: false };
        if unit.au.idr {
            Counters::add(&counters.idrs, 1);
            shared.keyframes.satisfied();
            unit.discontinuity = std::mem::take(&mut state.broken) | self.note_sps(&mut state, &unit.au.data);
        }
        let mut wanted = match state.gop.offer(&unit, shared.options.gop_units, shared.options.gop_bytes) {
            Kept::Yes => false,
            Kept::Overflow => true,
            Kept::NoIdr => {
                // Viewers that follow since before an overflow can use it; with none, nobody can.
                if state.sps.is_empty() {
                    Counters::add(&counters.unusable, 1);
                }
                true
            }
        };
        for viewer in &state.viewers {
            let offered = viewer.queue.offer(&unit, now_ns);
            Counters::add(&counters.dropped, offered.lost);
            Counters::add(&counters.stalled, offered.stalled.into());
            wanted |= offered.needs_idr;
        }
        drop(state);
        if wanted {
            self.want_keyframe();
        }
    }

    /// Remembers the parameter set; true when it replaced another.
    fn note_sps(&self, state: &mut State, data: &[u8]) -> bool {
        let Some(sps) = annexb::find(data, nal_type::SPS) else { return false };
        if state.sps == sps {
            return false;
        }
        let replaced = !state.sps.is_empty();
        state.sps = sps.to_vec();
        let codec = annexb::codec_string(data).unwrap_or_default();
        self.describe(|description| description.codec = codec);
        replaced
    }

    fn describe(&self, change: impl FnOnce(&mut Description)) {
        self.0.description.send_if_modified(|current| {
            let mut next = Description::clone(current);
            change(&mut next);
            let modified = next != **current;
            if modified {
                *current = Arc::new(next);
            }
            modified
        });
    }

    /// Tells viewers what they are looking at.
    pub fn set_info(&self, info: StreamInfo) {
        self.describe(|description| description.info = info);
    }

    /// The next units come from another encoder: deltas are left out until its first IDR.
    pub fn discontinuity(&self) {
        self.state().broken = true;
        self.want_keyframe();
    }

    /// Asks for a keyframe on behalf of a viewer.
    pub fn want_keyframe(&self) {
        if self.0.keyframes.want() {
            Counters::add(&self.0.counters.keyframe_requests, 1);
        }
    }

    /// Where to hear that a keyframe is wanted.
    pub fn keyframe_requests(&self) -> KeyframeRequests {
        KeyframeRequests(Arc::clone(&self.0.keyframes))
    }

    /// Joins: the cached GOP first, then what is published. Without a cached GOP a keyframe is asked for.
    pub fn subscribe(&self, protocol: Protocol) -> Subscription {
        let options = &self.0.options;
        let limits = Limits {
            units: options.queue_units,
            bytes: options.queue_bytes,
            age: if protocol == Protocol::WebSocket { options.queue_age } else { Duration::MAX },
            stall: options.stall,
        };
        let mut state = self.state();
        let id = state.next_viewer;
        state.next_viewer += 1;
        let backlog = state.gop.units().len();
        let queue = Arc::new(Queue::new(limits, state.gop.units()));
        if state.closed {
            queue.close();
        } else {
            state.viewers.push(Viewer { id, queue: Arc::clone(&queue), report: None });
        }
        self.0.counters.joined(protocol);
        let viewers = state.viewers.len() as u64;
        self.describe(|description| description.viewers = viewers);
        drop(state);
        if backlog == 0 || backlog > options.long_gop {
            self.want_keyframe();
        }
        Subscription { hub: self.clone(), id, protocol, queue, description: self.0.description.subscribe() }
    }

    fn sent(&self, unit: Unit) -> Unit {
        Counters::add(&self.0.counters.sent_units, 1);
        Counters::add(&self.0.counters.sent_bytes, unit.au.data.len() as u64);
        unit
    }

    /// The units since the last IDR, oldest first.
    pub fn current_gop(&self) -> Vec<Unit> {
        self.state().gop.units().to_vec()
    }

    /// What viewers are told now.
    pub fn description(&self) -> Arc<Description> {
        Arc::clone(&self.0.description.borrow())
    }

    /// Viewers connected now.
    pub fn viewers(&self) -> usize {
        self.state().viewers.len()
    }

    /// What viewers last reported.
    pub fn viewer_reports(&self) -> Vec<ViewerReport> {
        self.state().viewers.iter().filter_map(|viewer| viewer.report).collect()
    }

    /// Time since the last unit; `None` before the first.
    pub fn idle(&self) -> Option<Duration> {
        match self.0.last_unit_ns.load(Ordering::Relaxed) {
            0 => None,
            last => Some(Duration::from_nanos(clock_ns().saturating_sub(last))),
        }
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Prometheus text of counters and cache.
    pub fn metrics(&self) -> String {
        let mut out = String::with_capacity(4096);
        self.0.counters.write(&mut out);
        let (units, bytes) = {
            let state = self.state();
            (state.gop.units().len(), state.gop.bytes())
        };
        for (name, help, value) in [
            ("viewer_gop_units", "Access units kept for late joiners.", units),
            ("viewer_gop_bytes", "Their bytes.", bytes),
        ] {
            counters::header(&mut out, name, "gauge", help);
            counters::line(&mut out, name, "", value as u64);
        }
        out
    }

    /// Ends every subscription, now and later.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        for viewer in state.viewers.drain(..) {
            viewer.queue.close();
        }
        drop(state);
        self.0.keyframes.close();
    }
}
