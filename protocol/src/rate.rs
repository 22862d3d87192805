//! Rate limiting: a token bucket without a clock.
//!
//! The bucket is the generic cell rate algorithm (ITU-T I.371, annex A): its whole state is the time at
//! which it is full again. It does no arithmetic in floating point, does not allocate and takes the
//! current time as a parameter, so the tap can use it on the VMM's thread.

use std::time::Duration;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// A sustained rate and the number of events that may happen at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    interval_ns: u64,
    burst_ns: u64,
}

impl RateLimit {
    /// `per_second` events a second sustained, `burst` events at once. A zero counts as one.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        let per_second = if per_second == 0 { 1 } else { per_second };
        let burst = if burst == 0 { 1 } else { burst };
        let interval_ns = NS_PER_SECOND / per_second as u64;
        Self { interval_ns, burst_ns: (burst as u64 - 1) * interval_ns }
    }
}

/// A token bucket; it starts full.
///
/// Times are nanoseconds of any monotonic clock, the same one for all calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    limit: RateLimit,
    full_at_ns: u64,
}

impl TokenBucket {
    /// A full bucket.
    pub const fn new(limit: RateLimit) -> Self {
        Self { limit, full_at_ns: 0 }
    }

    /// Takes one token at `now_ns` if there is one.
    pub fn try_take(&mut self, now_ns: u64) -> bool {
        let available = self.delay(now_ns) == 0;
        if available {
            self.charge(now_ns);
        }
        available
    }

    /// Takes one token at `now_ns`, in advance if there is none. Returns how long the caller must wait
    /// until the token is there; zero if it was.
    pub fn take(&mut self, now_ns: u64) -> Duration {
        let delay = self.delay(now_ns);
        self.charge(now_ns);
        Duration::from_nanos(delay)
    }

    /// True if the bucket is full at `now_ns`, like a new one.
    pub const fn is_full(&self, now_ns: u64) -> bool {
        self.full_at_ns <= now_ns
    }

    /// Time until a token is there, ns.
    fn delay(&self, now_ns: u64) -> u64 {
        self.full_at_ns.saturating_sub(now_ns).saturating_sub(self.limit.burst_ns)
    }

    fn charge(&mut self, now_ns: u64) {
        self.full_at_ns = self.full_at_ns.max(now_ns).saturating_add(self.limit.interval_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const START: u64 = 1 << 40;

    #[test]
    fn burst_is_followed_by_the_sustained_rate() {
        let mut bucket = TokenBucket::new(RateLimit::new(10, 5));
        assert_eq!((0..20).filter(|_| bucket.try_take(START)).count(), 5);
        assert!(!bucket.try_take(START + 99 * MS));
        assert!(bucket.try_take(START + 100 * MS));
        let second = (1..=1000).filter(|ms| bucket.try_take(START + (100 + ms) * MS)).count();
        assert_eq!(second, 10);
    }

    #[test]
    fn long_pause_refills_no_more_than_the_burst() {
        let mut bucket = TokenBucket::new(RateLimit::new(10, 10));
        assert!(bucket.try_take(START));
        let later = START + 3600 * NS_PER_SECOND;
        assert_eq!((0..20).filter(|_| bucket.try_take(later)).count(), 10);
    }

    #[test]
    fn token_taken_in_advance_delays_the_next() {
        let mut bucket = TokenBucket::new(RateLimit::new(100, 100));
        assert!((0..100).all(|_| bucket.take(START).is_zero()));
        assert_eq!(bucket.take(START), Duration::from_millis(10));
        assert_eq!(bucket.take(START), Duration::from_millis(20));
        assert!(!bucket.try_take(START + 20 * MS));
        assert!(bucket.take(START + 30 * MS).is_zero());
    }

    #[test]
    fn refused_token_is_not_charged() {
        let mut bucket = TokenBucket::new(RateLimit::new(1, 1));
        assert!(bucket.try_take(START));
        assert!((0..1000).all(|_| !bucket.try_take(START)));
        assert!(!bucket.is_full(START + NS_PER_SECOND - 1) && bucket.is_full(START + NS_PER_SECOND));
        assert!(bucket.try_take(START + NS_PER_SECOND));
    }

    #[test]
    fn clock_that_goes_back_refills_nothing() {
        let mut bucket = TokenBucket::new(RateLimit::new(1, 2));
        assert!(bucket.try_take(START));
        assert!(!bucket.try_take(START - NS_PER_SECOND));
        assert!(bucket.try_take(START));
        assert!(!bucket.try_take(START));
    }

    #[test]
    fn clock_at_its_end_does_not_overflow() {
        let mut bucket = TokenBucket::new(RateLimit::new(1, 1));
        assert!(bucket.try_take(u64::MAX));
        assert!(bucket.try_take(u64::MAX));
        assert_eq!(RateLimit::new(0, 0), RateLimit::new(1, 1));
    }
}
