//! When to look for an answer that comes without a wake-up.
//!
//! The answer appears in memory; nothing tells us. Looking all the time burns a core, looking every
//! millisecond costs a millisecond. So the usual latency is learned: sleep through most of it, then look in
//! short steps that grow if the answer is late. It does not know what is waited for, and has no clock.

use std::time::Duration;

/// Never sleep longer than this at once: a slow spell must not become a habit.
const LONGEST_FIRST: Duration = Duration::from_millis(8);
const SHORTEST_STEP: Duration = Duration::from_micros(30);
const LONGEST_STEP: Duration = Duration::from_millis(2);

/// Learns a latency.
#[derive(Debug, Clone)]
pub struct Pacer {
    /// Smoothed latency.
    usual: Duration,
}

impl Pacer {
    /// Begins with a guess.
    pub fn new() -> Self {
        Self { usual: Duration::from_micros(500) }
    }

    /// How long to sleep when `waited` has passed since the question and no answer is there.
    pub fn next_sleep(&self, waited: Duration) -> Duration {
        let most = (self.usual * 7 / 8).min(LONGEST_FIRST);
        if waited + SHORTEST_STEP < most {
            most.saturating_sub(waited)
        } else {
            // On time: a sixteenth of the usual. Late: an eighth of what has passed, so that a dead tap costs
            // nothing and an answer is found at most an eighth late.
            let step = if waited < self.usual * 2 { self.usual / 16 } else { waited / 8 };
            step.clamp(SHORTEST_STEP, LONGEST_STEP)
        }
    }

    /// An answer was seen `latency` after its question.
    pub fn learn(&mut self, latency: Duration) {
        // Down fast, up slowly, and a hiccup counts as four times the usual: sleeping too long is what hurts.
        let weight = if latency < self.usual { 2 } else { 8 };
        let latency = latency.min(self.usual * 4);
        self.usual = (self.usual * (weight - 1) + latency) / weight;
    }

    /// The usual latency.
    pub fn usual(&self) -> Duration {
        self.usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (looks, lateness) for one answer that comes after `latency`.
    fn wait_for(pacer: &Pacer, latency: Duration) -> (u32, Duration) {
        let (mut waited, mut looks) = (Duration::ZERO, 1);
        while waited < latency {
            waited += pacer.next_sleep(waited);
            looks += 1;
        }
        (looks, waited.saturating_sub(latency))
    }

    #[test]
    fn a_steady_latency_is_met_with_few_looks_and_little_lateness() {
        for micros in [100, 700, 1700, 3000, 6000] {
            let mut pacer = Pacer::new();
            let latency = Duration::from_micros(micros);
            for _ in 0..60 {
                let (_, late) = wait_for(&pacer, latency);
                pacer.learn(latency + late);
            }
            let (looks, late) = wait_for(&pacer, latency);
            assert!(looks <= 6, "{micros} us: {looks} looks");
            assert!(late <= (latency / 8).max(SHORTEST_STEP), "{micros} us: {late:?} late");
        }
    }

    #[test]
    fn a_hiccup_does_not_become_a_habit() {
        let mut pacer = Pacer::new();
        let latency = Duration::from_millis(1);
        for _ in 0..20 {
            pacer.learn(latency);
        }
        pacer.learn(Duration::from_secs(2));
        let (_, late) = wait_for(&pacer, latency);
        assert!(late <= LONGEST_FIRST);
        for _ in 0..12 {
            let (_, late) = wait_for(&pacer, latency);
            pacer.learn(latency + late);
        }
        let (_, late) = wait_for(&pacer, latency);
        assert!(late < latency / 4, "{late:?}");
    }

    #[test]
    fn a_dead_tap_costs_little() {
        let pacer = Pacer::new();
        let (looks, _) = wait_for(&pacer, Duration::from_secs(1));
        assert!(looks < 600, "{looks} looks in a second");
    }
}
