//! Poll timing for answers that arrive without a wake-up.
//!
//! The tap's answer appears in memory and no event announces it. Polling continuously would use a core; polling every
//! millisecond would add a millisecond. The pacer keeps a smoothed latency, sleeps through most of it, then polls in
//! short steps that grow once the answer is late. It has no clock.

use std::time::Duration;

/// Longest first sleep, whatever the smoothed latency.
const MAX_FIRST_SLEEP: Duration = Duration::from_millis(8);
const MIN_STEP: Duration = Duration::from_micros(30);
const MAX_STEP: Duration = Duration::from_millis(2);
/// Latency assumed before the first answer.
const INITIAL_LATENCY: Duration = Duration::from_micros(500);

/// Adaptive poll timer.
#[derive(Debug, Clone)]
pub struct Pacer {
    /// Smoothed latency.
    usual: Duration,
}

impl Pacer {
    /// Creates a pacer with the initial latency of 500 us.
    pub fn new() -> Self {
        Self { usual: INITIAL_LATENCY }
    }

    /// Next sleep, `waited` after the request, when no answer has arrived.
    pub fn next_sleep(&self, waited: Duration) -> Duration {
        let first = (self.usual * 7 / 8).min(MAX_FIRST_SLEEP);
        if waited + MIN_STEP < first {
            first.saturating_sub(waited)
        } else {
            // A sixteenth of the usual latency; once late, an eighth of the time waited, so that polling a dead tap
            // is cheap and an answer is found at most an eighth late.
            let step = if waited < self.usual * 2 { self.usual / 16 } else { waited / 8 };
            step.clamp(MIN_STEP, MAX_STEP)
        }
    }

    /// Records that an answer was found `latency` after its request.
    pub fn observe(&mut self, latency: Duration) {
        // Falls fast and rises slowly, and outliers count as four times the usual: sleeping too long costs more than
        // an extra poll.
        let weight = if latency < self.usual { 2 } else { 8 };
        let latency = latency.min(self.usual * 4);
        self.usual = (self.usual * (weight - 1) + latency) / weight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (polls, lateness) for an answer that arrives after `latency`.
    fn wait_for(pacer: &Pacer, latency: Duration) -> (u32, Duration) {
        let (mut waited, mut polls) = (Duration::ZERO, 1);
        while waited < latency {
            waited += pacer.next_sleep(waited);
            polls += 1;
        }
        (polls, waited.saturating_sub(latency))
    }

    #[test]
    fn steady_latency_is_met_with_few_polls_and_little_lateness() {
        for micros in [100, 700, 1700, 3000, 6000] {
            let mut pacer = Pacer::new();
            let latency = Duration::from_micros(micros);
            for _ in 0..60 {
                let (_, late) = wait_for(&pacer, latency);
                pacer.observe(latency + late);
            }
            let (polls, late) = wait_for(&pacer, latency);
            assert!(polls <= 6, "{micros} us: {polls} polls");
            assert!(late <= (latency / 8).max(MIN_STEP), "{micros} us: {late:?} late");
        }
    }

    #[test]
    fn outlier_does_not_raise_latency_for_long() {
        let mut pacer = Pacer::new();
        let latency = Duration::from_millis(1);
        for _ in 0..20 {
            pacer.observe(latency);
        }
        pacer.observe(Duration::from_secs(2));
        let (_, late) = wait_for(&pacer, latency);
        assert!(late <= MAX_FIRST_SLEEP);
        for _ in 0..12 {
            let (_, late) = wait_for(&pacer, latency);
            pacer.observe(latency + late);
        }
        let (_, late) = wait_for(&pacer, latency);
        assert!(late < latency / 4, "{late:?}");
    }

    #[test]
    fn dead_tap_is_polled_rarely() {
        let pacer = Pacer::new();
        let (polls, _) = wait_for(&pacer, Duration::from_secs(1));
        assert!(polls < 600, "{polls} polls in a second");
    }
}
