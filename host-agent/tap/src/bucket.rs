//! Rate limits: a token bucket in one number (the generic cell rate algorithm).

/// How often something may happen.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    interval_ns: u64,
    slack_ns: u64,
}

impl Limit {
    /// `per_s` times a second in the long run, `burst` at once.
    pub const fn new(per_s: u64, burst: u64) -> Self {
        let interval_ns = 1_000_000_000 / per_s;
        Self { interval_ns, slack_ns: (burst - 1) * interval_ns }
    }
}

/// When the bucket would be full again, ns.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bucket {
    full_at: u64,
}

impl Bucket {
    /// Takes one token at `now` (ns, monotonic); `false` if there is none.
    pub fn take(&mut self, limit: Limit, now: u64) -> bool {
        let from = self.full_at.max(now);
        if from - now > limit.slack_ns {
            return false;
        }
        self.full_at = from.saturating_add(limit.interval_ns);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate() {
        let limit = Limit::new(10, 5);
        let mut bucket = Bucket::default();
        let start = 1 << 40;
        assert_eq!((0..20).filter(|_| bucket.take(limit, start)).count(), 5);
        assert!(!bucket.take(limit, start + 99_999_999));
        assert!(bucket.take(limit, start + 100_000_000));
        let second = (1..=1000).filter(|ms| bucket.take(limit, start + 100_000_000 + ms * 1_000_000)).count();
        assert_eq!(second, 10);
    }

    #[test]
    fn a_clock_at_its_end_does_not_overflow() {
        let mut bucket = Bucket::default();
        assert!(bucket.take(Limit::new(1, 1), u64::MAX));
        assert!(bucket.take(Limit::new(1, 1), u64::MAX));
    }
}
