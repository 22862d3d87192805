//! Schedule of the polls of all sidecars. No IO and no clock: callers pass the time.
//!
//! Sidecars that did not answer last have slots of their own, so that they cannot occupy those of the others.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::news::is_news;
use super::{Answer, Target, is_streaming};

/// Maximum number of concurrent requests to sidecars that answered last, or were not asked yet.
pub const SLOTS: usize = 48;
/// Maximum number of concurrent requests to sidecars that did not answer last.
pub const FAILING_SLOTS: usize = 16;
/// Interval between requests to a sidecar that answers and does not stream yet; first interval after a failure, which
/// doubles.
const STARTING_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum interval at which changed statistics are news.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(60);

/// Due polls, by time.
type Due = BTreeSet<(Instant, Arc<str>)>;

/// Polls of one kind of sidecars.
#[derive(Debug)]
struct Lane {
    due: Due,
    in_flight: usize,
    slots: usize,
}

impl Lane {
    fn new(slots: usize) -> Self {
        Self { due: Due::new(), in_flight: 0, slots }
    }
}

/// A sidecar.
#[derive(Debug)]
struct Entry {
    target: Target,
    /// Distinguishes the target from its predecessors, whose answers no longer count.
    version: u64,
    answer: Option<Answer>,
    /// Consecutive failures.
    failures: u32,
    /// Time of the last news.
    told: Option<Instant>,
    /// Time of the next request; `None` while one is in flight.
    due: Option<Instant>,
}

impl Entry {
    fn is_failing(&self) -> bool {
        self.failures > 0
    }
}

/// A request to make.
#[derive(Debug, Clone)]
pub struct Job {
    uid: Arc<str>,
    version: u64,
    is_failing: bool,
    /// The sidecar.
    pub target: Target,
}

/// Sidecars by the UID of their stream.
#[derive(Debug)]
pub struct Schedule {
    interval: Duration,
    entries: HashMap<Arc<str>, Entry>,
    steady: Lane,
    failing: Lane,
    version: u64,
}

impl Schedule {
    /// An empty schedule. `interval` is the interval between requests to a sidecar that streams, and the longest one
    /// between requests to a sidecar that does not answer.
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            entries: HashMap::new(),
            steady: Lane::new(SLOTS),
            failing: Lane::new(FAILING_SLOTS),
            version: 0,
        }
    }

    fn lane(&mut self, is_failing: bool) -> &mut Lane {
        if is_failing { &mut self.failing } else { &mut self.steady }
    }

    /// Adds or replaces the sidecar of a stream, due at once. True if it differs from the present one.
    pub fn watch(&mut self, uid: &str, target: Target, now: Instant) -> bool {
        let old = self.entries.get(uid);
        if old.is_some_and(|old| old.target == target) {
            return false;
        }
        self.remove(uid);
        self.version += 1;
        let entry =
            Entry { target, version: self.version, answer: None, failures: 0, told: None, due: Some(now) };
        let uid: Arc<str> = uid.into();
        self.entries.insert(Arc::clone(&uid), entry);
        self.steady.due.insert((now, uid));
        true
    }

    fn remove(&mut self, uid: &str) {
        let Some((uid, entry)) = self.entries.remove_entry(uid) else { return };
        if let Some(due) = entry.due {
            self.lane(entry.is_failing()).due.remove(&(due, uid));
        }
    }

    /// Removes the sidecars of streams that `exists` is false for.
    pub fn retain(&mut self, exists: impl Fn(&str) -> bool) {
        let gone: Vec<Arc<str>> = self.entries.keys().filter(|uid| !exists(uid)).cloned().collect();
        for uid in gone {
            self.remove(&uid);
        }
    }

    /// Last answer of the stream's sidecar at `address`.
    pub fn answer(&self, uid: &str, address: SocketAddr) -> Option<Answer> {
        self.entries.get(uid).filter(|entry| entry.target.address == address)?.answer.clone()
    }

    /// Requests to make now, and the time of the next one for which a slot is free.
    pub fn due(&mut self, now: Instant) -> (Vec<Job>, Option<Instant>) {
        let mut jobs = Vec::new();
        let mut next: Option<Instant> = None;
        for is_failing in [false, true] {
            loop {
                let lane = self.lane(is_failing);
                let Some((at, uid)) = lane.due.first().cloned().filter(|_| lane.in_flight < lane.slots)
                else {
                    break;
                };
                if at > now {
                    next = Some(next.map_or(at, |other| other.min(at)));
                    break;
                }
                lane.due.pop_first();
                let Some(entry) = self.entries.get_mut(&uid) else { continue };
                entry.due = None;
                let (version, target) = (entry.version, entry.target.clone());
                self.lane(is_failing).in_flight += 1;
                jobs.push(Job { uid, version, is_failing, target });
            }
        }
        (jobs, next)
    }

    /// Records the end of a request. True if the answer is news.
    pub fn finish(&mut self, job: &Job, answer: Answer, now: Instant) -> bool {
        self.lane(job.is_failing).in_flight -= 1;
        let interval = self.interval;
        let Some(entry) = self.entries.get_mut(&job.uid).filter(|entry| entry.version == job.version) else {
            return false;
        };
        entry.failures = if answer.is_ok() { 0 } else { entry.failures.saturating_add(1) };
        let pause = match &answer {
            Ok(_) if is_streaming(&answer) => interval,
            Ok(_) => STARTING_INTERVAL,
            Err(_) => (STARTING_INTERVAL * 2_u32.pow(entry.failures.min(16) - 1)).min(interval),
        };
        let is_old = entry.told.is_some_and(|at| now.duration_since(at) >= STATISTICS_INTERVAL);
        let is_news = entry.told.is_none()
            || is_news(entry.answer.as_ref(), &answer)
            || (is_old && entry.answer.as_ref() != Some(&answer));
        if is_news {
            entry.told = Some(now);
        }
        entry.answer = Some(answer);
        entry.due = Some(now + pause);
        let (is_failing, due) = (entry.is_failing(), now + pause);
        self.lane(is_failing).due.insert((due, Arc::clone(&job.uid)));
        is_news
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use contract::SidecarStatus;
    use contract::sidecar_status::FrameCounts;
    use kube::runtime::reflector::ObjectRef;
    use operator_sidecar_client::RequestError;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(15);

    fn target(port: u16) -> Target {
        let address = (Ipv4Addr::LOCALHOST, port).into();
        Target { stream: ObjectRef::new("desk"), address }
    }

    fn streaming(fps: f64) -> SidecarStatus {
        let frames = FrameCounts { captured: 1, encoded: 1, ..FrameCounts::default() };
        SidecarStatus { frames, fps, ..SidecarStatus::default() }
    }

    fn silent() -> Answer {
        Err(RequestError::Timeout(Duration::from_secs(2)))
    }

    /// Runs the requests that are due; returns the UIDs of streams with news.
    fn run(schedule: &mut Schedule, now: Instant, answer: impl Fn(&Job) -> Answer) -> Vec<String> {
        let (jobs, _) = schedule.due(now);
        jobs.iter()
            .filter(|job| schedule.finish(job, answer(job), now))
            .map(|job| job.uid.to_string())
            .collect()
    }

    #[test]
    fn silent_sidecars_never_take_the_slots_of_the_others() {
        let (mut schedule, start) = (Schedule::new(INTERVAL), Instant::now());
        for index in 0..500 {
            schedule.watch(&format!("silent-{index}"), target(1), start);
        }
        for _ in 0..500_usize.div_ceil(SLOTS) {
            run(&mut schedule, start, |_| silent());
        }
        let later = start + Duration::from_secs(5);
        let (jobs, _) = schedule.due(later);
        assert_eq!(jobs.len(), FAILING_SLOTS, "requests that will time out");
        for index in 0..SLOTS {
            schedule.watch(&format!("good-{index}"), target(2), later);
        }
        let (good, _) = schedule.due(later);
        assert_eq!(good.len(), SLOTS, "all others are polled meanwhile");
    }

    #[test]
    fn steady_sidecar_is_polled_at_the_interval_and_is_news_once() {
        let (mut schedule, start) = (Schedule::new(INTERVAL), Instant::now());
        assert!(schedule.watch("u", target(1), start));
        assert!(!schedule.watch("u", target(1), start), "the same target");
        assert_eq!(run(&mut schedule, start, |_| Ok(streaming(30.0))), ["u"], "the first answer");
        let (jobs, next) = schedule.due(start + INTERVAL - Duration::from_millis(1));
        assert!(jobs.is_empty());
        assert_eq!(next, Some(start + INTERVAL));
        for (seconds, fps, told) in
            [(15, 29.0, false), (30, 28.0, false), (60, 27.0, true), (75, 26.0, false)]
        {
            let news = run(&mut schedule, start + Duration::from_secs(seconds), |_| Ok(streaming(fps)));
            assert_eq!(!news.is_empty(), told, "{seconds} s");
        }
    }

    #[test]
    fn silent_sidecar_is_polled_at_growing_intervals_and_is_news_once() {
        let (mut schedule, start) = (Schedule::new(INTERVAL), Instant::now());
        schedule.watch("u", target(1), start);
        let (mut now, mut pauses, mut news) = (start, Vec::new(), 0);
        for _ in 0..7 {
            news += run(&mut schedule, now, |_| silent()).len();
            let next = schedule.due(now).1.expect("a next request");
            pauses.push(next.duration_since(now).as_secs());
            now = next;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 15, 15, 15]);
        assert_eq!(news, 1);
        assert_eq!(run(&mut schedule, now, |_| Ok(streaming(1.0))), ["u"]);
    }

    #[test]
    fn answer_of_a_former_target_does_not_count() {
        let (mut schedule, start) = (Schedule::new(INTERVAL), Instant::now());
        schedule.watch("u", target(1), start);
        let (jobs, _) = schedule.due(start);
        schedule.watch("u", target(2), start);
        assert!(!schedule.finish(&jobs[0], Ok(streaming(1.0)), start));
        assert_eq!(schedule.answer("u", target(2).address), None);
        assert_eq!(run(&mut schedule, start, |_| Ok(streaming(1.0))), ["u"]);
        assert_eq!(schedule.answer("u", target(2).address), Some(Ok(streaming(1.0))));
        assert_eq!(schedule.answer("u", target(1).address), None);
        schedule.retain(|_| false);
        assert_eq!(schedule.due(start + INTERVAL).0.len(), 0);
    }
}
