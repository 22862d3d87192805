//! What the sidecar knows of its stream, for `/status`, `/metrics`, logs and the operator: counters that
//! any thread may bump and a few texts. It decides nothing.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::fallback::Rung;

/// What the frame rate is measured over.
const WINDOW: Duration = Duration::from_secs(2);

/// Frames by what became of them.
#[derive(Debug, Clone, Copy, Default, Serialize, PartialEq, Eq)]
pub struct Frames {
    /// Came from the compositor.
    pub captured: u64,
    /// Came back as access units; repeats not counted.
    pub encoded: u64,
    /// Were overtaken by a newer one, anywhere on the path.
    pub dropped: u64,
    /// Access units of a still picture.
    pub repeated: u64,
    /// Were refused by the tap.
    pub refused: u64,
}

/// A distribution, ms.
#[derive(Debug, Clone, Copy, Default, Serialize, PartialEq)]
pub struct Quantiles {
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

/// Samples in microseconds, 1 us to 60 s at two digits.
#[derive(Debug)]
struct Series(Option<Histogram<u64>>);

impl Series {
    fn new() -> Self {
        // Always there: the bounds are ones that the type accepts.
        Self(Histogram::new_with_max(60_000_000, 2).ok())
    }

    fn record(&mut self, time: Duration) {
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(time.as_micros().clamp(1, 60_000_000) as u64);
        }
    }

    fn quantiles(&self) -> Quantiles {
        let Some(histogram) = &self.0 else { return Quantiles::default() };
        let ms = |us: u64| us as f64 / 1000.0;
        let at = |q| ms(histogram.value_at_quantile(q));
        Quantiles { p50: at(0.50), p95: at(0.95), p99: at(0.99), max: ms(histogram.max()) }
    }
}

/// How the picture is captured.
#[derive(Debug, Clone, Default, Serialize, PartialEq, Eq)]
pub struct CaptureReport {
    /// Which kind of source.
    pub source: String,
    /// What it offered.
    pub offered: Vec<String>,
    /// What was taken.
    pub taken: String,
    /// Why it is not DMA-BUF; empty when it is.
    pub reason: String,
    /// What is wrong now; empty when nothing is.
    pub error: String,
}

/// The whole report: `/status`.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The stream's name.
    pub name: String,
    /// The rung in use; none before the first frame.
    pub rung: Option<Rung>,
    /// Why not a better one; empty on the best.
    pub rung_reason: String,
    /// Who encodes.
    pub encoder: String,
    /// Picture width.
    pub width: u32,
    /// Picture height.
    pub height: u32,
    /// Capture.
    pub capture: CaptureReport,
    /// Whether there is a render node, however it can be used.
    pub render_node: bool,
    /// What the host-agent connection is up to.
    pub host_agent: String,
    /// The endpoint of a host-agent that did not confirm what this VM's tap took for it: its VM is another one. Empty while
    /// nothing speaks for that.
    pub unconfirmed_by: String,
    /// Frames since start.
    pub frames: Frames,
    /// Frames encoded per second, over the last two.
    pub fps: f64,
    /// kbit/s of access units, over the last two seconds.
    pub bitrate_kbps: f64,
    /// Bytes that left for the host, mailbox and connection together.
    pub bytes_to_host: u64,
    /// The same per encoded frame.
    pub bytes_per_frame_to_host: f64,
    /// Capture to access unit.
    pub latency_ms: Quantiles,
    /// The tap's time on the VMM's thread per frame, as it says itself.
    pub tap_ms: Quantiles,
    /// Viewers now.
    pub viewers: usize,
    /// Seconds since start.
    pub uptime_s: f64,
    /// Milliseconds since the last access unit of a new frame.
    pub last_frame_ms: Option<u64>,
}

#[derive(Debug)]
struct Inner {
    status: Status,
    latency: Series,
    tap: Series,
    recent: VecDeque<(Instant, usize)>,
    last_frame: Option<Instant>,
    mailbox_bytes: u64,
}

/// The report, shared by all threads.
#[derive(Debug)]
pub struct Report {
    start: Instant,
    inner: Mutex<Inner>,
}

impl Report {
    /// An empty report of the stream `name`.
    pub fn new(name: String) -> Self {
        let status = Status {
            name,
            rung: None,
            rung_reason: "no frame yet".into(),
            encoder: String::new(),
            width: 0,
            height: 0,
            capture: CaptureReport::default(),
            render_node: true,
            host_agent: "not configured".into(),
            unconfirmed_by: String::new(),
            frames: Frames::default(),
            fps: 0.0,
            bitrate_kbps: 0.0,
            bytes_to_host: 0,
            bytes_per_frame_to_host: 0.0,
            latency_ms: Quantiles::default(),
            tap_ms: Quantiles::default(),
            viewers: 0,
            uptime_s: 0.0,
            last_frame_ms: None,
        };
        let (latency, tap) = (Series::new(), Series::new());
        let inner =
            Inner { status, latency, tap, recent: VecDeque::new(), last_frame: None, mailbox_bytes: 0 };
        Self { start: Instant::now(), inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A poisoned report is still a report: nothing in it has invariants.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes texts and counters of the status itself.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.lock().status);
    }

    /// A request of `bytes` went through the mailbox.
    pub fn mailbox(&self, bytes: usize) {
        self.lock().mailbox_bytes += bytes as u64;
    }

    /// The tap spent so long on a frame.
    pub fn tap(&self, spent: Duration) {
        self.lock().tap.record(spent);
    }

    /// An access unit of `bytes` arrived; `latency` since its capture, unless it is a repeat.
    pub fn access_unit(&self, bytes: usize, latency: Option<Duration>) {
        let now = Instant::now();
        let mut inner = self.lock();
        match latency {
            Some(latency) => {
                inner.status.frames.encoded += 1;
                inner.last_frame = Some(now);
                inner.latency.record(latency);
            }
            None => inner.status.frames.repeated += 1,
        }
        inner.recent.push_back((now, bytes));
        while inner.recent.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
            inner.recent.pop_front();
        }
    }

    /// The report now; `connection_bytes` were sent on the stream connection.
    pub fn status(&self, connection_bytes: u64, viewers: usize) -> Status {
        let now = Instant::now();
        let inner = self.lock();
        let recent = || inner.recent.iter().filter(|(at, _)| now.duration_since(*at) <= WINDOW);
        let seconds = WINDOW.min(now.duration_since(self.start)).as_secs_f64().max(0.001);
        let bytes_to_host = inner.mailbox_bytes + connection_bytes;
        let encoded = inner.status.frames.encoded;
        Status {
            fps: recent().count() as f64 / seconds,
            bitrate_kbps: recent().map(|(_, bytes)| *bytes).sum::<usize>() as f64 * 8.0 / 1000.0 / seconds,
            bytes_to_host,
            bytes_per_frame_to_host: if encoded == 0 { 0.0 } else { bytes_to_host as f64 / encoded as f64 },
            latency_ms: inner.latency.quantiles(),
            tap_ms: inner.tap.quantiles(),
            viewers,
            uptime_s: now.duration_since(self.start).as_secs_f64(),
            last_frame_ms: inner.last_frame.map(|at| now.duration_since(at).as_millis() as u64),
            ..inner.status.clone()
        }
    }
}
