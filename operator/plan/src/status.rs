//! What the status says, from what was seen. Conditions come true in the order of
//! [`conditions::STREAM_TYPES`]; what comes after a false one is Unknown, so that the first false one is the
//! one to read.

mod pod;
pub mod report;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;

use self::report::Report;
use super::facts::Node;
use super::lifecycle::{Life, Outcome};
use super::pair::Pairing;
use super::validate::{Invalid, Validated};
use super::{kubernetes, pair};
use operator_api::conditions::{self, Reason, condition, reasons};
use operator_api::{AuthKind, CaptureStatus, DesktopStreamStatus, EncodeWhere, Phase, Require, Rung, names};

/// Something that keeps the pod from being.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// In the condition.
    pub reason: Reason,
    /// In words.
    pub text: String,
}

/// What was seen.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'s> {
    /// The pod.
    pub pod: Option<&'s Pod>,
    /// Why there is none, if somebody said so.
    pub obstacle: Option<&'s Obstacle>,
    /// The home folder's claim.
    pub claim: Option<&'s PersistentVolumeClaim>,
    /// All nodes.
    pub nodes: &'s [Node],
    /// The choice of host-agent.
    pub pairing: &'s Pairing,
    /// What the sidecar says; the error is why it says nothing.
    pub report: Option<Result<&'s Report, &'s str>>,
    /// Rest or run.
    pub outcome: &'s Outcome,
    /// The status until now.
    pub before: &'s DesktopStreamStatus,
    /// Now.
    pub now: Timestamp,
}

/// A condition in the making: yes, no, or not known, why, and in words.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    holds: Option<bool>,
    reason: Reason,
    text: String,
}

impl Verdict {
    fn yes(reason: Reason, text: impl Into<String>) -> Self {
        Self { holds: Some(true), reason, text: text.into() }
    }
    fn no(reason: Reason, text: impl Into<String>) -> Self {
        Self { holds: Some(false), reason, text: text.into() }
    }
    fn unknown(reason: Reason, text: impl Into<String>) -> Self {
        Self { holds: None, reason, text: text.into() }
    }
}

/// The status of a spec that makes no sense.
pub fn invalid(
    before: &DesktopStreamStatus,
    generation: Option<i64>,
    problems: &Invalid,
    now: Timestamp,
) -> DesktopStreamStatus {
    let mut next = conditions::STREAM_TYPES
        .map(|kind| {
            let holds = (kind == conditions::READY).then_some(false);
            condition(kind, holds, reasons::INVALID, &problems.to_string(), generation)
        })
        .to_vec();
    conditions::keep_times(&mut next, &before.conditions, now);
    DesktopStreamStatus {
        phase: Some(Phase::Failed),
        conditions: next,
        observed_generation: generation,
        ..before.clone()
    }
}

/// The status.
pub fn status(stream: &Validated, seen: Seen<'_>) -> DesktopStreamStatus {
    let Seen { pod, report, outcome, before, now, pairing, .. } = seen;
    let verdicts = verdicts(stream, seen);
    let generation = stream.generation;
    let mut next: Vec<Condition> = conditions::STREAM_TYPES
        .iter()
        .zip(&verdicts)
        .map(|(kind, verdict)| condition(kind, verdict.holds, verdict.reason, &verdict.text, generation))
        .collect();
    conditions::keep_times(&mut next, &before.conditions, now);
    let said = report.and_then(Result::ok);
    let running = pod.is_some();
    DesktopStreamStatus {
        phase: Some(phase(&verdicts, seen)),
        conditions: next,
        observed_generation: generation,
        node: pod.and_then(|pod| pod.spec.as_ref()?.node_name.clone()),
        pod: pod.and_then(|pod| pod.metadata.name.clone()),
        host_agent: pairing.host_agent().map(ToOwned::to_owned),
        viewer_url: Some(kubernetes::viewer_url(stream)),
        viewer_secret: (stream.spec.viewers.auth.kind == AuthKind::Token).then(|| {
            stream.spec.viewers.auth.secret_name.clone().unwrap_or_else(|| stream.names.viewer_secret())
        }),
        capture: said.map(Report::capture).or_else(|| before.capture.clone()).filter(|_| running),
        stats: said.map(|it| it.stats(now)).or_else(|| before.stats.clone()).filter(|_| running),
        unwatched_since: outcome.unwatched_since.clone(),
        idle_since: outcome.idle_since.clone(),
        woken_by: outcome.woken_by.clone(),
    }
}

/// In the order of [`conditions::STREAM_TYPES`].
fn verdicts(stream: &Validated, seen: Seen<'_>) -> [Verdict; 5] {
    let rest = match seen.outcome.life {
        Life::Suspended => Some((reasons::SUSPENDED, "suspended by spec.lifecycle.suspended")),
        Life::Idle => Some((reasons::IDLE, "nobody watched for spec.lifecycle.idleTimeout")),
        Life::Expired => Some((reasons::ENDED, "its time (spec.lifecycle.ttl) is up; it is being deleted")),
        Life::Run => None,
    };
    if let Some((reason, text)) = rest {
        let mut all = [(); 5].map(|()| Verdict::unknown(reason, text));
        all[4].holds = Some(false);
        return all;
    }
    let devices = pod::devices(stream, seen);
    let paired = paired(stream, seen);
    let (capturing, streaming) = match seen.report {
        _ if devices.holds != Some(true) => (waiting("for the pod"), waiting("for the pod")),
        // A crashing desktop has no picture, whatever its sidecar makes of it.
        report => match (pod::trouble(seen), report) {
            (Some(why), _) => (why.clone(), why),
            (None, Some(Ok(report))) => {
                (capturing(report, pod::is_starting(seen)), streaming(stream, report))
            }
            (None, Some(Err(why))) => {
                let why =
                    Verdict::unknown(reasons::SIDECAR_SILENT, format!("the sidecar does not answer: {why}"));
                (why.clone(), why)
            }
            (None, None) => (waiting("for the sidecar"), waiting("for the sidecar")),
        },
    };
    let ready = ready([&devices, &paired, &capturing, &streaming], stream);
    [devices, paired, capturing, streaming, ready]
}

fn waiting(text: &str) -> Verdict {
    Verdict::unknown(reasons::WAITING, format!("waiting {text}"))
}

fn paired(stream: &Validated, seen: Seen<'_>) -> Verdict {
    let connection = seen.report.and_then(Result::ok).map(Report::connection);
    match (seen.pairing, connection) {
        (Pairing::NotNeeded, _) => Verdict::yes(reasons::NOT_NEEDED, "the sidecar encodes"),
        (Pairing::None { reason, text }, _) => Verdict::no(*reason, text.clone()),
        (Pairing::Paired { host_agent, .. }, Some(report::Connection::Expired(text))) => {
            Verdict::no(reasons::TOKEN_EXPIRED, format!("{host_agent}: {text}"))
        }
        (Pairing::Paired { host_agent, .. }, Some(report::Connection::Refused(text))) => {
            Verdict::no(reasons::TOKEN_REFUSED, format!("{host_agent}: {text}"))
        }
        (Pairing::Paired { host_agent, .. }, Some(report::Connection::Broken(text))) => {
            Verdict::no(reasons::HOST_AGENT_GONE, format!("{host_agent}: {text}"))
        }
        (Pairing::Paired { host_agent, endpoint }, _) => {
            let place = endpoint.as_ref().map_or_else(String::new, |endpoint| format!(" at {endpoint}"));
            let why = if seen.before.host_agent.as_deref() == Some(host_agent) {
                ""
            } else if stream.spec.host_agent.name.is_some() {
                ", as spec.hostAgent.name says"
            } else {
                ", the least loaded one that the node reaches"
            };
            let kept = kept_message(
                seen.before,
                conditions::PAIRED,
                reasons::PAIRED,
                &format!("{host_agent}{place}"),
            );
            Verdict::yes(reasons::PAIRED, kept.unwrap_or_else(|| format!("{host_agent}{place}{why}")))
        }
    }
}

/// The message of before if it says the same: why a choice was made is said once and stays.
fn kept_message(before: &DesktopStreamStatus, kind: &str, reason: Reason, begins: &str) -> Option<String> {
    let old = before.conditions.iter().find(|it| it.type_ == kind && it.reason == reason.name)?;
    old.message.starts_with(begins).then(|| old.message.clone())
}

fn capturing(report: &Report, is_starting: bool) -> Verdict {
    if report.frames.captured > 0 && report.capture.error.is_empty() {
        return Verdict::yes(reasons::FRAMES, report.capture.taken.clone());
    }
    if report.capture.error.is_empty() {
        return Verdict::unknown(reasons::WAITING, "waiting for the desktop's first frame");
    }
    if is_starting {
        return Verdict::unknown(reasons::WAITING, format!("the desktop starts: {}", report.capture.error));
    }
    Verdict::no(reasons::NO_FRAMES, report.capture.error.clone())
}

fn streaming(stream: &Validated, report: &Report) -> Verdict {
    let rung = match report.rung {
        Some(rung) if report.frames.encoded > 0 => rung,
        _ => return Verdict::unknown(reasons::WAITING, format!("no frame yet: {}", report.rung_reason)),
    };
    let why = &report.rung_reason;
    if stream.spec.capture.require == Require::ZeroCopy && rung != Rung::ResourceId {
        return Verdict::no(reasons::NOT_ZERO_COPY, format!("the rung is {rung:?}: {why}"));
    }
    if stream.spec.encode.place == EncodeWhere::HostAgent && rung == Rung::Local {
        return Verdict::no(reasons::NOT_BY_HOST_AGENT, format!("the sidecar encodes: {why}"));
    }
    match rung {
        Rung::ResourceId => Verdict::yes(reasons::BY_RESOURCE_ID, ""),
        Rung::Pixels => Verdict::yes(reasons::BY_PIXELS, why.clone()),
        Rung::Local => Verdict::yes(reasons::BY_LOCAL_ENCODER, why.clone()),
    }
}

/// Ready is what a viewer would say: a picture, as asked. A host-agent that is missing and isn't required is
/// no obstacle.
fn ready([devices, paired, capturing, streaming]: [&Verdict; 4], stream: &Validated) -> Verdict {
    let mut needed = vec![devices];
    if pair::is_required(stream) {
        needed.push(paired);
    }
    needed.extend([capturing, streaming]);
    let first = |holds| needed.iter().find(|verdict| verdict.holds == holds);
    match first(Some(false)).or_else(|| first(None)) {
        Some(obstacle) => Verdict::no(obstacle.reason, obstacle.text.clone()),
        None => Verdict::yes(reasons::OK, "viewers get a picture"),
    }
}

fn phase(verdicts: &[Verdict; 5], seen: Seen<'_>) -> Phase {
    match seen.outcome.life {
        Life::Suspended => return Phase::Suspended,
        Life::Idle => return Phase::Idle,
        Life::Expired => return Phase::Ended,
        Life::Run => {}
    }
    let [devices, .., streaming, ready] = verdicts;
    if pod::has_ended(seen.pod) {
        return Phase::Ended;
    }
    let hopeless = [reasons::NAME_TAKEN, reasons::REFUSED];
    if ready.holds == Some(true) {
        Phase::Streaming
    } else if hopeless.contains(&devices.reason) {
        Phase::Failed
    } else if seen.pod.and_then(|pod| pod.spec.as_ref()?.node_name.as_ref()).is_none() {
        Phase::Pending
    } else if verdicts
        .iter()
        .any(|verdict| verdict.holds == Some(false) && verdict.reason != reasons::WAITING)
        && (streaming.holds.is_some() || devices.holds == Some(false) || !ready.reason.advice.is_empty())
    {
        Phase::Degraded
    } else {
        Phase::Starting
    }
}

/// The capture part, empty where nothing is known.
impl Report {
    fn capture(&self) -> CaptureStatus {
        let size = if self.width > 0 { format!("{}x{}", self.width, self.height) } else { String::new() };
        CaptureStatus {
            rung: self.rung,
            reason: self.rung_reason.clone(),
            format: self.capture.taken.clone(),
            size,
        }
    }
}

/// The pod that counts, of those that bear the stream's label: the newest that isn't over.
pub fn choose_pod(pods: &[std::sync::Arc<Pod>]) -> Option<&std::sync::Arc<Pod>> {
    pods.iter().max_by_key(|pod| {
        let alive = !pod::is_over(pod) && pod.metadata.deletion_timestamp.is_none();
        (alive, pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
    })
}

pub use pod::{NO_ROOM, has_ended, is_over};

/// The label selector of a stream's pods.
pub fn selector(stream: &str) -> String {
    format!("{}={stream}", names::STREAM)
}

#[cfg(test)]
mod tests;
