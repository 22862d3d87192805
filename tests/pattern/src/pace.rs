//! Which number is next, and when: the same for the desktop and the client.
//!
//! Knows neither who asks nor what is drawn. Time is given to it.

use std::time::{Duration, Instant};

/// The numbers' clock.
#[derive(Debug)]
pub struct Pace {
    number: u32,
    is_static: bool,
    static_after: Option<u32>,
    period: Duration,
    next_at: Instant,
}

impl Pace {
    /// At most `fps` numbers a second from `now` on, standing still after `static_after`.
    pub fn new(fps: Option<u32>, static_after: Option<u32>, now: Instant) -> Self {
        let period = fps.map_or(Duration::ZERO, |fps| Duration::from_secs(1) / fps);
        Self { number: 0, is_static: false, static_after, period, next_at: now }
    }

    /// The number that is on; 0 before the first.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whether the number stays.
    pub fn is_static(&self) -> bool {
        self.is_static
    }

    /// When the next frame may come.
    pub fn next_at(&self) -> Instant {
        self.next_at
    }

    /// Starts or stops changing.
    pub fn toggle(&mut self) {
        self.is_static = !self.is_static;
        eprintln!("pattern: {} at frame {}", if self.is_static { "static" } else { "changing" }, self.number);
    }

    /// Takes a beat: the number of the frame to show now.
    pub fn beat(&mut self, now: Instant) -> u32 {
        // Something has to be on, even if nothing is to change.
        if !self.is_static || self.number == 0 {
            self.number = self.number.wrapping_add(1);
            self.is_static |= Some(self.number) == self.static_after;
        }
        // The first beat of the grid after now: missed ones are not made up for.
        let late = now.saturating_duration_since(self.next_at).as_nanos();
        let into = late.checked_rem(self.period.as_nanos()).unwrap_or(0);
        self.next_at = now + self.period.saturating_sub(Duration::from_nanos(into as u64));
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_stay_on_the_grid_and_missed_ones_are_gone() {
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::new(Some(100), None, start);
        for (now, number, next) in [(0, 1, 10), (10, 2, 20), (23, 3, 30), (58, 4, 60)] {
            assert_eq!((pace.beat(ms(now)), pace.next_at()), (number, ms(next)), "at {now} ms");
        }
        let mut free = Pace::new(None, None, start);
        assert_eq!((free.beat(ms(7)), free.next_at()), (1, ms(7)));
    }

    #[test]
    fn stands_still_after_so_many_and_until_told() {
        let now = Instant::now();
        let mut pace = Pace::new(None, Some(2), now);
        assert_eq!([0; 4].map(|_| pace.beat(now)), [1, 2, 2, 2]);
        pace.toggle();
        assert_eq!([0; 2].map(|_| pace.beat(now)), [3, 4]);
    }
}
