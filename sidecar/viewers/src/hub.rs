//! Distributes access units to viewers.
//!
//! A hub has one publisher and any number of subscriptions. Publishing never blocks: each viewer has a bounded queue. A
//! viewer that is too slow loses access units up to the next IDR, which the hub requests; other viewers are not
//! affected. New viewers start with the cached GOP.

mod gop;
mod keyframes;
mod metrics;
mod queue;
mod subscription;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use contract::FramePath;
use contract::display::SizePolicy;
use encode::annexb::{self, nal_type};
use encode::clock::clock_ns;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use protocol::stream::AccessUnit;
use serde::Serialize;
use tokio::sync::watch;

pub use self::keyframes::KeyframeRequests;
pub use self::metrics::{Metrics, Protocol, Rejection};
pub use self::subscription::{Event, Subscription, ViewerHandle};

use self::gop::{Cached, Gop};
use self::keyframes::Keyframes;
use self::queue::{Limits, Queue};

/// Limits of a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HubOptions {
    /// Maximum number of access units in the GOP cache.
    pub gop_units: usize,
    /// Maximum size of the GOP cache in bytes.
    pub gop_bytes: usize,
    /// A new viewer that starts with more cached units than this triggers a keyframe request, to catch up soon.
    pub long_gop: usize,
    /// Maximum number of live access units queued per viewer.
    pub queue_units: usize,
    /// Maximum size of live access units queued per viewer, in bytes.
    pub queue_bytes: usize,
    /// Maximum age of a queued unit of a WebSocket viewer. Other protocols favour completeness over latency and have
    /// no such limit.
    pub queue_age: Duration,
    /// Time after which a viewer that reads nothing while its queue is full is disconnected.
    pub stall_timeout: Duration,
    /// Minimum interval between keyframe requests.
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
            stall_timeout: Duration::from_secs(10),
            keyframe_interval: Duration::from_millis(500),
        }
    }
}

/// Description of the stream, set by the sidecar and shown to viewers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct StreamInfo {
    /// Name of the stream.
    pub name: String,
    /// Frame path in use; `None` before the first frame.
    pub frame_path: Option<FramePath>,
    /// Reason why a better frame path is not in use, for display; empty on the best path.
    #[serde(rename = "reason")]
    pub frame_path_reason: String,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Encoder name.
    pub encoder: String,
    /// Policy over the size of the desktop.
    pub size: SizePolicy,
}

/// [`StreamInfo`] with the hub's own facts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Description {
    /// As set by [`Hub::set_info`].
    #[serde(flatten)]
    pub info: StreamInfo,
    /// RFC 6381 codec string, e.g. `avc1.64001F`; empty before the first IDR.
    pub codec: String,
    /// Number of connected viewers.
    pub viewers: u64,
}

/// An access unit for one viewer. Clones share the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The access unit.
    pub au: AccessUnit,
    /// Time of publication in nanoseconds of `CLOCK_MONOTONIC`.
    pub published_ns: u64,
    /// True if the unit does not continue the preceding one; such a unit is an IDR.
    pub discontinuity: bool,
    /// True if the unit comes from the GOP cache: the viewer decodes it to catch up, without regard to its age.
    pub backlog: bool,
}

/// Statistics reported by a viewer's page, unverified.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct ViewerReport {
    /// Frames drawn per second.
    pub fps: f32,
    /// Median time from capture to drawing in milliseconds.
    pub latency_ms: f32,
    /// Number of frames that were not drawn.
    pub dropped: u64,
}

/// The viewers of a live stream. Clones refer to the same hub.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: HubOptions,
    state: Mutex<State>,
    description: watch::Sender<Arc<Description>>,
    keyframes: Arc<Keyframes>,
    metrics: Metrics,
    last_unit_ns: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    gop: Gop,
    sps: Vec<u8>,
    /// True from a discontinuity until the next IDR.
    discontinuity: bool,
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
    /// A hub without viewers.
    pub fn new(options: HubOptions) -> Self {
        Self(Arc::new(Shared {
            options,
            state: Mutex::default(),
            description: watch::Sender::default(),
            keyframes: Arc::new(Keyframes::new(options.keyframe_interval)),
            metrics: Metrics::default(),
            last_unit_ns: AtomicU64::new(0),
        }))
    }

    /// Queues an access unit for every viewer; never blocks.
    pub fn publish(&self, au: AccessUnit) {
        self.publish_at(au, clock_ns());
    }

    fn publish_at(&self, au: AccessUnit, now_ns: u64) {
        if au.data.is_empty() {
            return;
        }
        let shared = &*self.0;
        let metrics = &shared.metrics;
        metrics.units_published.inc();
        metrics.bytes_published.inc_by(au.data.len() as u64);
        shared.last_unit_ns.store(now_ns, Ordering::Relaxed);

        let mut state = shared.state.lock();
        if !au.idr && state.discontinuity {
            metrics.units_unusable.inc();
            drop(state);
            self.request_keyframe();
            return;
        }
        let mut unit = Unit { au, published_ns: now_ns, discontinuity: false, backlog: false };
        if unit.au.idr {
            metrics.keyframes_published.inc();
            shared.keyframes.fulfil();
            unit.discontinuity =
                std::mem::take(&mut state.discontinuity) | self.update_sps(&mut state, &unit.au.data);
        }
        let cached = state.gop.offer(&unit, shared.options.gop_units, shared.options.gop_bytes);
        let mut keyframe_needed = match cached {
            Cached::Yes => false,
            Cached::Overflow => true,
            Cached::NoIdr => {
                // After an overflow, viewers that have followed since before it can still decode the unit.
                if state.sps.is_empty() {
                    metrics.units_unusable.inc();
                }
                true
            }
        };
        for viewer in &state.viewers {
            let offered = viewer.queue.offer(&unit, now_ns);
            metrics.units_dropped.inc_by(offered.lost);
            metrics.viewers_stalled.inc_by(offered.stalled.into());
            keyframe_needed |= offered.needs_idr;
        }
        drop(state);
        if keyframe_needed {
            self.request_keyframe();
        }
    }

    /// Stores the parameter set; true if it replaces a different one.
    fn update_sps(&self, state: &mut State, data: &[u8]) -> bool {
        let Some(sps) = annexb::find(data, nal_type::SPS) else { return false };
        if state.sps == sps {
            return false;
        }
        let replaced = !state.sps.is_empty();
        state.sps = sps.to_vec();
        let codec = annexb::codec_string(data).unwrap_or_default();
        self.update_description(|description| description.codec = codec);
        replaced
    }

    fn update_description(&self, change: impl FnOnce(&mut Description)) {
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

    /// Sets the description that viewers receive.
    pub fn set_info(&self, info: StreamInfo) {
        self.update_description(|description| description.info = info);
    }

    /// Announces that the next units come from another encoder. Units before its first IDR are discarded.
    pub fn discontinuity(&self) {
        self.0.state.lock().discontinuity = true;
        self.request_keyframe();
    }

    /// Requests a keyframe from the encoder.
    pub fn request_keyframe(&self) {
        if self.0.keyframes.request() {
            self.0.metrics.keyframe_requests.inc();
        }
    }

    /// The receiving end of keyframe requests.
    pub fn keyframe_requests(&self) -> KeyframeRequests {
        KeyframeRequests(Arc::clone(&self.0.keyframes))
    }

    /// Adds a viewer. It receives the cached GOP, then live units. An empty cache triggers a keyframe request.
    pub fn subscribe(&self, protocol: Protocol) -> Subscription {
        let options = &self.0.options;
        let limits = Limits {
            units: options.queue_units,
            bytes: options.queue_bytes,
            age: if protocol == Protocol::WebSocket { options.queue_age } else { Duration::MAX },
            stall_timeout: options.stall_timeout,
        };
        let mut state = self.0.state.lock();
        let id = state.next_viewer;
        state.next_viewer += 1;
        let backlog = state.gop.units().len();
        let queue = Arc::new(Queue::new(limits, state.gop.units()));
        if state.closed {
            queue.close();
        } else {
            state.viewers.push(Viewer { id, queue: Arc::clone(&queue), report: None });
        }
        self.0.metrics.viewers(protocol).inc();
        let viewers = state.viewers.len() as u64;
        self.update_description(|description| description.viewers = viewers);
        drop(state);
        if backlog == 0 || backlog > options.long_gop {
            self.request_keyframe();
        }
        Subscription { hub: self.clone(), id, protocol, queue, description: self.0.description.subscribe() }
    }

    fn unsubscribe(&self, id: u64, protocol: Protocol) {
        let mut state = self.0.state.lock();
        state.viewers.retain(|viewer| viewer.id != id);
        let viewers = state.viewers.len() as u64;
        self.update_description(|description| description.viewers = viewers);
        drop(state);
        self.0.metrics.viewers(protocol).dec();
    }

    fn count_sent(&self, unit: &Unit) {
        self.0.metrics.units_sent.inc();
        self.0.metrics.bytes_sent.inc_by(unit.au.data.len() as u64);
    }

    fn set_report(&self, id: u64, report: ViewerReport) {
        if let Some(viewer) = self.0.state.lock().viewers.iter_mut().find(|viewer| viewer.id == id) {
            viewer.report = Some(report);
        }
    }

    /// Units since the last IDR, oldest first.
    pub fn current_gop(&self) -> Vec<Unit> {
        self.0.state.lock().gop.units().to_vec()
    }

    /// Current description.
    pub fn description(&self) -> Arc<Description> {
        Arc::clone(&self.0.description.borrow())
    }

    /// Number of connected viewers.
    pub fn viewers(&self) -> usize {
        self.0.state.lock().viewers.len()
    }

    /// The last report of each viewer that sent one.
    pub fn viewer_reports(&self) -> Vec<ViewerReport> {
        self.0.state.lock().viewers.iter().filter_map(|viewer| viewer.report).collect()
    }

    /// Time since the last access unit; `None` before the first.
    pub fn idle(&self) -> Option<Duration> {
        match self.0.last_unit_ns.load(Ordering::Relaxed) {
            0 => None,
            last => Some(Duration::from_nanos(clock_ns().saturating_sub(last))),
        }
    }

    /// Metrics of this hub.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Registers this hub's metrics, by their complete names (`desktopstream_viewers`, …).
    pub fn register(&self, registry: &mut Registry) {
        self.0.metrics.register(registry);
        registry.register_collector(Box::new(metrics::GopCollector(self.clone())));
    }

    /// Ends every subscription, existing and new.
    pub fn close(&self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        for viewer in state.viewers.drain(..) {
            viewer.queue.close();
        }
        drop(state);
        self.0.keyframes.close();
    }
}
