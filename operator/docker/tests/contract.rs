//! The same stream in the same situation has the same status in a cluster and on Docker. Each renderer makes its objects;
//! what a kubelet and an Engine would say of those objects is put to `plan::status`; phase, conditions and reasons must be
//! one. For every sample that Docker takes; the others are refused by the field that the table names.

use std::collections::BTreeMap;

use bollard::models::{ContainerCreateBody, ContainerInspectResponse, ContainerSummary};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use operator_api::conditions::reasons;
use operator_api::{
    DesktopStream, DesktopStreamStatus, EncodeWhere, GpuClass, GpuNodes, Phase, Require, names,
};
use operator_docker::names::{Place, Role};
use operator_docker::observe::{self, Container, Detail};
use operator_docker::refuse::{Publish, check};
use operator_docker::render::{self, Device, Setting};
use operator_docker::words;
use operator_plan::facts::Node;
use operator_plan::kubernetes::{SidecarImage, pod};
use operator_plan::lifecycle::{Life, Outcome};
use operator_plan::pair::Pairing;
use operator_plan::status::report::Report;
use operator_plan::status::{Obstacle, Seen, status};
use operator_plan::testing;
use operator_plan::validate::Validated;
use operator_plan::workload::workload;
use serde_json::{Value, json};

/// What Docker refuses of the samples, and by which field.
const REFUSED: [(&str, &str); 3] = [
    ("attach.yaml", "spec.attach.kind"),
    ("gnome-zero-copy.yaml", "spec.viewers.ingress"),
    ("pod-template.yaml", "spec.desktop.podTemplate"),
];

/// When it was when both looked.
const NOW: i64 = 1_000_000;

/// How one of the two containers does.
#[derive(Debug, Clone, Copy)]
enum How {
    /// For so many seconds.
    Runs(i64),
    Starts,
    Crashes,
    CannotBePulled,
    CannotBeMade,
    HasNoRoom,
}

/// What is so around a stream, and what comes of it: the phase, and the reason of Ready.
struct Situation {
    what: &'static str,
    desktop: How,
    sidecar: How,
    report: Option<Result<Value, &'static str>>,
    life: Life,
    has_gpu: bool,
    phase: Phase,
    ready: &'static str,
}

fn situations() -> Vec<Situation> {
    let runs = |what, report, phase, ready| Situation {
        what,
        desktop: How::Runs(600),
        sidecar: How::Runs(600),
        report,
        life: Life::Run,
        has_gpu: true,
        phase,
        ready,
    };
    let broken = |what, desktop, sidecar, ready| Situation {
        desktop,
        sidecar,
        ..runs(what, None, Phase::Degraded, ready)
    };
    let good = |rung: &str| Some(Ok(json!({"rung": rung, "frames": {"captured": 9, "encoded": 9}})));
    let blind = || Some(Ok(json!({"capture": {"error": "no compositor"}})));
    let mut all = vec![
        runs("its sidecar encodes", good("Local"), Phase::Streaming, "AsAsked"),
        runs("by pixels", good("Pixels"), Phase::Streaming, "AsAsked"),
        runs("by resource ID", good("ResourceId"), Phase::Streaming, "AsAsked"),
        runs("no frames for long", blind(), Phase::Degraded, "NoFrames"),
        runs("a silent sidecar", Some(Err("timed out")), Phase::Degraded, "SidecarSilent"),
        broken("the desktop crashes", How::Crashes, How::Runs(600), "DesktopCrashing"),
        broken("the sidecar crashes", How::Runs(600), How::Crashes, "SidecarCrashing"),
        broken("no such desktop's image", How::CannotBePulled, How::Runs(9), "ImageCannotBePulled"),
        broken("no such sidecar's image", How::Starts, How::CannotBePulled, "ImageCannotBePulled"),
        broken("no such command", How::CannotBeMade, How::Runs(9), "ContainerConfigError"),
        broken("no room for its image", How::HasNoRoom, How::Runs(9), "DiskFull"),
    ];
    all.push(Situation {
        desktop: How::Runs(3),
        ..runs("no frames yet", blind(), Phase::Starting, "Waiting")
    });
    all.push(Situation { has_gpu: false, ..runs("no GPU", None, Phase::Pending, "NoDeviceOnAnyNode") });
    let rests = [
        ("suspended", Life::Suspended, Phase::Suspended, "Suspended"),
        ("idle", Life::Idle, Phase::Idle, "Idle"),
        ("its time is up", Life::Expired, Phase::Ended, "DesktopEnded"),
    ];
    all.extend(rests.map(|(what, life, phase, ready)| Situation { life, ..runs(what, None, phase, ready) }));
    all
}

impl Situation {
    fn is_there(&self) -> bool {
        self.life == Life::Run && self.has_gpu
    }

    fn node(&self) -> Node {
        let count = u64::from(self.has_gpu) * 8;
        let devices = [GpuClass::Any, GpuClass::Virtio, GpuClass::Nvidia, GpuClass::Intel, GpuClass::Amd];
        let resources = devices.iter().map(|class| (names::resource(*class, false), count));
        Node { name: "n1".to_owned(), devices: resources.collect(), ready: true, ..Node::default() }
    }

    fn seen(
        &self,
        stream: &Validated,
        pod: Option<&Pod>,
        obstacle: Option<&Obstacle>,
    ) -> DesktopStreamStatus {
        let report = self.report.clone().map(|said| said.map(read::<Report>));
        let outcome = Outcome {
            life: self.life.clone(),
            unwatched_since: None,
            idle_since: None,
            woken_by: None,
            look_again: None,
        };
        let seen = Seen {
            pod,
            obstacle,
            claim: None,
            nodes: &[self.node()],
            pairing: &pairing(),
            report: report.as_ref().map(|it| it.as_ref().map_err(|why| *why)),
            outcome: &outcome,
            before: &DesktopStreamStatus::default(),
            now: Timestamp::from_second(NOW).expect("a time"),
        };
        status(stream, seen)
    }

    /// The rendered pod, with what scheduler and kubelet would write into it.
    fn in_a_cluster(&self, stream: &Validated) -> DesktopStreamStatus {
        let workload = workload(stream, Some(105));
        let mut pod = pod(stream, &workload, &pairing(), &SidecarImage::default()).expect("it has a desktop");
        if !self.has_gpu {
            let why =
                json!({"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"});
            pod.status = Some(read(json!({"phase": "Pending", "conditions": [why]})));
            return self.seen(stream, Some(&pod), None);
        }
        let spec = pod.spec.as_mut().expect("a spec");
        spec.node_name = Some("n1".to_owned());
        let told = |containers: &[k8s_openapi::api::core::v1::Container]| -> Vec<Value> {
            let how = |name: &str| if name == names::SIDECAR_CONTAINER { self.sidecar } else { self.desktop };
            containers.iter().map(|it| kubelets(&it.name, how(&it.name))).collect()
        };
        let inits = told(spec.init_containers.as_deref().unwrap_or_default());
        let main = told(&spec.containers);
        assert_eq!((inits.len(), main.len()), (1, 1), "a native sidecar and a desktop");
        let said = json!({"phase": "Running", "initContainerStatuses": inits, "containerStatuses": main});
        pod.status = Some(read(said));
        self.seen(stream, Some(&pod).filter(|_| self.is_there()), None)
    }

    /// The rendered containers, as an Engine lists and inspects them, or what it said when they were made.
    fn on_docker(&self, stream: &Validated) -> DesktopStreamStatus {
        let place = Place::new("team", &stream.names.stream);
        let gpu = Device { render: "/dev/dri/renderD128".to_owned(), card: None, gids: vec![105] };
        assert_eq!(stream.spec.gpu.nodes, GpuNodes::RenderOnly);
        let setting = Setting {
            place: &place,
            sidecar: &SidecarImage::default(),
            devices: &vec![gpu; stream.spec.gpu.count as usize],
            publish: &Publish::LOCAL,
            pairing: &pairing(),
            attached: None,
        };
        let objects = render::objects(stream, &workload(stream, Some(105)), setting);
        let engines = |role, body: &ContainerCreateBody, how| {
            let container = engines(&place, role, body, how);
            assert_eq!(container.place(), Some((place.clone(), role)), "its labels say whose it is");
            container
        };
        let (mut desktop, mut sidecar, mut obstacle) = (None, None, None);
        let body = objects.desktop.as_ref().expect("it has a desktop");
        for (role, body, how, found) in [
            (Role::Sidecar, &objects.sidecar, self.sidecar, &mut sidecar),
            (Role::Desktop, body, self.desktop, &mut desktop),
        ] {
            let reason = match how {
                How::CannotBePulled => reasons::IMAGE,
                How::CannotBeMade => reasons::CONFIG,
                How::HasNoRoom => reasons::DISK_FULL,
                _ => {
                    *found = Some(engines(role, body, how));
                    continue;
                }
            };
            // The sidecar comes first: where there is none, no desktop is begun.
            obstacle = Some(Obstacle { reason, text: "the Engine's words".to_owned() });
            break;
        }
        let pod = if self.has_gpu {
            observe::pod("n1", desktop.as_ref(), sidecar.as_ref())
                .or_else(|| Some(observe::unmade(&stream.names.stream, "n1")))
        } else {
            Some(observe::unplaced(&stream.names.stream, "too few GPUs"))
        };
        let there = self.life == Life::Run;
        let mut status =
            self.seen(stream, pod.as_ref().filter(|_| there), obstacle.as_ref().filter(|_| self.is_there()));
        words::translate(&mut status, &stream.names.stream);
        status
    }
}

fn pairing() -> Pairing {
    Pairing::Paired { host_agent: "default".to_owned(), endpoint: Some("tcp://10.0.0.1:15937".to_owned()) }
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("it has that shape")
}

fn when(second: i64) -> String {
    Timestamp::from_second(second).expect("a time").to_string()
}

/// A container's status in a pod.
fn kubelets(name: &str, how: How) -> Value {
    let waiting = |reason: &str, message: &str| json!({"waiting": {"reason": reason, "message": message}});
    let ended = json!({"terminated": {"exitCode": 3, "reason": "Error"}});
    let (state, runs) = match how {
        How::Runs(seconds) => (json!({"running": {"startedAt": when(NOW - seconds)}}), true),
        How::Starts => (waiting("PodInitializing", ""), false),
        How::Crashes => (waiting("CrashLoopBackOff", "back-off 10s"), false),
        How::CannotBePulled => (waiting("ImagePullBackOff", "Back-off pulling image"), false),
        How::CannotBeMade => (waiting("RunContainerError", "no such file or directory"), false),
        How::HasNoRoom => (waiting("ErrImagePull", "write /x: no space left on device"), false),
    };
    let crashes = matches!(how, How::Crashes);
    json!({
        "name": name, "image": "i", "imageID": "", "ready": runs, "started": runs, "state": state,
        "restartCount": if crashes { 4 } else { 0 }, "lastState": if crashes { ended } else { json!({}) },
    })
}

/// A container as an Engine lists it, and where it is looked at closer, inspects it.
fn engines(place: &Place, role: Role, body: &ContainerCreateBody, how: How) -> Container {
    let (state, started) = match how {
        How::Runs(seconds) => ("running", Some(NOW - seconds)),
        How::Crashes => ("restarting", Some(NOW - 9)),
        _ => ("created", None),
    };
    let summary: ContainerSummary = read(json!({
        "Id": "0123", "Names": [format!("/{}", place.object(role))], "Image": body.image, "State": state,
        "Labels": body.labels, "Created": NOW - 600,
    }));
    let found: ContainerInspectResponse = read(json!({
        "RestartCount": if state == "restarting" { 4 } else { 0 },
        "State": {"ExitCode": if state == "restarting" { 3 } else { 0 }, "StartedAt": started.map(when)},
    }));
    Container { detail: Some(Detail::read(&found)), ..Container::read(&summary) }
}

/// What must be the same.
fn said(status: &DesktopStreamStatus) -> (Option<Phase>, BTreeMap<&str, (&str, &str)>) {
    let conditions = status.conditions.iter();
    let all = conditions.map(|it| (it.type_.as_str(), (it.status.as_str(), it.reason.as_str())));
    (status.phase, all.collect())
}

/// The stream as Docker takes it: as it is, or without what the table says that it refuses, if there is a stream without.
fn taken(file: &str, stream: &DesktopStream) -> Option<Validated> {
    let Some((_, field)) = REFUSED.iter().find(|(name, _)| *name == file) else {
        return Some(check(stream, "team").unwrap_or_else(|refused| unreachable!("{file}: {refused}")));
    };
    let refused = check(stream, "team").expect_err(file);
    let fields: Vec<&str> = refused.0.iter().map(|problem| problem.field.as_str()).collect();
    assert!(fields.contains(field), "{file}: refused for {fields:?}, not for {field}");
    let mut without = stream.clone();
    without.spec.viewers.ingress = None;
    check(&without, "team").ok()
}

/// Whether all rungs will do for it.
fn is_modest(stream: &Validated) -> bool {
    stream.spec.capture.require == Require::Any && stream.spec.encode.place != EncodeWhere::HostAgent
}

#[test]
fn samples_have_one_status_in_both() {
    let mut compared = 0;
    for (file, stream) in testing::samples() {
        let Some(valid) = taken(&file, &stream) else { continue };
        for situation in situations() {
            if !situation.has_gpu && valid.spec.gpu.count == 0 {
                continue;
            }
            let what = format!("{file}, {}", situation.what);
            let (cluster, docker) = (situation.in_a_cluster(&valid), situation.on_docker(&valid));
            assert_eq!(said(&cluster), said(&docker), "{what}: a cluster's, Docker's");
            assert_eq!(
                (&cluster.capture, &cluster.host_agent),
                (&docker.capture, &docker.host_agent),
                "{what}"
            );
            if is_modest(&valid) {
                let (phase, conditions) = said(&docker);
                assert_eq!(
                    (phase, conditions["Ready"].1),
                    (Some(situation.phase), situation.ready),
                    "{what}"
                );
            }
            assert!(
                !format!("{:?}", docker.conditions).contains("kubectl"),
                "{what}: advice in Docker's words"
            );
            compared += 1;
        }
    }
    // Three samples, of which one wants no GPU.
    assert_eq!(compared, 3 * situations().len() - 1);
}
