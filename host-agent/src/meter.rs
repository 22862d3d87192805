//! Counters and durations of frames, for `/status` and `/metrics`. Every value is counted for its session
//! and for the process; the process's totals outlive sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use contract::quantiles::CountedQuantiles;
use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// A counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Frames received.
    Captured,
    /// Frames encoded for the first time.
    Encoded,
    /// Unchanged frames encoded again.
    Repeated,
    /// Frames that a newer one replaced before encoding, or that did not match the configuration.
    Dropped,
    /// Access units lost because the sidecar reads too slowly.
    Lost,
    /// IDR frames encoded.
    Idr,
    /// Keyframe requests received.
    KeyframeRequest,
    /// Encoder failures.
    EncoderFailure,
    /// Bytes received on stream connections, headers included.
    BytesIn,
    /// Bytes sent on stream connections, headers included.
    BytesOut,
}

impl Count {
    /// All counters, in order.
    pub const ALL: [Self; 10] = [
        Self::Captured,
        Self::Encoded,
        Self::Repeated,
        Self::Dropped,
        Self::Lost,
        Self::Idr,
        Self::KeyframeRequest,
        Self::EncoderFailure,
        Self::BytesIn,
        Self::BytesOut,
    ];

    /// Name in `/status`; with prefix and `_total` the name of the metric.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Captured => "pictures_captured",
            Self::Encoded => "pictures_encoded",
            Self::Repeated => "pictures_repeated",
            Self::Dropped => "pictures_dropped",
            Self::Lost => "access_units_lost",
            Self::Idr => "idr_pictures",
            Self::KeyframeRequest => "keyframe_requests",
            Self::EncoderFailure => "encoder_failures",
            Self::BytesIn => "stream_bytes_in",
            Self::BytesOut => "stream_bytes_out",
        }
    }

    /// Help text of the metric.
    pub const fn help(self) -> &'static str {
        match self {
            Self::Captured => "Frames received, encoded or not",
            Self::Encoded => "Frames encoded for the first time",
            Self::Repeated => "Unchanged frames encoded again",
            Self::Dropped => "Frames replaced by a newer one before encoding, or not of the configured size",
            Self::Lost => "Access units lost because the sidecar reads too slowly",
            Self::Idr => "IDR frames encoded",
            Self::KeyframeRequest => "Keyframe requests received",
            Self::EncoderFailure => "Encoder failures",
            Self::BytesIn => "Bytes received on stream connections",
            Self::BytesOut => "Bytes sent on stream connections",
        }
    }
}

/// A stage of a frame, whose duration is measured in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    /// The tap's reader: from GPU resource to full slot.
    Read,
    /// From frame available (slot full, message read) to encoder called.
    Queue,
    /// From encoder called to access unit returned.
    Encode,
    /// From access unit returned to its last byte written to the socket.
    Wire,
}

impl Time {
    /// All stages, in order.
    pub const ALL: [Self; 4] = [Self::Read, Self::Queue, Self::Encode, Self::Wire];

    /// Value of the metric's label `stage`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Queue => "queue",
            Self::Encode => "encode",
            Self::Wire => "wire",
        }
    }
}

/// Greatest duration that a histogram distinguishes, microseconds: one minute.
const MAX_US: u64 = 60_000_000;

/// Durations of one stage below given bounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Buckets {
    /// Number of durations in each bucket, in the order of the bounds; not cumulative.
    pub counts: Vec<u64>,
    /// Number of all durations.
    pub total: u64,
    /// Sum of all durations in microseconds, to the histogram's precision of 1 %.
    pub sum_us: f64,
}

/// Counters, and a histogram of each stage.
#[derive(Debug)]
pub struct Numbers {
    counts: [AtomicU64; Count::ALL.len()],
    times: [Mutex<Histogram<u64>>; Time::ALL.len()],
}

/// A histogram with two significant digits: 1 % precision in 20 KiB.
#[expect(clippy::unwrap_used, reason = "the bounds are constant and valid")]
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_US, 2).unwrap()
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            times: std::array::from_fn(|_| Mutex::new(histogram())),
        }
    }
}

impl Numbers {
    /// Value of a counter.
    pub fn count(&self, counter: Count) -> u64 {
        self.counts[counter as usize].load(Ordering::Relaxed)
    }

    /// Quantiles of a stage's duration, microseconds.
    pub fn time(&self, stage: Time) -> CountedQuantiles {
        let times = self.times[stage as usize].lock();
        CountedQuantiles {
            count: times.len(),
            p50: times.value_at_quantile(0.5),
            p99: times.value_at_quantile(0.99),
            max: times.max(),
        }
    }

    /// Histogram of a stage's duration with these upper bounds in microseconds, ascending.
    pub fn buckets(&self, stage: Time, bounds_us: &[u64]) -> Buckets {
        let times = self.times[stage as usize].lock();
        let mut counts = vec![0; bounds_us.len()];
        let mut sum_us = 0.0;
        for recorded in times.iter_recorded() {
            let (value, count) = (recorded.value_iterated_to(), recorded.count_at_value());
            sum_us += value as f64 * count as f64;
            if let Some(bucket) = bounds_us.iter().position(|bound| value <= *bound) {
                counts[bucket] += count;
            }
        }
        Buckets { counts, total: times.len(), sum_us }
    }

    fn add(&self, counter: Count, by: u64) {
        self.counts[counter as usize].fetch_add(by, Ordering::Relaxed);
    }

    fn record(&self, stage: Time, us: u64) {
        self.times[stage as usize].lock().saturating_record(us.min(MAX_US));
    }
}

/// Counts for one session and for the process.
#[derive(Debug, Clone)]
pub struct Meter {
    /// Numbers of the session.
    pub own: Arc<Numbers>,
    totals: Arc<Numbers>,
}

impl Meter {
    /// A meter of a new session.
    pub fn new(totals: Arc<Numbers>) -> Self {
        Self { own: Arc::default(), totals }
    }

    /// Adds to a counter.
    pub fn add(&self, counter: Count, by: u64) {
        self.own.add(counter, by);
        self.totals.add(counter, by);
    }

    /// Records a stage's duration in microseconds.
    pub fn record(&self, stage: Time, us: u64) {
        self.own.record(stage, us);
        self.totals.record(stage, us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_counts_for_itself_and_the_process() {
        let totals = Arc::<Numbers>::default();
        let (a, b) = (Meter::new(Arc::clone(&totals)), Meter::new(Arc::clone(&totals)));
        a.add(Count::Encoded, 2);
        b.add(Count::Encoded, 3);
        assert_eq!(
            [a.own.count(Count::Encoded), b.own.count(Count::Encoded), totals.count(Count::Encoded)],
            [2, 3, 5]
        );
    }

    #[test]
    fn quantiles_are_within_one_percent() {
        let meter = Meter::new(Arc::default());
        for us in 1..=1000 {
            meter.record(Time::Encode, us);
        }
        let times = meter.own.time(Time::Encode);
        assert_eq!(times.count, 1000);
        assert!(times.p50.abs_diff(500) <= 5 && times.p99.abs_diff(990) <= 10, "{times:?}");
        assert_eq!(meter.own.time(Time::Wire), CountedQuantiles::default());
    }

    #[test]
    fn duration_over_the_maximum_is_recorded_as_the_maximum() {
        let meter = Meter::new(Arc::default());
        meter.record(Time::Encode, u64::MAX);
        let times = meter.own.time(Time::Encode);
        assert!(times.count == 1 && times.max >= MAX_US, "{times:?}");
    }

    #[test]
    fn buckets_have_every_duration_below_their_bounds() {
        let meter = Meter::new(Arc::default());
        for us in [50, 70, 900, 5_000] {
            meter.record(Time::Wire, us);
        }
        let buckets = meter.own.buckets(Time::Wire, &[100, 1000]);
        assert_eq!((buckets.counts, buckets.total), (vec![2, 1], 4));
        assert!((buckets.sum_us - 6_020.0).abs() < 60.0, "{}", buckets.sum_us);
    }

    #[test]
    fn labels_are_distinct() {
        let labels: std::collections::HashSet<_> = Count::ALL.iter().map(|count| count.label()).collect();
        assert_eq!(labels.len(), Count::ALL.len());
    }
}
