#![expect(clippy::needless_pass_by_value, reason = "json! makes values")]

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::report::{Capture, Frames};
use super::*;
use crate::testing::node;
use crate::testing::validated;

/// Everything that there is to see, as it is when all is well.
struct World {
    stream: Validated,
    pod: Option<Pod>,
    obstacle: Option<Obstacle>,
    claim: Option<PersistentVolumeClaim>,
    nodes: Vec<Node>,
    pairing: Pairing,
    report: Option<Result<Report, String>>,
    life: Life,
    before: DesktopStreamStatus,
}

impl World {
    fn new(spec: Value) -> Self {
        let report = Report {
            rung: Some(Rung::ResourceId),
            frames: Frames { captured: 9, encoded: 9 },
            capture: Capture { taken: "DMA-BUF XR24".to_owned(), error: String::new() },
            host_agent: "connected to host-agent".to_owned(),
            width: 640,
            height: 480,
            ..Report::default()
        };
        Self {
            stream: validated(&json!({"spec": spec})),
            pod: Some(pod(json!({"phase": "Running"}))),
            obstacle: None,
            claim: None,
            nodes: vec![node("n1", 105, &[("a", "vsock://2:1")])],
            pairing: Pairing::Paired { host_agent: "a".to_owned(), endpoint: Some("vsock://2:1".to_owned()) },
            report: Some(Ok(report)),
            life: Life::Run,
            before: DesktopStreamStatus::default(),
        }
    }

    fn status(&self) -> DesktopStreamStatus {
        let outcome = Outcome {
            life: self.life.clone(),
            unwatched_since: None,
            idle_since: None,
            woken_by: None,
            look_again: None,
        };
        status(
            &self.stream,
            Seen {
                pod: self.pod.as_ref(),
                obstacle: self.obstacle.as_ref(),
                claim: self.claim.as_ref(),
                nodes: &self.nodes,
                pairing: &self.pairing,
                report: self.report.as_ref().map(|it| it.as_ref().map_err(String::as_str)),
                outcome: &outcome,
                before: &self.before,
                now: Timestamp::UNIX_EPOCH,
            },
        )
    }

    fn report(&mut self, change: impl FnOnce(&mut Report)) {
        if let Some(Ok(report)) = &mut self.report {
            change(report);
        }
    }
}

fn pod(status: Value) -> Pod {
    let whole = json!({"metadata": {"name": "desk-desktop"}, "spec": {"nodeName": "n1", "containers": []}, "status": status});
    serde_json::from_value(whole).expect("a pod")
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

/// The condition's status, reason and message.
fn told<'s>(status: &'s DesktopStreamStatus, kind: &str) -> (&'s str, &'s str, &'s str) {
    let condition = status.conditions.iter().find(|it| it.type_ == kind).expect("all are always there");
    (&condition.status, &condition.reason, &condition.message)
}

#[test]
fn all_well() {
    let status = World::new(json!({})).status();
    assert_eq!(status.phase, Some(Phase::Streaming));
    for kind in conditions::STREAM_TYPES {
        assert_eq!(told(&status, kind).0, "True", "{kind}");
    }
    assert_eq!(told(&status, "Streaming").1, "ByResourceId");
    assert_eq!((status.node.as_deref(), status.host_agent.as_deref()), (Some("n1"), Some("a")));
    assert_eq!(status.capture.expect("known").size, "640x480");
    assert_eq!(status.viewer_url.as_deref(), Some("http://desk-viewers.team.svc/"));
}

#[test]
fn why_there_is_no_place() {
    let mut world = World::new(json!({"desktop": {"home": {"size": "1Gi"}}}));
    world.report = None;
    world.pod = Some(unscheduled("0/1 nodes are available: 1 Insufficient desktopstream.dev/dri."));
    assert_eq!(told(&world.status(), "DevicesReady").1, "Unschedulable");
    world.nodes[0].devices.clear();
    let status = world.status();
    let (holds, reason, message) = told(&status, "DevicesReady");
    assert_eq!((holds, reason), ("False", "NoDeviceOnAnyNode"));
    assert!(message.contains("node-agent"), "names the fix: {message}");
    assert_eq!(told(&status, "Ready").1, "NoDeviceOnAnyNode", "the first obstacle is Ready's reason");
    assert_eq!(status.phase, Some(Phase::Pending));
    world.claim = Some(
        serde_json::from_value(json!({"metadata": {}, "status": {"phase": "Pending"}})).expect("a claim"),
    );
    world.pod = Some(unscheduled("pod has unbound immediate PersistentVolumeClaims"));
    assert_eq!(told(&world.status(), "DevicesReady").1, "VolumePending");
}

#[test]
fn containers_that_do_not_start() {
    let waiting = |reason: &str| json!({"state": {"waiting": {"reason": reason, "message": "because"}}});
    for (name, reason, kind, expected) in [
        ("desktop", "ImagePullBackOff", "DevicesReady", "ImageCannotBePulled"),
        ("desktop", "ErrImageNeverPull", "DevicesReady", "ImageCannotBePulled"),
        ("desktop", "CreateContainerConfigError", "DevicesReady", "ContainerConfigError"),
        (names::SIDECAR_CONTAINER, "CrashLoopBackOff", "Capturing", "SidecarCrashing"),
        ("desktop", "CrashLoopBackOff", "Capturing", "DesktopCrashing"),
    ] {
        let mut world = World::new(json!({}));
        world.report = None;
        world.pod = Some(container(name, waiting(reason)));
        let status = world.status();
        assert_eq!((told(&status, kind).0, told(&status, kind).1), ("False", expected), "{name} {reason}");
        assert_eq!(status.phase, Some(Phase::Degraded), "{name} {reason}");
        assert_eq!(told(&status, "Ready").1, expected);
    }
}

#[test]
fn a_quota_a_name_and_a_drain() {
    let mut world = World::new(json!({}));
    (world.pod, world.report) = (None, None);
    world.obstacle = Some(Obstacle { reason: reasons::QUOTA, text: "exceeded quota: q".to_owned() });
    assert_eq!(told(&world.status(), "DevicesReady").1, "QuotaExceeded");
    assert_eq!(world.status().phase, Some(Phase::Pending));
    world.obstacle = Some(Obstacle { reason: reasons::NAME_TAKEN, text: "x".to_owned() });
    assert_eq!(world.status().phase, Some(Phase::Failed));
    world.obstacle = None;
    let target = json!({"type": "DisruptionTarget", "status": "True", "message": "eviction"});
    world.pod = Some(pod(json!({"phase": "Running", "conditions": [target]})));
    assert_eq!(told(&world.status(), "DevicesReady").1, "NodeGone");
}

#[test]
fn tokens_and_host_agents() {
    let mut world = World::new(json!({"hostAgent": {"name": "a"}}));
    for (words, reason) in [
        ("the host-agent refuses: the token has expired; read it", "TokenExpired"),
        ("the host-agent refuses: no public key here verifies the token", "TokenRefused"),
        ("cannot connect", "HostAgentGone"),
    ] {
        world.report(|report| report.host_agent = words.to_owned());
        let status = world.status();
        assert_eq!((told(&status, "Paired").0, told(&status, "Paired").1), ("False", reason));
        assert_eq!(told(&status, "Ready").1, reason, "it was asked for by name");
        assert_eq!(status.phase, Some(Phase::Degraded));
    }
    let mut free = World::new(json!({}));
    free.pairing = Pairing::None { reason: reasons::NO_HOST_AGENT, text: "there is none".to_owned() };
    free.report(|report| report.rung = Some(Rung::Local));
    let status = free.status();
    assert_eq!(told(&status, "Paired").0, "False");
    assert_eq!((told(&status, "Streaming").1, status.phase), ("ByLocalEncoder", Some(Phase::Streaming)));
}

#[test]
fn a_lower_rung_than_asked_for_is_a_failure() {
    let mut world = World::new(json!({"capture": {"require": "ZeroCopy"}}));
    world.report(|report| {
        report.rung = Some(Rung::Pixels);
        report.rung_reason = "no tap".to_owned();
    });
    let status = world.status();
    assert_eq!(told(&status, "Streaming").1, "NotZeroCopy");
    assert!(told(&status, "Streaming").2.contains("no tap"));
    assert_eq!(status.phase, Some(Phase::Degraded));
    let mut world = World::new(json!({"encode": {"where": "HostAgent"}}));
    world.report(|report| report.rung = Some(Rung::Local));
    assert_eq!(told(&world.status(), "Streaming").1, "NotByHostAgent");
}

#[test]
fn a_sidecar_without_frames_and_one_that_is_silent() {
    let mut world = World::new(json!({}));
    world.report(|report| {
        report.frames = Frames::default();
        report.capture.error = "no compositor".to_owned();
    });
    assert_eq!(told(&world.status(), "Capturing").1, "NoFrames");
    world.report(|report| report.capture.error = String::new());
    assert_eq!(world.status().phase, Some(Phase::Starting));
    world.report = Some(Err("timed out".to_owned()));
    let status = world.status();
    assert_eq!((told(&status, "Capturing").0, told(&status, "Capturing").1), ("Unknown", "SidecarSilent"));
}

#[test]
fn rest_and_end() {
    let mut world = World::new(json!({}));
    let mut ended = pod(json!({"phase": "Succeeded"}));
    world.pod = Some(ended.clone());
    world.report = None;
    assert_ne!(world.status().phase, Some(Phase::Ended), "a pod that is always restarted was taken down");
    ended.spec.as_mut().expect("a spec").restart_policy = Some("Never".to_owned());
    world.pod = Some(ended);
    assert_eq!(world.status().phase, Some(Phase::Ended));
    world.pod = None;
    for (life, phase, reason) in
        [(Life::Suspended, Phase::Suspended, "Suspended"), (Life::Idle, Phase::Idle, "Idle")]
    {
        world.life = life;
        let status = world.status();
        assert_eq!((status.phase, told(&status, "Ready").1), (Some(phase), reason));
        assert!(status.capture.is_none() && status.stats.is_none());
    }
}

#[test]
fn the_message_of_a_choice_stays() {
    let mut world = World::new(json!({}));
    let first = world.status();
    assert!(told(&first, "Paired").2.contains("least loaded"));
    world.before = first.clone();
    assert_eq!(told(&world.status(), "Paired"), told(&first, "Paired"));
}

#[test]
fn an_invalid_spec_keeps_what_is_known() {
    let before = World::new(json!({})).status();
    let bad = crate::testing::stream(&json!({"spec": {"gpu": {"count": 0, "nodes": "RenderAndCard"}}}));
    let problems = crate::validate::validate(&bad).expect_err("bad");
    let status = invalid(&before, Some(4), &problems, Timestamp::UNIX_EPOCH);
    assert_eq!((status.phase, status.node.as_deref()), (Some(Phase::Failed), Some("n1")));
    assert!(told(&status, "Ready").2.contains("spec.gpu: count 0"));
}

#[test]
fn a_desktop_that_starts_has_time() {
    let mut world = World::new(json!({}));
    world.report(|report| {
        report.frames = Frames::default();
        report.capture.error = "no desktop yet".to_owned();
    });
    let at = |started: &str| {
        let running =
            json!({"restartCount": 0, "started": true, "state": {"running": {"startedAt": started}}});
        Some(container("desktop", running))
    };
    world.pod = at("1969-12-31T23:59:31Z");
    assert_eq!(
        told(&world.status(), "Capturing"),
        ("Unknown", "Waiting", "the desktop starts: no desktop yet")
    );
    assert_eq!(world.status().phase, Some(Phase::Starting));
    world.pod = at("1969-12-31T23:59:30Z");
    assert_eq!(told(&world.status(), "Capturing").1, "NoFrames");
    assert_eq!(world.status().phase, Some(Phase::Degraded));
}
