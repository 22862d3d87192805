//! A lock-free log-linear histogram of durations, written by one thread and read by another.
//!
//! With 32 buckets per power of two a quantile is at most 1/32 (3 %) too high. The `hdrhistogram` crate
//! has no histogram that is written through a shared reference.

use std::sync::atomic::{AtomicU64, Ordering};

use protocol::link::Quantiles;

const SUB_BITS: u32 = 5;
const SUB: usize = 1 << SUB_BITS;
/// Durations above this one (18 minutes) count as it, ns.
const LARGEST: u64 = (1 << 40) - 1;
const BUCKETS: usize = (40 - SUB_BITS as usize) * SUB + SUB;

/// A histogram of durations in ns.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS], max: AtomicU64::new(0) }
    }
}

fn bucket(ns: u64) -> usize {
    let ns = ns.min(LARGEST);
    let shift = ns.checked_ilog2().unwrap_or(0).saturating_sub(SUB_BITS);
    shift as usize * SUB + (ns >> shift) as usize
}

/// The largest duration in a bucket, ns.
fn upper(bucket: usize) -> u64 {
    let shift = (bucket / SUB).saturating_sub(1);
    let sub = (bucket - shift * SUB) as u64;
    ((sub + 1) << shift) - 1
}

impl Histogram {
    /// Counts a duration.
    pub fn record(&self, ns: u64) {
        self.buckets[bucket(ns)].fetch_add(1, Ordering::Relaxed);
        self.max.fetch_max(ns, Ordering::Relaxed);
    }

    /// Count, median, 99th percentile and maximum so far.
    pub fn quantiles(&self) -> Quantiles {
        let counts = self.buckets.each_ref().map(|count| count.load(Ordering::Relaxed));
        let count = counts.iter().sum();
        let max = self.max.load(Ordering::Relaxed);
        Quantiles {
            count,
            p50: quantile(&counts, count, 50).min(max),
            p99: quantile(&counts, count, 99).min(max),
            max,
        }
    }
}

fn quantile(counts: &[u64], count: u64, percent: u64) -> u64 {
    let rank = (count * percent).div_ceil(100);
    let mut below = 0;
    for (bucket, count) in counts.iter().enumerate() {
        below += count;
        if below >= rank && below > 0 {
            return upper(bucket);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_are_contiguous() {
        for (index, next) in (0..BUCKETS).zip(1..) {
            assert_eq!(bucket(upper(index)), index);
            if next < BUCKETS {
                assert_eq!(bucket(upper(index) + 1), next);
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn empty_histogram_has_zero_quantiles() {
        assert_eq!(Histogram::default().quantiles(), Quantiles::default());
    }

    proptest! {
        #[test]
        fn quantiles_are_at_most_one_bucket_too_high(mut values in prop::collection::vec(0_u64..10_000_000_000, 1..300)) {
            let histogram = Histogram::default();
            for value in &values {
                histogram.record(*value);
            }
            values.sort_unstable();
            let at = |percent: usize| values[(values.len() * percent).div_ceil(100) - 1];
            let got = histogram.quantiles();
            prop_assert_eq!(got.count, values.len() as u64);
            prop_assert_eq!(got.max, at(100));
            for (got, truth) in [(got.p50, at(50)), (got.p99, at(99))] {
                prop_assert!(got >= truth && got <= truth + truth / 32 + 1, "{} for {}", got, truth);
            }
        }
    }
}
