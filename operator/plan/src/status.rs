//! The status of a stream, from what was observed.
//!
//! Conditions become true in the order of [`conditions::STREAM_TYPES`]. Those after a false one are Unknown, so the first
//! false condition is the one to act on.

mod containers;
mod sidecar;

use contract::sidecar_status::RefusalCode;
use contract::{FramePath, HostAgentConnection, SidecarStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use operator_api::conditions::{self, Engine, Reason, Subject, reasons};
use operator_api::{AuthKind, DesktopStreamStatus, Phase, Placement, Require};

use super::facts::Node;
use super::lifecycle::{Life, Outcome};
use super::observation::{Container, ContainerState, Observation};
use super::pair::Pairing;
use super::validate::{Invalid, Validated};
use super::{kubernetes, pair};

/// Obstacle to the creation of the containers that only a user can remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// Reason of the condition.
    pub reason: Reason,
    /// Text of the condition.
    pub text: String,
}

/// Failure of a status request to a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportError<'r> {
    /// The sidecar did not answer with a status; the error of the request.
    Silent(&'r str),
    /// The sidecar refused the operator's token.
    TokenRefused,
}

/// Answer of a sidecar, or the failure of the request.
pub type Report<'r> = Result<&'r SidecarStatus, ReportError<'r>>;

/// Observed facts that a status is computed from.
#[derive(Debug, Clone, Copy)]
pub struct Input<'i> {
    /// Engine that runs the containers.
    pub engine: Engine,
    /// The containers; `None` if there are none.
    pub observation: Option<&'i Observation>,
    /// Obstacle to the containers' creation.
    pub obstacle: Option<&'i Obstacle>,
    /// All nodes.
    pub nodes: &'i [Node],
    /// Choice of host-agent.
    pub pairing: &'i Pairing,
    /// Answer of the sidecar; `None` if it was not asked.
    pub report: Option<Report<'i>>,
    /// Decision of the lifecycle.
    pub outcome: &'i Outcome,
    /// Previous status.
    pub previous: &'i DesktopStreamStatus,
    /// Current time.
    pub now: Timestamp,
}

/// Status, reason and text of a condition; `holds` is `None` for Unknown.
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
    fn waiting(text: impl Into<String>) -> Self {
        Self::unknown(reasons::WAITING, text)
    }
}

/// Status of an invalid spec. What is known of the pod stays.
pub fn invalid(
    subject: Subject<'_>,
    previous: &DesktopStreamStatus,
    problems: &Invalid,
    now: Timestamp,
) -> DesktopStreamStatus {
    let mut next = conditions::STREAM_TYPES
        .map(|kind| {
            let holds = (kind == conditions::READY).then_some(false);
            subject.condition(kind, holds, reasons::INVALID, &problems.to_string())
        })
        .to_vec();
    conditions::keep_times(&mut next, &previous.conditions, now);
    DesktopStreamStatus {
        phase: Some(Phase::Failed),
        conditions: next,
        observed_generation: subject.generation,
        ..previous.clone()
    }
}

/// Status of a stream whose reconciliation fails repeatedly with `error`. What is known of the pod stays.
pub fn failing(
    subject: Subject<'_>,
    previous: &DesktopStreamStatus,
    error: &str,
    now: Timestamp,
) -> DesktopStreamStatus {
    let mut next: Vec<Condition> =
        previous.conditions.iter().filter(|it| it.type_ != conditions::READY).cloned().collect();
    next.push(subject.condition(conditions::READY, Some(false), reasons::RECONCILE_FAILS, error));
    conditions::keep_times(&mut next, &previous.conditions, now);
    let phase = if previous.pod_name.is_some() { Phase::Degraded } else { Phase::Failed };
    DesktopStreamStatus { phase: Some(phase), conditions: next, ..previous.clone() }
}

/// Status of a valid stream.
pub fn status(stream: &Validated, input: Input<'_>) -> DesktopStreamStatus {
    let Input { observation, outcome, previous, now, pairing, .. } = input;
    let verdicts = verdicts(stream, input);
    let subject = Subject { engine: input.engine, name: &stream.names.stream, generation: stream.generation };
    let mut next: Vec<Condition> = conditions::STREAM_TYPES
        .iter()
        .zip(&verdicts)
        .map(|(kind, verdict)| subject.condition(kind, verdict.holds, verdict.reason, &verdict.text))
        .collect();
    conditions::keep_times(&mut next, &previous.conditions, now);
    let answer = input.report.and_then(Result::ok);
    let exists = observation.is_some();
    DesktopStreamStatus {
        phase: Some(phase(&verdicts, input)),
        conditions: next,
        observed_generation: stream.generation,
        node_name: observation.and_then(|it| it.node.clone()),
        pod_name: observation.map(|it| it.name.clone()),
        host_agent_name: pairing.host_agent().map(ToOwned::to_owned),
        viewer_url: Some(kubernetes::viewer_url(stream)),
        viewer_secret_name: (stream.spec.viewers.auth.kind == AuthKind::Token).then(|| {
            stream.spec.viewers.auth.secret_name.clone().unwrap_or_else(|| stream.names.viewer_secret())
        }),
        capture: answer.map(sidecar::capture).or_else(|| previous.capture.clone()).filter(|_| exists),
        stats: answer.map(|it| sidecar::stats(it, now)).or_else(|| previous.stats.clone()).filter(|_| exists),
        unwatched_since: outcome.unwatched_since.clone(),
        idle_since: outcome.idle_since.clone(),
        woken_by: outcome.woken_by.clone(),
    }
}

/// Verdicts in the order of [`conditions::STREAM_TYPES`].
fn verdicts(stream: &Validated, input: Input<'_>) -> [Verdict; 5] {
    let stopped = match input.outcome.life {
        Life::Suspended => Some((reasons::SUSPENDED, "suspended by spec.operatingMode")),
        Life::Idle => Some((reasons::IDLE, "no viewer for spec.lifecycle.idleTimeoutSeconds")),
        Life::Expired => {
            Some((reasons::ENDED, "spec.lifecycle.ttlSeconds has passed; the stream is being deleted"))
        }
        Life::Run => None,
    };
    if let Some((reason, text)) = stopped {
        let mut all = [(); 5].map(|()| Verdict::unknown(reason, text));
        // A stream that is stopped as its spec asks is as ready as it gets: `helm --wait` and kstatus wait for Ready.
        all[4] = match input.outcome.life {
            Life::Suspended | Life::Idle => {
                let remedy = reason.remedy(input.engine).replace("NAME", &stream.names.stream);
                Verdict::yes(reason, format!("{text}; {remedy}"))
            }
            Life::Run | Life::Expired => Verdict::no(reason, text),
        };
        return all;
    }
    let devices = containers::devices(stream, input);
    let paired = paired(stream, input);
    let (capturing, streaming) = if devices.holds == Some(true) {
        video(stream, input)
    } else {
        let waiting = Verdict::waiting(format!("waiting for the {}", input.engine.workload()));
        (waiting.clone(), waiting)
    };
    let ready = ready([&devices, &paired, &capturing, &streaming], stream);
    [devices, paired, capturing, streaming, ready]
}

/// Verdicts on Capturing and Streaming of containers that have their devices.
fn video(stream: &Validated, input: Input<'_>) -> (Verdict, Verdict) {
    // A desktop that crashes has no video, whatever its sidecar reports.
    if let Some(crash) = containers::crash(input) {
        return (crash.clone(), crash);
    }
    match input.report {
        Some(Ok(report)) => {
            let is_starting = containers::is_starting(input);
            (capturing(report, is_starting), streaming(stream, report))
        }
        Some(Err(ReportError::Silent(error))) => {
            let text = format!("the sidecar does not answer: {error}");
            let silent = Verdict::unknown(reasons::SIDECAR_SILENT, text);
            (silent.clone(), silent)
        }
        Some(Err(ReportError::TokenRefused)) => {
            let text = "the sidecar refuses the operator's token";
            let refused = Verdict::unknown(reasons::STATUS_REFUSED, text);
            (refused.clone(), refused)
        }
        None => (Verdict::waiting("waiting for the sidecar"), Verdict::waiting("waiting for the sidecar")),
    }
}

fn paired(stream: &Validated, input: Input<'_>) -> Verdict {
    let (host_agent, endpoint) = match input.pairing {
        Pairing::NotNeeded => return Verdict::yes(reasons::NOT_NEEDED, "the sidecar encodes"),
        Pairing::None { reason, text } => {
            // Nothing but the condition still states that there was a host-agent.
            let is_gone =
                *reason == reasons::HOST_AGENT_UNREACHABLE
                    && input.previous.conditions.iter().any(|it| {
                        it.type_ == conditions::PAIRED && it.reason == reasons::HOST_AGENT_GONE.name
                    });
            let reason = if is_gone { reasons::HOST_AGENT_GONE } else { *reason };
            return Verdict::no(reason, text.clone());
        }
        Pairing::Unknown { node, .. } => {
            return Verdict::waiting(format!("waiting for the facts of node {node}"));
        }
        Pairing::Paired { host_agent, endpoint } => (host_agent, endpoint),
    };
    if let Some(Ok(report)) = input.report
        && let Some((reason, message)) = refusal(&report.host_agent)
    {
        return Verdict::no(reason, format!("{host_agent}: {message}"));
    }
    let place = endpoint.as_ref().map_or_else(String::new, |endpoint| format!(" at {endpoint}"));
    let why = if input.previous.host_agent_name.as_deref() == Some(host_agent) {
        ""
    } else if stream.spec.host_agent.name.is_some() {
        ", named by spec.hostAgent.name"
    } else {
        match input.engine {
            Engine::Kubernetes => ", the least loaded one that the node reaches",
            Engine::Docker => ", the least loaded one that the machine reaches",
        }
    };
    let text = format!("{host_agent}{place}");
    let kept = kept_message(input.previous, conditions::PAIRED, reasons::PAIRED, &text);
    Verdict::yes(reasons::PAIRED, kept.unwrap_or_else(|| format!("{text}{why}")))
}

/// Reason and message of a connection that does not work; `None` if it works, or is being established.
fn refusal(connection: &HostAgentConnection) -> Option<(Reason, &str)> {
    match connection {
        HostAgentConnection::NotConfigured
        | HostAgentConnection::Connecting
        | HostAgentConnection::Connected { .. }
        | HostAgentConnection::OtherVm { .. }
        | HostAgentConnection::Unknown => None,
        HostAgentConnection::TokenExpired { message } => Some((reasons::TOKEN_EXPIRED, message)),
        HostAgentConnection::Untrusted { message } => Some((reasons::HOST_AGENT_UNTRUSTED, message)),
        HostAgentConnection::Unreachable { message } => Some((reasons::HOST_AGENT_GONE, message)),
        HostAgentConnection::Refused { code, message } => {
            let reason = match code {
                RefusalCode::BadToken => reasons::TOKEN_REFUSED,
                RefusalCode::Capacity => reasons::HOST_AGENT_FULL,
                RefusalCode::ShuttingDown => reasons::HOST_AGENT_GONE,
                RefusalCode::Version
                | RefusalCode::Protocol
                | RefusalCode::Encoder
                | RefusalCode::Replaced
                | RefusalCode::RateLimited
                | RefusalCode::Other => reasons::HOST_AGENT_REFUSED,
            };
            Some((reason, message))
        }
    }
}

/// Previous message of a condition if its reason is the same and it begins with `begin`: the message that explains a
/// choice stays after the choice was made.
fn kept_message(previous: &DesktopStreamStatus, kind: &str, reason: Reason, begin: &str) -> Option<String> {
    let old = previous.conditions.iter().find(|it| it.type_ == kind && it.reason == reason.name)?;
    old.message.starts_with(begin).then(|| old.message.clone())
}

fn capturing(report: &SidecarStatus, is_starting: bool) -> Verdict {
    let capture = &report.capture;
    if capture.error.is_empty() && report.frames.captured > 0 {
        return Verdict::yes(reasons::STREAMING, capture.negotiated.clone());
    }
    if capture.error.is_empty() {
        return Verdict::waiting("waiting for the first frame");
    }
    if is_starting {
        return Verdict::waiting(format!("the desktop is starting: {}", capture.error));
    }
    Verdict::no(reasons::NO_FRAMES, capture.error.clone())
}

fn streaming(stream: &Validated, report: &SidecarStatus) -> Verdict {
    let why = &report.frame_path_reason;
    let path = match report.frame_path {
        Some(path) if report.frames.encoded > 0 => path,
        _ => return Verdict::waiting(format!("no frame yet: {why}")),
    };
    if stream.spec.capture.require == Require::ZeroCopy && path != FramePath::ResourceId {
        return Verdict::no(reasons::NOT_ZERO_COPY, format!("the frame path is {path}: {why}"));
    }
    if stream.spec.encode.placement == Placement::HostAgent && path == FramePath::Local {
        return Verdict::no(reasons::NOT_BY_HOST_AGENT, format!("the sidecar encodes: {why}"));
    }
    match path {
        FramePath::ResourceId => Verdict::yes(reasons::BY_RESOURCE_ID, ""),
        FramePath::Pixels => Verdict::yes(reasons::BY_PIXELS, why.clone()),
        FramePath::Local => Verdict::yes(reasons::BY_LOCAL_ENCODER, why.clone()),
    }
}

/// Ready is true if viewers get video as the spec requires. Paired counts only if the stream needs a host-agent.
fn ready([devices, paired, capturing, streaming]: [&Verdict; 4], stream: &Validated) -> Verdict {
    let mut needed = vec![devices];
    if pair::is_required(stream) {
        needed.push(paired);
    }
    needed.extend([capturing, streaming]);
    let first = |holds| needed.iter().find(|verdict| verdict.holds == holds);
    match first(Some(false)).or_else(|| first(None)) {
        Some(obstacle) => Verdict::no(obstacle.reason, obstacle.text.clone()),
        None => Verdict::yes(reasons::PATH_SATISFIED, "viewers get video"),
    }
}

fn phase(verdicts: &[Verdict; 5], input: Input<'_>) -> Phase {
    match input.outcome.life {
        Life::Suspended => return Phase::Suspended,
        Life::Idle => return Phase::Idle,
        Life::Expired => return Phase::Ended,
        Life::Run => {}
    }
    let [devices, .., streaming, ready] = verdicts;
    if input.observation.is_some_and(|it| it.has_ended) {
        return Phase::Ended;
    }
    if ready.holds == Some(true) {
        Phase::Streaming
    } else if [reasons::NAME_TAKEN, reasons::REFUSED].contains(&devices.reason) && !runs(input) {
        Phase::Failed
    } else if input.observation.is_none_or(|it| it.node.is_none()) {
        Phase::Pending
    } else if is_degraded(verdicts, devices, streaming, ready) {
        Phase::Degraded
    } else {
        Phase::Starting
    }
}

/// True if the desktop's containers run, whatever else is wrong.
fn runs(input: Input<'_>) -> bool {
    let is_running = |it: &Container| matches!(it.state, ContainerState::Running { .. });
    input.observation.is_some_and(|it| !it.containers.is_empty() && it.containers.iter().all(is_running))
}

/// True if a condition is false for a reason other than waiting, and something is wrong rather than unfinished.
fn is_degraded(verdicts: &[Verdict], devices: &Verdict, streaming: &Verdict, ready: &Verdict) -> bool {
    let is_false = |verdict: &Verdict| verdict.holds == Some(false) && verdict.reason != reasons::WAITING;
    verdicts.iter().any(is_false)
        && (streaming.holds.is_some() || devices.holds == Some(false) || ready.reason.has_remedy())
}

#[cfg(test)]
mod tests;
