//! What is due when: new pictures at most `max_fps` times a second, a still one again every
//! `1 / keepalive_fps`, and a keyframe on demand at most every [`DEMAND_SPACING`]. Pure: it is told the
//! time.

use std::time::{Duration, Instant};

/// Keyframes on demand come no closer than this, however many ask: viewers that join together share one.
pub(super) const DEMAND_SPACING: Duration = Duration::from_millis(200);

/// See the module.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    keepalive: Option<Duration>,
    /// The next new picture may be taken then.
    next: Option<Instant>,
    /// A picture, new or still, was encoded then.
    encoded: Option<Instant>,
    /// The last IDR on demand was made then.
    demanded: Option<Instant>,
}

impl Pace {
    pub(super) fn new(max_fps: u32, keepalive_fps: u32) -> Self {
        let keepalive = (keepalive_fps > 0).then(|| Duration::from_secs(1) / keepalive_fps);
        Self { interval: interval(max_fps), keepalive, next: None, encoded: None, demanded: None }
    }

    pub(super) fn set_max_fps(&mut self, max_fps: u32) {
        self.interval = interval(max_fps);
        self.next = None;
    }

    /// How long until a new picture may be taken. A quarter of an interval early counts as on time, so
    /// that a source of the same rate with jitter keeps all its pictures.
    pub(super) fn until_next(&self, now: Instant) -> Duration {
        let slack = self.interval / 4;
        self.next.map_or(Duration::ZERO, |next| next.saturating_duration_since(now).saturating_sub(slack))
    }

    /// A new picture is taken. The grid moves on by one interval; after a pause it begins anew.
    pub(super) fn took(&mut self, now: Instant) {
        self.next = Some(match self.next {
            Some(next) if next + self.interval > now => next + self.interval,
            _ => now + self.interval,
        });
    }

    /// A still picture is encoded again now.
    pub(super) fn repeated(&mut self, now: Instant) {
        self.encoded = Some(now);
    }

    /// An encoder took a picture.
    pub(super) fn encoded(&mut self, now: Instant, idr: bool) {
        self.encoded = Some(now);
        if idr {
            self.demanded = Some(now);
        }
    }

    /// How long until a still picture is due again; `None` for never.
    pub(super) fn until_repeat(&self, now: Instant) -> Option<Duration> {
        let keepalive = self.keepalive?;
        Some(self.encoded.map_or(Duration::ZERO, |last| (last + keepalive).saturating_duration_since(now)))
    }

    /// How long until a keyframe that was asked for may be made of a still picture.
    pub(super) fn until_demanded(&self, now: Instant) -> Duration {
        self.demanded.map_or(Duration::ZERO, |last| (last + DEMAND_SPACING).saturating_duration_since(now))
    }
}

fn interval(max_fps: u32) -> Duration {
    Duration::from_secs(1) / max_fps.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of a source's pictures are taken in ten seconds.
    fn taken(max_fps: u32, source_fps: u32, jitter_us: impl Fn(u32) -> i64) -> usize {
        let mut pace = Pace::new(max_fps, 10);
        let start = Instant::now();
        let mut count = 0;
        for number in 0..source_fps * 10 {
            let at = i64::from(number) * 1_000_000 / i64::from(source_fps) + 5_000 + jitter_us(number);
            let now = start + Duration::from_micros(at as u64);
            if pace.until_next(now).is_zero() {
                pace.took(now);
                count += 1;
            }
        }
        count
    }

    #[test]
    fn a_source_of_the_same_rate_loses_nothing_to_jitter() {
        assert_eq!(taken(60, 60, |number| i64::from(number * 7 % 5) * 800 - 1600), 600);
    }

    #[test]
    fn a_faster_source_is_held_to_the_rate() {
        for source in [75, 120, 144, 240] {
            let count = taken(60, source, |_| 0);
            assert!((560..=601).contains(&count), "{count} of {source} fps");
        }
    }

    #[test]
    fn after_a_pause_there_is_no_burst() {
        let mut pace = Pace::new(10, 10);
        let start = Instant::now();
        pace.took(start);
        let later = start + Duration::from_secs(5);
        assert!(pace.until_next(later).is_zero());
        pace.took(later);
        assert_eq!(pace.until_next(later), Duration::from_millis(75));
    }

    #[test]
    fn still_pictures_come_at_the_keepalive_rate() {
        let mut pace = Pace::new(60, 10);
        let start = Instant::now();
        pace.encoded(start, false);
        assert_eq!(pace.until_repeat(start), Some(Duration::from_millis(100)));
        pace.repeated(start + Duration::from_millis(100));
        assert_eq!(pace.until_repeat(start + Duration::from_millis(150)), Some(Duration::from_millis(50)));
        assert_eq!(Pace::new(60, 0).until_repeat(start), None);
    }

    #[test]
    fn demanded_keyframes_keep_their_distance() {
        let mut pace = Pace::new(60, 10);
        let start = Instant::now();
        assert!(pace.until_demanded(start).is_zero());
        pace.encoded(start, true);
        assert_eq!(pace.until_demanded(start), DEMAND_SPACING);
        pace.encoded(start + Duration::from_millis(50), false);
        assert_eq!(pace.until_demanded(start + DEMAND_SPACING), Duration::ZERO);
    }
}
