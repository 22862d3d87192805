//! Counting and timing: what `/status` and `/metrics` show. Every number goes to the session it belongs to
//! and to the totals of the process, which outlive sessions. Knows no session.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Pictures that came, encoded or not.
    Captured,
    /// Pictures that were encoded for the first time.
    Encoded,
    /// Still pictures encoded again.
    Repeated,
    /// Pictures that a newer one overtook, or that did not fit the configuration.
    Dropped,
    /// Access units that were lost because the sidecar reads too slowly.
    Lost,
    /// IDR pictures made.
    Idr,
    /// Keyframes asked for.
    KeyframeRequest,
    /// Times that an encoder broke.
    EncoderFailure,
    /// Bytes that came on stream connections, headers included.
    BytesIn,
    /// Bytes sent on stream connections, headers included.
    BytesOut,
}

impl Count {
    /// All of them, in order.
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

    /// Its metric's name, without prefix and `_total`.
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

    /// For people, in `/metrics`.
    pub const fn help(self) -> &'static str {
        match self {
            Self::Captured => "Pictures that came, encoded or not.",
            Self::Encoded => "Pictures encoded for the first time.",
            Self::Repeated => "Still pictures encoded again.",
            Self::Dropped => "Pictures that a newer one overtook or that did not fit the configuration.",
            Self::Lost => "Access units lost because the sidecar reads too slowly.",
            Self::Idr => "IDR pictures made.",
            Self::KeyframeRequest => "Keyframes asked for.",
            Self::EncoderFailure => "Times that an encoder broke.",
            Self::BytesIn => "Bytes that came on stream connections.",
            Self::BytesOut => "Bytes sent on stream connections.",
        }
    }
}

/// What is timed, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    /// The tap's reader, from GPU resource to slot.
    Read,
    /// From picture in our hands (slot full, message read) to encoder called.
    Queue,
    /// From encoder called to access unit out.
    Encode,
    /// From access unit out to its last byte handed to the socket.
    Wire,
}

impl Time {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Read, Self::Queue, Self::Encode, Self::Wire];

    /// Its metric's name, without prefix and unit.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Queue => "queue",
            Self::Encode => "encode",
            Self::Wire => "wire",
        }
    }
}

/// Longest time that a histogram tells from longer ones: a minute.
const MAX_US: u64 = 60_000_000;

/// A distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Quantiles {
    /// Samples.
    pub count: u64,
    /// Median.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
    /// Largest.
    pub max: u64,
}

impl From<protocol::link::Quantiles> for Quantiles {
    fn from(q: protocol::link::Quantiles) -> Self {
        Self { count: q.count, p50: q.p50, p99: q.p99, max: q.max }
    }
}

/// Counters and histograms.
#[derive(Debug)]
pub struct Numbers {
    counts: [AtomicU64; Count::ALL.len()],
    times: [Mutex<Histogram<u64>>; Time::ALL.len()],
}

fn histogram() -> Histogram<u64> {
    // Two digits: 1 % off, 20 KiB. The bounds are constants, so that this can't fail.
    Histogram::new_with_bounds(1, MAX_US, 2).unwrap_or_else(|_| Histogram::new_from(&minimal()))
}

fn minimal() -> Histogram<u64> {
    #[expect(clippy::unwrap_used, reason = "one digit is always a valid precision")]
    Histogram::new(1).unwrap()
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
    /// A counter's value.
    pub fn count(&self, what: Count) -> u64 {
        self.counts[what as usize].load(Ordering::Relaxed)
    }

    /// A distribution, us.
    pub fn time(&self, what: Time) -> Quantiles {
        let times = self.times[what as usize].lock().unwrap_or_else(PoisonError::into_inner);
        Quantiles {
            count: times.len(),
            p50: times.value_at_quantile(0.5),
            p99: times.value_at_quantile(0.99),
            max: times.max(),
        }
    }

    fn add(&self, what: Count, by: u64) {
        self.counts[what as usize].fetch_add(by, Ordering::Relaxed);
    }

    fn record(&self, what: Time, us: u64) {
        let mut times = self.times[what as usize].lock().unwrap_or_else(PoisonError::into_inner);
        times.saturating_record(us.min(MAX_US));
    }
}

/// Counts for one session and for the process.
#[derive(Debug, Clone)]
pub struct Meter {
    /// This session's.
    pub own: Arc<Numbers>,
    totals: Arc<Numbers>,
}

impl Meter {
    /// A new session's meter.
    pub fn new(totals: Arc<Numbers>) -> Self {
        Self { own: Arc::default(), totals }
    }

    /// Counts.
    pub fn add(&self, what: Count, by: u64) {
        self.own.add(what, by);
        self.totals.add(what, by);
    }

    /// Times, us.
    pub fn record(&self, what: Time, us: u64) {
        self.own.record(what, us);
        self.totals.record(what, us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_counts_for_itself_and_the_process() {
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
    fn quantiles_are_within_a_percent_and_never_overflow() {
        let meter = Meter::new(Arc::default());
        for us in 1..=1000 {
            meter.record(Time::Encode, us);
        }
        let times = meter.own.time(Time::Encode);
        assert_eq!(times.count, 1000);
        assert!(times.p50.abs_diff(500) <= 5 && times.p99.abs_diff(990) <= 10, "{times:?}");
        meter.record(Time::Encode, u64::MAX);
        assert!(meter.own.time(Time::Encode).max >= MAX_US);
        assert_eq!(meter.own.time(Time::Wire), Quantiles::default());
    }

    #[test]
    fn labels_are_distinct() {
        let labels: std::collections::HashSet<_> = Count::ALL.iter().map(|count| count.label()).collect();
        assert_eq!(labels.len(), Count::ALL.len());
    }
}
