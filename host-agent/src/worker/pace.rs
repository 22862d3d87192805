//! Decides when a frame is due: new frames at most `max_fps` times per second, an unchanged one again every
//! `1 / keepalive_fps` seconds, and a requested keyframe at most every [`KEYFRAME_INTERVAL`]. The current
//! time is a parameter.

use std::time::{Duration, Instant};

/// Minimum time between requested keyframes: viewers that join together share one.
pub(super) const KEYFRAME_INTERVAL: Duration = Duration::from_millis(200);

/// Schedule of one session.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    keepalive: Option<Duration>,
    /// Time at which the next new frame is due.
    next: Option<Instant>,
    /// Time of the last encoded frame, new or repeated.
    last_encoded: Option<Instant>,
    /// Time of the last IDR.
    last_keyframe: Option<Instant>,
}

impl Pace {
    /// A schedule with these rates in frames per second; no repeats with a `keepalive_fps` of 0.
    pub(super) fn new(max_fps: u32, keepalive_fps: u32) -> Self {
        let keepalive = (keepalive_fps > 0).then(|| Duration::from_secs(1) / keepalive_fps);
        Self { interval: interval(max_fps), keepalive, next: None, last_encoded: None, last_keyframe: None }
    }

    /// Time until a new frame is due. A quarter of an interval early counts as due, so that no frame of a
    /// source of the same rate is lost to jitter.
    pub(super) fn until_next(&self, now: Instant) -> Duration {
        let tolerance = self.interval / 4;
        self.next.map_or(Duration::ZERO, |next| next.saturating_duration_since(now).saturating_sub(tolerance))
    }

    /// Records that a new frame was taken. The next is due one interval after this one was; after a pause,
    /// one interval from now.
    pub(super) fn took(&mut self, now: Instant) {
        self.next = Some(match self.next {
            Some(next) if next + self.interval > now => next + self.interval,
            _ => now + self.interval,
        });
    }

    /// Records that an unchanged frame is encoded again.
    pub(super) fn repeated(&mut self, now: Instant) {
        self.last_encoded = Some(now);
    }

    /// Records that the encoder accepted a frame.
    pub(super) fn encoded(&mut self, now: Instant, idr: bool) {
        self.last_encoded = Some(now);
        if idr {
            self.last_keyframe = Some(now);
        }
    }

    /// Time until an unchanged frame is due again; `None` for never.
    pub(super) fn until_repeat(&self, now: Instant) -> Option<Duration> {
        let keepalive = self.keepalive?;
        let due = |last: Instant| (last + keepalive).saturating_duration_since(now);
        Some(self.last_encoded.map_or(Duration::ZERO, due))
    }

    /// Time until a requested keyframe may be encoded.
    pub(super) fn until_keyframe(&self, now: Instant) -> Duration {
        let due = |last: Instant| (last + KEYFRAME_INTERVAL).saturating_duration_since(now);
        self.last_keyframe.map_or(Duration::ZERO, due)
    }
}

fn interval(max_fps: u32) -> Duration {
    Duration::from_secs(1) / max_fps.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of frames that are taken from a source in ten seconds.
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
    fn source_of_the_same_rate_loses_no_frame_to_jitter() {
        assert_eq!(taken(60, 60, |number| i64::from(number * 7 % 5) * 800 - 1600), 600);
    }

    #[test]
    fn faster_source_is_limited_to_the_rate() {
        for source in [75, 120, 144, 240] {
            let count = taken(60, source, |_| 0);
            assert!((560..=601).contains(&count), "{count} of {source} fps");
        }
    }

    #[test]
    fn pause_is_not_followed_by_a_burst() {
        let mut pace = Pace::new(10, 10);
        let start = Instant::now();
        pace.took(start);
        let later = start + Duration::from_secs(5);
        assert!(pace.until_next(later).is_zero());
        pace.took(later);
        assert_eq!(pace.until_next(later), Duration::from_millis(75));
    }

    #[test]
    fn unchanged_frame_is_repeated_at_the_keepalive_rate() {
        let mut pace = Pace::new(60, 10);
        let start = Instant::now();
        pace.encoded(start, false);
        assert_eq!(pace.until_repeat(start), Some(Duration::from_millis(100)));
        pace.repeated(start + Duration::from_millis(100));
        assert_eq!(pace.until_repeat(start + Duration::from_millis(150)), Some(Duration::from_millis(50)));
        assert_eq!(Pace::new(60, 0).until_repeat(start), None);
    }

    #[test]
    fn requested_keyframes_keep_their_interval() {
        let mut pace = Pace::new(60, 10);
        let start = Instant::now();
        assert!(pace.until_keyframe(start).is_zero());
        pace.encoded(start, true);
        assert_eq!(pace.until_keyframe(start), KEYFRAME_INTERVAL);
        pace.encoded(start + Duration::from_millis(50), false);
        assert_eq!(pace.until_keyframe(start + KEYFRAME_INTERVAL), Duration::ZERO);
    }
}
