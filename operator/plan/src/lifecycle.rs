//! When a stream rests, wakes and ends.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::validate::Validated;
use operator_api::DesktopStreamStatus;

/// What should be now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// A pod should run.
    Run,
    /// None, because the spec says so.
    Suspended,
    /// None, because nobody watched for so long.
    Idle,
    /// The stream's time is up: delete it.
    Expired,
}

/// The outcome, and what of it is remembered in status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What should be now.
    pub life: Life,
    /// For `status.unwatchedSince`.
    pub unwatched_since: Option<Time>,
    /// For `status.idleSince`.
    pub idle_since: Option<Time>,
    /// For `status.wokenBy`.
    pub woken_by: Option<String>,
    /// Look again after so long.
    pub look_again: Option<Duration>,
}

/// What is known.
#[derive(Debug, Clone, Copy)]
pub struct Known<'k> {
    /// When the stream was made.
    pub created: Option<Timestamp>,
    /// The stream's `desktopstream.dev/wake`.
    pub wake: Option<&'k str>,
    /// What its status said.
    pub before: &'k DesktopStreamStatus,
    /// How many watch; `None` if nobody can say.
    pub viewers: Option<u32>,
    /// Now.
    pub now: Timestamp,
}

/// Decides.
pub fn lifecycle(stream: &Validated, known: Known<'_>) -> Outcome {
    let Known { created, wake, before, viewers, now } = known;
    let mut outcome = Outcome {
        life: Life::Run,
        unwatched_since: None,
        idle_since: None,
        woken_by: wake.map(ToOwned::to_owned),
        look_again: None,
    };
    if let (Some(ttl), Some(created)) = (stream.ttl, created) {
        match left(created, ttl, now) {
            None => return Outcome { life: Life::Expired, ..outcome },
            Some(left) => outcome.look_again = Some(left),
        }
    }
    if stream.spec.lifecycle.suspended {
        outcome.life = Life::Suspended;
        return outcome;
    }
    let Some(timeout) = stream.idle_timeout else { return outcome };
    let woken = wake.is_some() && wake != before.woken_by.as_deref();
    let respecified = before.observed_generation.is_some() && before.observed_generation != stream.generation;
    if before.idle_since.is_some() && !woken && !respecified {
        outcome.life = Life::Idle;
        outcome.idle_since.clone_from(&before.idle_since);
        return outcome;
    }
    // Who just woke gets the whole time to open the page. Who can't be asked is not idle.
    let since = match (viewers, &before.unwatched_since) {
        (Some(1..), _) | (None, None) => return outcome,
        (_, Some(since)) if !woken => since.clone(),
        _ => Time(now),
    };
    match left(since.0, timeout, now) {
        None => {
            outcome.life = Life::Idle;
            outcome.idle_since = Some(Time(now));
        }
        Some(left) => {
            outcome.look_again = Some(outcome.look_again.map_or(left, |other| other.min(left)));
            outcome.unwatched_since = Some(since);
        }
    }
    outcome
}

/// How much of `span` from `start` is left; `None` once it is over.
fn left(start: Timestamp, span: Duration, now: Timestamp) -> Option<Duration> {
    let span = SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
    let left = span.checked_sub(now.duration_since(start))?;
    Duration::try_from(left).ok().filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::validated;

    fn stream(lifecycle: &serde_json::Value) -> Validated {
        validated(&serde_json::json!({"spec": {"lifecycle": lifecycle}}))
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).expect("a time")
    }

    fn known(before: &DesktopStreamStatus, viewers: Option<u32>, seconds: i64) -> Known<'_> {
        Known { created: Some(at(0)), wake: None, before, viewers, now: at(seconds) }
    }

    #[test]
    fn ttl_counts_from_creation_even_when_suspended() {
        let stream = stream(&serde_json::json!({"ttl": "1m", "suspended": true}));
        let before = DesktopStreamStatus::default();
        let early = lifecycle(&stream, known(&before, None, 59));
        assert_eq!((early.life, early.look_again), (Life::Suspended, Some(Duration::from_secs(1))));
        assert_eq!(lifecycle(&stream, known(&before, None, 60)).life, Life::Expired);
    }

    #[test]
    fn idleness_needs_an_answer_and_lasts_until_woken() {
        let stream = stream(&serde_json::json!({"idleTimeout": "10s"}));
        let mut status = DesktopStreamStatus::default();
        assert_eq!(lifecycle(&stream, known(&status, None, 100)).unwatched_since, None, "nobody can say");
        let first = lifecycle(&stream, known(&status, Some(0), 100));
        assert_eq!(first.look_again, Some(Duration::from_secs(10)));
        status.unwatched_since = first.unwatched_since;
        assert_eq!(lifecycle(&stream, known(&status, Some(0), 109)).life, Life::Run);
        assert_eq!(lifecycle(&stream, known(&status, Some(1), 111)).unwatched_since, None, "watched again");
        let over = lifecycle(&stream, known(&status, Some(0), 110));
        assert_eq!(over.life, Life::Idle);
        status.idle_since = over.idle_since;
        status.unwatched_since = None;
        assert_eq!(lifecycle(&stream, known(&status, None, 999)).life, Life::Idle, "stays");
        let woken = lifecycle(&stream, Known { wake: Some("1"), ..known(&status, None, 999) });
        assert_eq!((woken.life, woken.woken_by.as_deref()), (Life::Run, Some("1")));
        status.woken_by = Some("1".to_owned());
        let same = lifecycle(&stream, Known { wake: Some("1"), ..known(&status, None, 999) });
        assert_eq!(same.life, Life::Idle, "each value wakes once");
    }
}
