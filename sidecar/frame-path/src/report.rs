//! State and counters of the stream, for `/status`, `/metrics` and the viewers.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use contract::SidecarStatus;
use contract::quantiles::MillisecondQuantiles;
use contract::sidecar_status::DropCounts;
use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// Window over which frame rate and bit rate are measured.
const RATE_WINDOW: Duration = Duration::from_secs(2);

/// Histogram of durations: 1 us to 60 s at two significant digits.
#[derive(Debug)]
struct Durations(Option<Histogram<u64>>);

impl Durations {
    const MAX_US: u64 = 60_000_000;

    fn new() -> Self {
        // Fails only for invalid bounds, which these are not.
        Self(Histogram::new_with_max(Self::MAX_US, 2).ok())
    }

    fn record(&mut self, time: Duration) {
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(time.as_micros().clamp(1, Self::MAX_US.into()) as u64);
        }
    }

    fn quantiles(&self) -> MillisecondQuantiles {
        let Some(histogram) = &self.0 else { return MillisecondQuantiles::default() };
        let ms = |us: u64| us as f64 / 1000.0;
        let at = |q| ms(histogram.value_at_quantile(q));
        MillisecondQuantiles { p50: at(0.50), p95: at(0.95), p99: at(0.99), max: ms(histogram.max()) }
    }
}

#[derive(Debug)]
struct Inner {
    status: SidecarStatus,
    latency: Durations,
    tap: Durations,
    /// Arrival and size of the access units within the window.
    recent: VecDeque<(Instant, usize)>,
    last_frame: Option<Instant>,
    mailbox_bytes: u64,
}

/// Stream status shared by all threads.
#[derive(Debug)]
pub struct Report {
    start: Instant,
    inner: Mutex<Inner>,
}

impl Report {
    /// Creates the status of stream `name`, before its first frame.
    pub fn new(name: String) -> Self {
        let status = SidecarStatus {
            name,
            frame_path_reason: "no frame yet".into(),
            render_node: Some(true),
            ..SidecarStatus::default()
        };
        let (latency, tap) = (Durations::new(), Durations::new());
        let inner =
            Inner { status, latency, tap, recent: VecDeque::new(), last_frame: None, mailbox_bytes: 0 };
        Self { start: Instant::now(), inner: Mutex::new(inner) }
    }

    /// Changes state and counters.
    pub fn update(&self, change: impl FnOnce(&mut SidecarStatus)) {
        change(&mut self.inner.lock().status);
    }

    /// Reads state and counters. Rates, latencies and byte counts are filled in by [`Self::status`] only.
    pub fn read<T>(&self, read: impl FnOnce(&SidecarStatus) -> T) -> T {
        read(&self.inner.lock().status)
    }

    /// Counts dropped frames.
    pub fn dropped(&self, count: impl FnOnce(&mut DropCounts)) {
        count(&mut self.inner.lock().status.frames.drops);
    }

    /// Counts a mailbox request of `bytes`.
    pub fn mailbox_request(&self, bytes: usize) {
        self.inner.lock().mailbox_bytes += bytes as u64;
    }

    /// Records the time that the tap spent on a frame.
    pub fn tap_time(&self, spent: Duration) {
        self.inner.lock().tap.record(spent);
    }

    /// Counts an access unit of `bytes`; `latency` is the time since capture, `None` for a repeated picture.
    pub fn access_unit(&self, bytes: usize, latency: Option<Duration>) {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        match latency {
            Some(latency) => {
                inner.status.frames.encoded += 1;
                inner.last_frame = Some(now);
                inner.latency.record(latency);
            }
            None => inner.status.frames.repeated += 1,
        }
        inner.recent.push_back((now, bytes));
        while inner.recent.front().is_some_and(|(at, _)| now.duration_since(*at) > RATE_WINDOW) {
            inner.recent.pop_front();
        }
    }

    /// Complete status. `connection_bytes` were sent on the stream connection since start.
    pub fn status(&self, connection_bytes: u64, viewers: usize) -> SidecarStatus {
        let now = Instant::now();
        let inner = self.inner.lock();
        let recent = || inner.recent.iter().filter(|(at, _)| now.duration_since(*at) <= RATE_WINDOW);
        let seconds = RATE_WINDOW.min(now.duration_since(self.start)).as_secs_f64().max(0.001);
        let bytes_to_host = inner.mailbox_bytes + connection_bytes;
        let mut status = inner.status.clone();
        let encoded = status.frames.encoded;
        status.frames.dropped = status.frames.drops.total();
        SidecarStatus {
            fps: recent().count() as f64 / seconds,
            bitrate_kbps: recent().map(|(_, bytes)| *bytes).sum::<usize>() as f64 * 8.0 / 1000.0 / seconds,
            bytes_to_host,
            bytes_per_frame_to_host: if encoded == 0 { 0.0 } else { bytes_to_host as f64 / encoded as f64 },
            latency_ms: inner.latency.quantiles(),
            tap_ms: inner.tap.quantiles(),
            viewers: u32::try_from(viewers).unwrap_or(u32::MAX),
            uptime_seconds: now.duration_since(self.start).as_secs_f64(),
            last_frame_ms: inner.last_frame.map(|at| now.duration_since(at).as_millis() as u64),
            ..status
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_is_the_sum_over_all_places() {
        let report = Report::new("test".into());
        report.dropped(|drops| drops.capture += 1);
        report.dropped(|drops| drops.host_agent += 2);
        report.dropped(|drops| drops.local_encoder += 4);
        report.dropped(|drops| drops.expired += 8);
        report.dropped(|drops| drops.interrupted += 16);
        report.dropped(|drops| drops.unreadable += 32);
        assert_eq!(report.status(0, 0).frames.dropped, 63);
    }

    #[test]
    fn repeated_picture_counts_as_repeated_only() {
        let report = Report::new("test".into());
        report.access_unit(100, Some(Duration::from_millis(5)));
        report.access_unit(100, None);
        let status = report.status(50, 3);
        assert_eq!((status.frames.encoded, status.frames.repeated, status.viewers), (1, 1, 3));
        assert!((status.bytes_per_frame_to_host - 50.0).abs() < f64::EPSILON);
        assert!(status.last_frame_ms.is_some());
    }
}
