//! A token bucket: how fast a peer may speak.

use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug)]
pub struct Bucket {
    per_second: f64,
    tokens: f64,
    filled: Instant,
    warned: Option<Instant>,
}

/// A peer that is slowed down is told so at most this often.
const WARN_EVERY: Duration = Duration::from_secs(1);

impl Bucket {
    /// Full: holds one second's worth.
    pub fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second.max(1));
        Self { per_second, tokens: per_second, filled: Instant::now(), warned: None }
    }

    /// Takes one; gives how long the taker must wait if there was none.
    pub fn take(&mut self) -> Option<Duration> {
        self.take_at(Instant::now())
    }

    fn take_at(&mut self, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + passed * self.per_second).min(self.per_second) - 1.0;
        (self.tokens < 0.0).then(|| Duration::from_secs_f64(-self.tokens / self.per_second))
    }

    /// Whether it is time to warn.
    pub fn should_warn(&mut self) -> bool {
        let due = self.warned.is_none_or(|warned| warned.elapsed() >= WARN_EVERY);
        if due {
            self.warned = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_burst_and_then_the_rate() {
        let mut bucket = Bucket::new(100);
        let mut now = bucket.filled;
        assert!((0..100).all(|_| bucket.take_at(now).is_none()));
        let wait = bucket.take_at(now).expect("empty");
        assert!(wait.abs_diff(Duration::from_millis(10)) < Duration::from_micros(1), "{wait:?}");
        now += wait + Duration::from_millis(10);
        assert!(bucket.take_at(now).is_none());
    }

    #[test]
    fn a_long_pause_saves_up_no_more_than_a_second() {
        let mut bucket = Bucket::new(10);
        let later = bucket.filled + Duration::from_mins(60);
        assert_eq!((0..20).filter(|_| bucket.take_at(later).is_none()).count(), 10);
    }
}
