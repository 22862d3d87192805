#![expect(clippy::needless_pass_by_value, reason = "json! makes values")]

use contract::Endpoint;
use contract::sidecar_status::{CaptureState, FrameCounts};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use operator_api::names;
use serde_json::{Value, json};

use super::*;
use crate::testing::{node, validated};

mod containers;

/// Inputs of a status, as they are when the stream works.
struct World {
    stream: Validated,
    pod: Option<Pod>,
    obstacle: Option<Obstacle>,
    claim: Option<PersistentVolumeClaim>,
    nodes: Vec<Node>,
    pairing: Pairing,
    report: Option<Result<SidecarStatus, String>>,
    life: Life,
    previous: DesktopStreamStatus,
}

impl World {
    fn new(spec: Value) -> Self {
        let report = SidecarStatus {
            frame_path: Some(FramePath::ResourceId),
            frames: FrameCounts { captured: 9, encoded: 9, ..FrameCounts::default() },
            capture: CaptureState { negotiated: "DMA-BUF XR24".to_owned(), ..CaptureState::default() },
            host_agent: HostAgentConnection::Connected {
                endpoint: endpoint(),
                server: "host-agent".to_owned(),
            },
            width: 640,
            height: 480,
            ..SidecarStatus::default()
        };
        Self {
            stream: validated(&json!({"spec": spec})),
            pod: Some(running()),
            obstacle: None,
            claim: None,
            nodes: vec![node("n1", 105, &[("a", "vsock://2:1")])],
            pairing: Pairing::Paired { host_agent: "a".to_owned(), endpoint: Some(endpoint()) },
            report: Some(Ok(report)),
            life: Life::Run,
            previous: DesktopStreamStatus::default(),
        }
    }

    fn status(&self) -> DesktopStreamStatus {
        let report = self.report.as_ref();
        self.status_with(report.map(|it| it.as_ref().map_err(|error| ReportError::Silent(error))))
    }

    fn status_with(&self, report: Option<Report<'_>>) -> DesktopStreamStatus {
        let outcome = Outcome {
            life: self.life,
            unwatched_since: None,
            idle_since: None,
            woken_by: None,
            requeue_after: None,
        };
        let observation = self.pod.as_ref().map(|pod| kubernetes::observe(pod, self.claim.as_ref()));
        status(
            &self.stream,
            Input {
                engine: Engine::Kubernetes,
                observation: observation.as_ref(),
                obstacle: self.obstacle.as_ref(),
                nodes: &self.nodes,
                pairing: &self.pairing,
                report,
                outcome: &outcome,
                previous: &self.previous,
                now: Timestamp::UNIX_EPOCH,
            },
        )
    }

    fn report(&mut self, change: impl FnOnce(&mut SidecarStatus)) {
        if let Some(Ok(report)) = &mut self.report {
            change(report);
        }
    }
}

fn endpoint() -> Endpoint {
    "vsock://2:1".parse().expect("an endpoint")
}

fn pod(status: Value) -> Pod {
    let whole = json!({"metadata": {"name": "desk-desktop"}, "spec": {"nodeName": "n1", "containers": []}, "status": status});
    serde_json::from_value(whole).expect("a pod")
}

/// A pod whose desktop has run for an hour.
fn running() -> Pod {
    let state = json!({"running": {"startedAt": "1969-12-31T23:00:00Z"}});
    container("desktop", json!({"restartCount": 0, "ready": true, "started": true, "state": state}))
}

fn unscheduled(message: &str) -> Pod {
    let condition =
        json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message});
    let mut pod = pod(json!({"phase": "Pending", "conditions": [condition]}));
    pod.spec.as_mut().expect("a spec").node_name = None;
    pod
}

fn container(name: &str, state: Value) -> Pod {
    let mut status = json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 4});
    json_patch::merge(&mut status, &state);
    let list = if name == names::SIDECAR_CONTAINER { "initContainerStatuses" } else { "containerStatuses" };
    pod(json!({"phase": "Pending", list: [status]}))
}

/// Status, reason and message of a condition.
fn of<'s>(status: &'s DesktopStreamStatus, kind: &str) -> (&'s str, &'s str, &'s str) {
    let condition =
        status.conditions.iter().find(|it| it.type_ == kind).expect("every status has all conditions");
    (&condition.status, &condition.reason, &condition.message)
}

#[test]
fn status_of_a_working_stream_is_true_in_all_conditions() {
    let status = World::new(json!({})).status();
    assert_eq!(status.phase, Some(Phase::Streaming));
    for kind in conditions::STREAM_TYPES {
        assert_eq!(of(&status, kind).0, "True", "{kind}");
    }
    assert_eq!(of(&status, "Streaming").1, "ByResourceId");
    assert_eq!((status.node_name.as_deref(), status.host_agent_name.as_deref()), (Some("n1"), Some("a")));
    let capture = status.capture.expect("a capture status");
    assert_eq!((capture.width, capture.height), (Some(640), Some(480)));
    assert_eq!(status.viewer_url.as_deref(), Some("http://desk-viewers.team.svc/"));
}

#[test]
fn obstacle_beside_a_running_desktop_degrades_the_stream() {
    let mut world = World::new(json!({}));
    for reason in [reasons::NAME_TAKEN, reasons::REFUSED] {
        world.obstacle = Some(Obstacle { reason, text: "x".to_owned() });
        assert_eq!(world.status().phase, Some(Phase::Degraded));
    }
    world.pod = None;
    assert_eq!(world.status().phase, Some(Phase::Failed));
}

#[test]
fn obstacle_that_passes_by_itself_is_waiting() {
    let mut world = World::new(json!({}));
    (world.pod, world.report) = (None, None);
    world.obstacle = Some(Obstacle { reason: reasons::WAITING, text: "x".to_owned() });
    let status = world.status();
    assert_eq!((of(&status, "DevicesReady").0, of(&status, "DevicesReady").1), ("Unknown", "Waiting"));
    assert_eq!(status.phase, Some(Phase::Pending));
}

#[test]
fn refused_status_token_is_told_from_a_silent_sidecar() {
    let world = World::new(json!({}));
    let status = world.status_with(Some(Err(ReportError::TokenRefused)));
    let (holds, reason, message) = of(&status, "Capturing");
    assert_eq!((holds, reason), ("Unknown", "StatusRefused"));
    assert!(!message.contains("NetworkPolic"), "{message}");
}

#[test]
fn unknown_node_leaves_paired_unknown_and_the_host_agent_named() {
    let mut world = World::new(json!({}));
    world.pairing = Pairing::Unknown { host_agent: Some("a".to_owned()), node: "n1".to_owned() };
    let status = world.status();
    assert_eq!((of(&status, "Paired").0, of(&status, "Paired").1), ("Unknown", "Waiting"));
    assert_eq!(status.host_agent_name.as_deref(), Some("a"));
}

#[test]
fn failing_reconciliation_is_the_reason_of_ready_and_keeps_the_rest() {
    let before = World::new(json!({})).status();
    let subject = Subject { engine: Engine::Kubernetes, name: "desk", generation: Some(4) };
    let status = failing(subject, &before, "cannot create Service x: refused by a webhook", Timestamp::MAX);
    let (holds, reason, message) = of(&status, "Ready");
    assert_eq!((holds, reason), ("False", "ReconcileFails"));
    assert!(message.contains("refused by a webhook") && message.contains("retries"), "{message}");
    assert_eq!(of(&status, "Streaming"), of(&before, "Streaming"));
    assert_eq!((status.phase, &status.stats), (Some(Phase::Degraded), &before.stats));
    let again = failing(subject, &status, "another text", Timestamp::UNIX_EPOCH);
    let time = |status: &DesktopStreamStatus| status.conditions[4].last_transition_time.clone();
    assert_eq!(time(&again), time(&status));
    let new = failing(subject, &DesktopStreamStatus::default(), "x", Timestamp::MAX);
    assert_eq!(new.phase, Some(Phase::Failed));
}

#[test]
fn obstacle_and_eviction_are_the_reason_of_devices_ready() {
    let mut world = World::new(json!({}));
    (world.pod, world.report) = (None, None);
    world.obstacle = Some(Obstacle { reason: reasons::QUOTA, text: "exceeded quota: q".to_owned() });
    assert_eq!(of(&world.status(), "DevicesReady").1, "QuotaExceeded");
    assert_eq!(world.status().phase, Some(Phase::Pending));
    world.obstacle = Some(Obstacle { reason: reasons::NAME_TAKEN, text: "x".to_owned() });
    assert_eq!(world.status().phase, Some(Phase::Failed));
    world.obstacle = None;
    let target = json!({"type": "DisruptionTarget", "status": "True", "message": "eviction"});
    world.pod = Some(pod(json!({"phase": "Running", "conditions": [target]})));
    assert_eq!(of(&world.status(), "DevicesReady").1, "NodeGone");
}

/// A connection that does not work, with `message` as the text for people.
fn broken_connections(message: &str) -> [(HostAgentConnection, &'static str); 7] {
    let message = || message.to_owned();
    let refused = |code| HostAgentConnection::Refused { code, message: message() };
    [
        (HostAgentConnection::TokenExpired { message: message() }, "TokenExpired"),
        (refused(RefusalCode::BadToken), "TokenRefused"),
        (refused(RefusalCode::Capacity), "HostAgentFull"),
        (refused(RefusalCode::ShuttingDown), "HostAgentGone"),
        (refused(RefusalCode::Encoder), "HostAgentRefused"),
        (HostAgentConnection::Unreachable { message: message() }, "HostAgentGone"),
        (HostAgentConnection::Untrusted { message: message() }, "HostAgentUntrusted"),
    ]
}

#[test]
fn host_agent_that_is_gone_stays_so_until_another_is_paired() {
    let mut world = World::new(json!({}));
    let unreached = |reason| Pairing::None { reason, text: "node n1 does not reach a".to_owned() };
    let reasons =
        [reasons::HOST_AGENT_GONE, reasons::HOST_AGENT_UNREACHABLE, reasons::HOST_AGENT_UNREACHABLE];
    for reason in reasons {
        world.pairing = unreached(reason);
        world.previous = world.status();
        assert_eq!(of(&world.previous, "Paired").1, "HostAgentGone");
    }
    world.previous = DesktopStreamStatus::default();
    assert_eq!(of(&world.status(), "Paired").1, "HostAgentUnreachable");
}

#[test]
fn broken_connection_is_the_reason_of_paired_and_of_ready_if_required() {
    let mut world = World::new(json!({"hostAgent": {"name": "a"}}));
    for (connection, reason) in broken_connections("why") {
        world.report(|report| report.host_agent = connection);
        let status = world.status();
        assert_eq!((of(&status, "Paired").0, of(&status, "Paired").1), ("False", reason));
        assert_eq!(of(&status, "Ready").1, reason, "spec.hostAgent.name requires it");
        assert_eq!(status.phase, Some(Phase::Degraded));
    }
    for works in [
        HostAgentConnection::Connecting,
        HostAgentConnection::OtherVm { endpoint: endpoint(), server: String::new() },
        HostAgentConnection::Unknown,
    ] {
        world.report(|report| report.host_agent = works);
        assert_eq!(of(&world.status(), "Paired").0, "True");
    }
}

#[test]
fn rewording_every_message_changes_no_decision() {
    let spec = json!({"hostAgent": {"name": "a"}});
    // Texts that used to decide, and others.
    let texts =
        ["", "connected", "the token has expired", "refuses", "not configured", "DMA-BUF", "ça alors"];
    let decisions = |text: &str| {
        let mut decisions = Vec::new();
        let mut decide = |world: &World| {
            let status = world.status();
            let conditions = status.conditions.iter();
            let all: Vec<_> =
                conditions.map(|it| (it.type_.clone(), it.status.clone(), it.reason.clone())).collect();
            decisions.push((status.phase, all, status.host_agent_name));
        };
        for (connection, _) in broken_connections(text) {
            let mut world = World::new(spec.clone());
            world.report(|report| report.host_agent = connection);
            decide(&world);
        }
        for path in FramePath::ALL {
            let mut world = World::new(spec.clone());
            world.report(|report| {
                report.frame_path = Some(path);
                report.frame_path_reason = text.to_owned();
                report.encoder = text.to_owned();
                report.capture = CaptureState {
                    source: text.to_owned(),
                    negotiated: text.to_owned(),
                    shm_reason: text.to_owned(),
                    ..CaptureState::default()
                };
            });
            decide(&world);
        }
        let mut world = World::new(spec.clone());
        world.report(|report| report.capture.error = format!("error {text}"));
        decide(&world);
        world.report = Some(Err(text.to_owned()));
        decide(&world);
        world.obstacle = Some(Obstacle { reason: reasons::QUOTA, text: text.to_owned() });
        decide(&world);
        world.obstacle = None;
        world.pairing = Pairing::None { reason: reasons::HOST_AGENT_FULL, text: text.to_owned() };
        decide(&world);
        decisions
    };
    for text in texts {
        assert_eq!(decisions(text), decisions("x"), "{text:?}");
    }
}

#[test]
fn missing_host_agent_that_is_not_required_leaves_the_stream_ready() {
    let mut free = World::new(json!({}));
    free.pairing = Pairing::None { reason: reasons::NO_HOST_AGENT, text: "no HostAgent exists".to_owned() };
    free.report(|report| report.frame_path = Some(FramePath::Local));
    let status = free.status();
    assert_eq!(of(&status, "Paired").0, "False");
    assert_eq!((of(&status, "Streaming").1, status.phase), ("ByLocalEncoder", Some(Phase::Streaming)));
}

#[test]
fn frame_path_below_the_required_one_degrades_the_stream() {
    let mut world = World::new(json!({"capture": {"require": "ZeroCopy"}}));
    world.report(|report| {
        report.frame_path = Some(FramePath::Pixels);
        report.frame_path_reason = "no tap".to_owned();
    });
    let status = world.status();
    assert_eq!(of(&status, "Streaming").1, "NotZeroCopy");
    assert!(of(&status, "Streaming").2.contains("no tap"));
    assert_eq!(status.phase, Some(Phase::Degraded));
    let mut world = World::new(json!({"encode": {"placement": "HostAgent"}}));
    world.report(|report| report.frame_path = Some(FramePath::Local));
    assert_eq!(of(&world.status(), "Streaming").1, "NotByHostAgent");
}

#[test]
fn capturing_is_false_without_frames_and_unknown_without_an_answer() {
    let mut world = World::new(json!({}));
    world.report(|report| {
        report.frames = FrameCounts::default();
        report.capture.error = "no compositor".to_owned();
    });
    assert_eq!(of(&world.status(), "Capturing").1, "NoFrames");
    world.report(|report| report.capture.error = String::new());
    assert_eq!(world.status().phase, Some(Phase::Starting));
    world.report = Some(Err("timed out".to_owned()));
    let status = world.status();
    assert_eq!((of(&status, "Capturing").0, of(&status, "Capturing").1), ("Unknown", "SidecarSilent"));
}

#[test]
fn stopped_stream_has_the_phase_of_its_cause() {
    let mut world = World::new(json!({}));
    let mut ended = pod(json!({"phase": "Succeeded"}));
    world.pod = Some(ended.clone());
    world.report = None;
    assert_ne!(
        world.status().phase,
        Some(Phase::Ended),
        "a pod with restart policy Always did not end by itself"
    );
    ended.spec.as_mut().expect("a spec").restart_policy = Some("Never".to_owned());
    world.pod = Some(ended);
    assert_eq!(world.status().phase, Some(Phase::Ended));
    world.pod = None;
    for (life, phase, reason) in
        [(Life::Suspended, Phase::Suspended, "Suspended"), (Life::Idle, Phase::Idle, "Idle")]
    {
        world.life = life;
        let status = world.status();
        assert_eq!((status.phase, of(&status, "Ready").1), (Some(phase), reason));
        assert_eq!(of(&status, "Ready").0, "True", "stopped as the spec asks");
        assert!(of(&status, "Ready").2.contains("resume"), "{}", of(&status, "Ready").2);
        assert!(status.capture.is_none() && status.stats.is_none());
    }
}

#[test]
fn paired_message_keeps_the_reason_of_the_choice() {
    let mut world = World::new(json!({}));
    let first = world.status();
    assert!(of(&first, "Paired").2.contains("least loaded"));
    world.previous = first.clone();
    assert_eq!(of(&world.status(), "Paired"), of(&first, "Paired"));
}

#[test]
fn invalid_spec_fails_the_stream_and_keeps_the_node() {
    let before = World::new(json!({})).status();
    let bad = crate::testing::stream(&json!({"spec": {"gpu": {"count": 0, "deviceNodes": "RenderAndCard"}}}));
    let problems = crate::validate::validate(&bad).expect_err("bad");
    let subject = Subject { engine: Engine::Kubernetes, name: "desk", generation: Some(4) };
    let status = invalid(subject, &before, &problems, Timestamp::UNIX_EPOCH);
    assert_eq!((status.phase, status.node_name.as_deref()), (Some(Phase::Failed), Some("n1")));
    assert!(of(&status, "Ready").2.contains("spec.gpu: count 0"));
}

#[test]
fn capture_error_within_30_seconds_of_the_start_is_waiting() {
    let mut world = World::new(json!({}));
    world.report(|report| {
        report.frames = FrameCounts::default();
        report.capture.error = "no desktop yet".to_owned();
    });
    let at = |started: &str| {
        let running =
            json!({"restartCount": 0, "started": true, "state": {"running": {"startedAt": started}}});
        Some(container("desktop", running))
    };
    world.pod = at("1969-12-31T23:59:31Z");
    assert_eq!(
        of(&world.status(), "Capturing"),
        ("Unknown", "Waiting", "the desktop is starting: no desktop yet")
    );
    assert_eq!(world.status().phase, Some(Phase::Starting));
    world.pod = at("1969-12-31T23:59:30Z");
    assert_eq!(of(&world.status(), "Capturing").1, "NoFrames");
    assert_eq!(world.status().phase, Some(Phase::Degraded));
}
