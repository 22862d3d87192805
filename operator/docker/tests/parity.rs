//! A stream in the same situation has the same status on Kubernetes and on Docker.
//!
//! Each renderer creates its objects. Their states, as a kubelet and an Engine report them, go through the adapters into
//! `plan::status`; phase, conditions and reasons must be equal. This holds for every sample that Docker accepts; the others
//! are refused because of the field in the table.

use std::collections::BTreeMap;

use bollard::models::{ContainerCreateBody, ContainerInspectResponse, ContainerSummary};
use contract::SidecarStatus;
use k8s_openapi::jiff::Timestamp;
use operator_api::conditions::{Engine, reasons};
use operator_api::{
    DesktopStream, DesktopStreamStatus, DeviceNodes, GpuClass, Phase, Placement, Require, names,
};
use operator_docker::container::{Container, Detail};
use operator_docker::names::{Project, Role, StreamKey};
use operator_docker::observation;
use operator_docker::publish::Publish;
use operator_docker::render::{self, Device, Settings};
use operator_docker::unsupported::validate;
use operator_plan::facts::Node;
use operator_plan::kubernetes::{SidecarImage, observe, pod};
use operator_plan::lifecycle::{Life, Outcome};
use operator_plan::observation::Observation;
use operator_plan::pair::Pairing;
use operator_plan::status::{Input, Obstacle, ReportError, status};
use operator_plan::testing;
use operator_plan::validate::Validated;
use operator_plan::workload::workload;
use serde_json::{Value, json};

/// Samples that Docker refuses, and the field.
const REFUSED: [(&str, &str); 3] = [
    ("attach.yaml", "spec.attach.kind"),
    ("gnome-zero-copy.yaml", "spec.viewers.ingress"),
    ("pod-template.yaml", "spec.desktop.podTemplate"),
];

/// Time of the observation, Unix seconds.
const NOW: i64 = 1_000_000;

/// State of one of the two containers.
#[derive(Debug, Clone, Copy)]
enum State {
    /// Running for so many seconds.
    Running(i64),
    Starting,
    Crashing,
    CannotBePulled,
    CannotBeCreated,
    DiskFull,
}

/// A situation, and the expected phase and reason of Ready.
struct Situation {
    name: &'static str,
    desktop: State,
    sidecar: State,
    report: Option<Result<SidecarStatus, &'static str>>,
    life: Life,
    has_gpu: bool,
    phase: Phase,
    ready: &'static str,
}

fn situations() -> Vec<Situation> {
    let running = |name, report, phase, ready| Situation {
        name,
        desktop: State::Running(600),
        sidecar: State::Running(600),
        report,
        life: Life::Run,
        has_gpu: true,
        phase,
        ready,
    };
    let broken = |name, desktop, sidecar, ready| Situation {
        desktop,
        sidecar,
        ..running(name, None, Phase::Degraded, ready)
    };
    let frames_by =
        |path: &str| Some(Ok(parse(json!({"frame_path": path, "frames": {"captured": 9, "encoded": 9}}))));
    let no_frames = || Some(Ok(parse(json!({"capture": {"error": "no compositor"}}))));
    let mut all = vec![
        running("local encoder", frames_by("Local"), Phase::Streaming, "PathSatisfied"),
        running("pixels", frames_by("Pixels"), Phase::Streaming, "PathSatisfied"),
        running("resource ID", frames_by("ResourceId"), Phase::Streaming, "PathSatisfied"),
        running("no frames", no_frames(), Phase::Degraded, "NoFrames"),
        running("silent sidecar", Some(Err("timed out")), Phase::Degraded, "SidecarSilent"),
        broken("desktop crashes", State::Crashing, State::Running(600), "DesktopCrashing"),
        broken("sidecar crashes", State::Running(600), State::Crashing, "SidecarCrashing"),
        broken("no desktop image", State::CannotBePulled, State::Running(9), "ImageCannotBePulled"),
        broken("no sidecar image", State::Starting, State::CannotBePulled, "ImageCannotBePulled"),
        broken("no such command", State::CannotBeCreated, State::Running(9), "ContainerConfigError"),
        broken("disk full", State::DiskFull, State::Running(9), "DiskFull"),
    ];
    all.push(Situation {
        desktop: State::Running(3),
        ..running("no frames yet", no_frames(), Phase::Starting, "Waiting")
    });
    all.push(Situation { has_gpu: false, ..running("no GPU", None, Phase::Pending, "NoDeviceOnAnyNode") });
    let stopped = [
        ("suspended", Life::Suspended, Phase::Suspended, "Suspended"),
        ("idle", Life::Idle, Phase::Idle, "Idle"),
        ("expired", Life::Expired, Phase::Ended, "DesktopEnded"),
    ];
    all.extend(
        stopped.map(|(name, life, phase, ready)| Situation { life, ..running(name, None, phase, ready) }),
    );
    all
}

impl Situation {
    fn runs(&self) -> bool {
        self.life == Life::Run && self.has_gpu
    }

    fn node(&self) -> Node {
        let count = u64::from(self.has_gpu) * 8;
        let devices = [GpuClass::Any, GpuClass::Virtio, GpuClass::Nvidia, GpuClass::Intel, GpuClass::Amd];
        let resources = devices.iter().map(|class| (names::resource(*class, false), count));
        Node { name: "n1".to_owned(), devices: resources.collect(), ready: true, ..Node::default() }
    }

    fn status(
        &self,
        engine: Engine,
        stream: &Validated,
        observation: Option<&Observation>,
        obstacle: Option<&Obstacle>,
    ) -> DesktopStreamStatus {
        let outcome = Outcome {
            life: self.life,
            unwatched_since: None,
            idle_since: None,
            woken_by: None,
            requeue_after: None,
        };
        let input = Input {
            engine,
            observation,
            obstacle,
            nodes: &[self.node()],
            pairing: &pairing(),
            report: self.report.as_ref().map(|it| it.as_ref().map_err(|error| ReportError::Silent(error))),
            outcome: &outcome,
            previous: &DesktopStreamStatus::default(),
            now: Timestamp::from_second(NOW).expect("a time"),
        };
        status(stream, input)
    }

    /// Status from the rendered pod, with the status that scheduler and kubelet would write.
    fn on_kubernetes(&self, stream: &Validated) -> DesktopStreamStatus {
        let workload = workload(stream, Some(105));
        let mut pod = pod(stream, &workload, &pairing(), &SidecarImage::default()).expect("it has a desktop");
        if self.has_gpu {
            let spec = pod.spec.as_mut().expect("a spec");
            spec.node_name = Some("n1".to_owned());
            let statuses = |containers: &[k8s_openapi::api::core::v1::Container]| -> Vec<Value> {
                let state =
                    |name: &str| if name == names::SIDECAR_CONTAINER { self.sidecar } else { self.desktop };
                containers.iter().map(|it| kubelet_status(&it.name, state(&it.name))).collect()
            };
            let inits = statuses(spec.init_containers.as_deref().unwrap_or_default());
            let main = statuses(&spec.containers);
            assert_eq!((inits.len(), main.len()), (1, 1), "a native sidecar and a desktop");
            let status =
                json!({"phase": "Running", "initContainerStatuses": inits, "containerStatuses": main});
            pod.status = Some(parse(status));
        } else {
            let condition =
                json!({"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"});
            pod.status = Some(parse(json!({"phase": "Pending", "conditions": [condition]})));
        }
        let observation = Some(observe(&pod, None)).filter(|_| self.life == Life::Run);
        self.status(Engine::Kubernetes, stream, observation.as_ref(), None)
    }

    /// Status from the rendered containers as an Engine lists and inspects them, or from its refusal to create them.
    fn on_docker(&self, stream: &Validated) -> DesktopStreamStatus {
        let key = StreamKey::new(&team(), &stream.names.stream.parse().expect("a name"));
        let gpu = Device { render: "/dev/dri/renderD128".to_owned(), card: None, gids: vec![105] };
        assert_eq!(stream.spec.gpu.device_nodes, DeviceNodes::RenderOnly);
        let settings = Settings {
            key: &key,
            sidecar: &SidecarImage::default(),
            devices: &vec![gpu; stream.spec.gpu.count as usize],
            publish: &Publish::LOCAL,
            pairing: &pairing(),
            socket: None,
            attached: None,
        };
        let objects = render::objects(stream, &workload(stream, Some(105)), settings);
        let (mut desktop, mut sidecar, mut obstacle) = (None, None, None);
        let body = objects.desktop.as_ref().expect("it has a desktop");
        for (role, body, state, found) in [
            (Role::Sidecar, &objects.sidecar, self.sidecar, &mut sidecar),
            (Role::Desktop, body, self.desktop, &mut desktop),
        ] {
            let reason = match state {
                State::CannotBePulled => reasons::IMAGE,
                State::CannotBeCreated => reasons::CONFIG,
                State::DiskFull => reasons::DISK_FULL,
                State::Running(_) | State::Starting | State::Crashing => {
                    let container = engine_container(&key, role, body, state);
                    assert_eq!(container.owner(), Some((key.clone(), role)), "owner from the labels");
                    *found = Some(container);
                    continue;
                }
            };
            // Without a sidecar, no desktop is created.
            obstacle = Some(Obstacle { reason, text: "message of the Engine".to_owned() });
            break;
        }
        let observation = if self.has_gpu {
            observation::observe("n1", desktop.as_ref(), sidecar.as_ref())
                .or_else(|| Some(observation::not_created(&stream.names.stream, "n1")))
        } else {
            Some(observation::unplaced(&stream.names.stream, "too few GPUs"))
        };
        let observation = observation.filter(|_| self.life == Life::Run);
        let obstacle = obstacle.filter(|_| self.runs());
        self.status(Engine::Docker, stream, observation.as_ref(), obstacle.as_ref())
    }
}

fn team() -> Project {
    "team".parse().expect("a project")
}

fn pairing() -> Pairing {
    let endpoint = "tcp://10.0.0.1:15937".parse().expect("an endpoint");
    Pairing::Paired { host_agent: "default".to_owned(), endpoint: Some(endpoint) }
}

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("parses")
}

fn time(second: i64) -> String {
    Timestamp::from_second(second).expect("a time").to_string()
}

/// A container's status in a pod.
fn kubelet_status(name: &str, state: State) -> Value {
    let waiting = |reason: &str, message: &str| json!({"waiting": {"reason": reason, "message": message}});
    let terminated = json!({"terminated": {"exitCode": 3, "reason": "Error"}});
    let (current, runs) = match state {
        State::Running(seconds) => (json!({"running": {"startedAt": time(NOW - seconds)}}), true),
        State::Starting => (waiting("PodInitializing", ""), false),
        State::Crashing => (waiting("CrashLoopBackOff", "back-off 10s"), false),
        State::CannotBePulled => (waiting("ImagePullBackOff", "Back-off pulling image"), false),
        State::CannotBeCreated => (waiting("RunContainerError", "no such file or directory"), false),
        State::DiskFull => (waiting("ErrImagePull", "write /x: no space left on device"), false),
    };
    let crashes = matches!(state, State::Crashing);
    json!({
        "name": name, "image": "i", "imageID": "", "ready": runs, "started": runs, "state": current,
        "restartCount": if crashes { 4 } else { 0 }, "lastState": if crashes { terminated } else { json!({}) },
    })
}

/// A container as an Engine lists and inspects it.
fn engine_container(key: &StreamKey, role: Role, body: &ContainerCreateBody, state: State) -> Container {
    let (name, started) = match state {
        State::Running(seconds) => ("running", Some(NOW - seconds)),
        State::Crashing => ("restarting", Some(NOW - 9)),
        _ => ("created", None),
    };
    let summary: ContainerSummary = parse(json!({
        "Id": "0123", "Names": [format!("/{}", key.object(role))], "Image": body.image, "State": name,
        "Labels": body.labels, "Created": NOW - 600,
    }));
    let crashes = matches!(state, State::Crashing);
    let found: ContainerInspectResponse = parse(json!({
        "RestartCount": if crashes { 4 } else { 0 },
        "State": {"ExitCode": if crashes { 3 } else { 0 }, "StartedAt": started.map(time)},
    }));
    Container { detail: Some(Detail::from(&found)), ..Container::from(&summary) }
}

/// The part that must be equal: the phase, and status and reason by condition.
fn summary(status: &DesktopStreamStatus) -> (Option<Phase>, BTreeMap<&str, (&str, &str)>) {
    let conditions = status.conditions.iter();
    let all = conditions.map(|it| (it.type_.as_str(), (it.status.as_str(), it.reason.as_str())));
    (status.phase, all.collect())
}

/// The validated sample. A sample in the table is validated without its Ingress; `None` if Docker refuses it still.
fn accepted(file: &str, stream: &DesktopStream) -> Option<Validated> {
    let Some((_, field)) = REFUSED.iter().find(|(name, _)| *name == file) else {
        return Some(validate(stream, &team()).unwrap_or_else(|refused| unreachable!("{file}: {refused}")));
    };
    let refused = validate(stream, &team()).expect_err(file);
    let fields: Vec<&str> = refused.0.iter().map(|problem| problem.field.as_str()).collect();
    assert!(fields.contains(field), "{file}: refused for {fields:?}, not for {field}");
    let mut without = stream.clone();
    without.spec.viewers.ingress = None;
    validate(&without, &team()).ok()
}

/// Whether every frame path satisfies the stream.
fn accepts_every_path(stream: &Validated) -> bool {
    stream.spec.capture.require == Require::Any && stream.spec.encode.placement != Placement::HostAgent
}

/// Checks that the conditions name Docker's commands, and no pods.
fn assert_words_of_docker(name: &str, status: &DesktopStreamStatus) {
    for condition in &status.conditions {
        let message = &condition.message;
        assert!(!message.contains("kubectl"), "{name}: {message}");
        let mut words = message.split(|c: char| !c.is_alphanumeric());
        assert!(words.all(|word| word != "pod" && word != "pods"), "{name}: {message}");
    }
}

/// The states that samples do not reach: nothing created yet, nothing to attach to, and those that only pods have.
#[test]
fn condition_on_docker_never_says_pod() {
    let situations = situations();
    let desktop = testing::validated(&json!({}));
    let attached = json!({"spec": {"desktop": null, "attach": {"kind": "Pod", "name": "any"}}});
    let attached = testing::validated(&attached);
    let named = || observation::not_created("desk", "n1");
    let observations = [
        None,
        Some(named()),
        Some(observation::unplaced("desk", "the machine has too few GPUs")),
        Some(Observation { is_terminating: true, ..named() }),
        Some(Observation { has_ended: true, ..named() }),
        Some(Observation { evicted: Some("why".to_owned()), ..named() }),
        Some(Observation { node: None, ..named() }),
    ];
    for situation in &situations {
        for observation in &observations {
            for stream in [&desktop, &attached] {
                let status = situation.status(Engine::Docker, stream, observation.as_ref(), None);
                assert_words_of_docker(situation.name, &status);
            }
            for reason in reasons::ALL {
                let obstacle = Obstacle { reason: *reason, text: "text".to_owned() };
                let status =
                    situation.status(Engine::Docker, &desktop, observation.as_ref(), Some(&obstacle));
                assert_words_of_docker(situation.name, &status);
            }
        }
    }
}

#[test]
fn samples_in_every_situation_have_the_same_status_on_both_engines() {
    let mut compared = 0;
    for (file, stream) in testing::samples() {
        let Some(valid) = accepted(&file, &stream) else { continue };
        for situation in situations() {
            if !situation.has_gpu && valid.spec.gpu.count == 0 {
                continue;
            }
            let name = format!("{file}, {}", situation.name);
            let (kubernetes, docker) = (situation.on_kubernetes(&valid), situation.on_docker(&valid));
            assert_eq!(summary(&kubernetes), summary(&docker), "{name}: Kubernetes, Docker");
            assert_eq!(
                (&kubernetes.capture, &kubernetes.host_agent_name),
                (&docker.capture, &docker.host_agent_name),
                "{name}"
            );
            if accepts_every_path(&valid) {
                let (phase, conditions) = summary(&docker);
                assert_eq!(
                    (phase, conditions["Ready"].1),
                    (Some(situation.phase), situation.ready),
                    "{name}"
                );
            }
            assert_words_of_docker(&name, &docker);
            compared += 1;
        }
    }
    // Three samples, one of them without a GPU.
    assert_eq!(compared, 3 * situations().len() - 1);
}
