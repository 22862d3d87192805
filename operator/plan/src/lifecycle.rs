//! When a stream is suspended, woken and deleted.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::validate::Validated;
use operator_api::{DesktopStreamStatus, OperatingMode};

/// State that a stream should be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// The pod runs.
    Run,
    /// The pod is deleted, because the spec suspends the stream.
    Suspended,
    /// The pod is deleted, because the idle timeout has passed.
    Idle,
    /// The stream is deleted, because its TTL has passed.
    Expired,
}

/// State that a stream should be in, and what the status remembers of the decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// State that the stream should be in.
    pub life: Life,
    /// New value of `status.unwatchedSince`.
    pub unwatched_since: Option<Time>,
    /// New value of `status.idleSince`.
    pub idle_since: Option<Time>,
    /// New value of `status.wokenBy`.
    pub woken_by: Option<String>,
    /// Time after which the decision can change by itself.
    pub requeue_after: Option<Duration>,
}

/// Inputs of the decision.
#[derive(Debug, Clone, Copy)]
pub struct Input<'i> {
    /// Creation time of the stream.
    pub created: Option<Timestamp>,
    /// Annotation `desktopstream.dev/wake` of the stream.
    pub wake: Option<&'i str>,
    /// Previous status.
    pub previous: &'i DesktopStreamStatus,
    /// Number of viewers; `None` if the sidecar does not answer.
    pub viewers: Option<u32>,
    /// Current time.
    pub now: Timestamp,
}

/// Decides which state `stream` should be in.
pub fn lifecycle(stream: &Validated, input: Input<'_>) -> Outcome {
    let Input { created, wake, previous, viewers, now } = input;
    let mut outcome = Outcome {
        life: Life::Run,
        unwatched_since: None,
        idle_since: None,
        woken_by: wake.map(ToOwned::to_owned),
        requeue_after: None,
    };
    if let (Some(ttl), Some(created)) = (stream.ttl(), created) {
        match remaining(created, ttl, now) {
            None => return Outcome { life: Life::Expired, ..outcome },
            Some(remaining) => outcome.requeue_after = Some(remaining),
        }
    }
    if stream.spec.operating_mode == OperatingMode::Suspended {
        outcome.life = Life::Suspended;
        return outcome;
    }
    let Some(timeout) = stream.idle_timeout() else { return outcome };
    let is_woken = wake.is_some() && wake != previous.woken_by.as_deref();
    let is_changed =
        previous.observed_generation.is_some() && previous.observed_generation != stream.generation;
    if previous.idle_since.is_some() && !is_woken && !is_changed {
        outcome.life = Life::Idle;
        outcome.idle_since.clone_from(&previous.idle_since);
        return outcome;
    }
    // A stream that was just woken gets the whole timeout. A sidecar that does not answer does not count as unwatched.
    let since = match (viewers, &previous.unwatched_since) {
        (Some(1..), _) | (None, None) => return outcome,
        (_, Some(since)) if !is_woken => since.clone(),
        _ => Time(now),
    };
    match remaining(since.0, timeout, now) {
        // Viewers may have come since the sidecar last answered.
        None if viewers.is_none() => outcome.unwatched_since = Some(since),
        None => {
            outcome.life = Life::Idle;
            outcome.idle_since = Some(Time(now));
        }
        Some(remaining) => {
            outcome.requeue_after =
                Some(outcome.requeue_after.map_or(remaining, |other| other.min(remaining)));
            outcome.unwatched_since = Some(since);
        }
    }
    outcome
}

/// Part of `span`, counted from `start`, that has not passed; `None` if all of it has.
fn remaining(start: Timestamp, span: Duration, now: Timestamp) -> Option<Duration> {
    let span = SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
    let remaining = span.checked_sub(now.duration_since(start))?;
    Duration::try_from(remaining).ok().filter(|remaining| !remaining.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::validated;

    fn stream(spec: &serde_json::Value) -> Validated {
        validated(&serde_json::json!({"spec": spec}))
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).expect("a time")
    }

    fn input(previous: &DesktopStreamStatus, viewers: Option<u32>, seconds: i64) -> Input<'_> {
        Input { created: Some(at(0)), wake: None, previous, viewers, now: at(seconds) }
    }

    #[test]
    fn ttl_of_a_suspended_stream_counts_from_creation() {
        let stream =
            stream(&serde_json::json!({"lifecycle": {"ttlSeconds": 60}, "operatingMode": "Suspended"}));
        let previous = DesktopStreamStatus::default();
        let early = lifecycle(&stream, input(&previous, None, 59));
        assert_eq!((early.life, early.requeue_after), (Life::Suspended, Some(Duration::from_secs(1))));
        assert_eq!(lifecycle(&stream, input(&previous, None, 60)).life, Life::Expired);
    }

    #[test]
    fn idle_timeout_starts_with_the_first_report_of_no_viewers() {
        let stream = stream(&serde_json::json!({"lifecycle": {"idleTimeoutSeconds": 10}}));
        let mut status = DesktopStreamStatus::default();
        assert_eq!(lifecycle(&stream, input(&status, None, 100)).unwatched_since, None, "no report");
        let first = lifecycle(&stream, input(&status, Some(0), 100));
        assert_eq!(first.requeue_after, Some(Duration::from_secs(10)));
        status.unwatched_since = first.unwatched_since;
        assert_eq!(lifecycle(&stream, input(&status, Some(0), 109)).life, Life::Run);
        assert_eq!(lifecycle(&stream, input(&status, Some(1), 111)).unwatched_since, None, "a viewer again");
        let unknown = lifecycle(&stream, input(&status, None, 110));
        assert_eq!(
            (unknown.life, &unknown.unwatched_since),
            (Life::Run, &status.unwatched_since),
            "no answer"
        );
        assert_eq!(lifecycle(&stream, input(&status, Some(0), 110)).life, Life::Idle);
    }

    #[test]
    fn idle_stream_stays_idle_until_the_wake_annotation_changes() {
        let stream = stream(&serde_json::json!({"lifecycle": {"idleTimeoutSeconds": 10}}));
        let mut status = DesktopStreamStatus { idle_since: Some(Time(at(110))), ..Default::default() };
        assert_eq!(lifecycle(&stream, input(&status, None, 999)).life, Life::Idle);
        let woken = lifecycle(&stream, Input { wake: Some("1"), ..input(&status, None, 999) });
        assert_eq!((woken.life, woken.woken_by.as_deref()), (Life::Run, Some("1")));
        status.woken_by = Some("1".to_owned());
        let same = lifecycle(&stream, Input { wake: Some("1"), ..input(&status, None, 999) });
        assert_eq!(same.life, Life::Idle, "each value wakes once");
    }
}
