//! The part of a status that follows from the containers.

use std::path::Path;

use contract::names::TOKEN_FILE;
use k8s_openapi::jiff::SignedDuration;
use operator_api::conditions::{Engine, reasons};
use operator_api::{DeviceNodes, names};

use super::{Input, Verdict};
use crate::observation::{BlockedCause, Container, ContainerState, Exit, Observation, UnplacedCause};
use crate::pair;
use crate::validate::Validated;

/// Time from a desktop's start during which a missing frame is not an error.
const START_TIMEOUT: SignedDuration = SignedDuration::from_secs(30);

/// Verdict on DevicesReady.
pub(super) fn devices(stream: &Validated, input: Input<'_>) -> Verdict {
    if let Some(obstacle) = input.obstacle {
        let holds = (obstacle.reason != reasons::WAITING).then_some(false);
        return Verdict { holds, reason: obstacle.reason, text: obstacle.text.clone() };
    }
    let workload = input.engine.workload();
    let Some(observation) = input.observation else {
        return if stream.spec.attach.is_some() {
            Verdict::no(reasons::NOT_INJECTED, format!("no {workload} has this stream's sidecar"))
        } else {
            Verdict::unknown(reasons::POD_CREATED, format!("the {workload} is being created"))
        };
    };
    // What is evicted is terminating too; the eviction is the more useful reason.
    if let Some(message) = &observation.evicted {
        let machine = input.engine.machine();
        let text = format!("the {workload} is evicted from its {machine}: {message}");
        return Verdict::no(reasons::NODE_GONE, text);
    }
    if observation.is_terminating {
        return Verdict::no(reasons::REPLACING, format!("the {workload} is being deleted"));
    }
    if observation.has_ended {
        return Verdict::no(reasons::ENDED, "the desktop ended by itself");
    }
    if let Some(unplaced) = &observation.unplaced {
        return match unplaced.cause {
            UnplacedCause::Volume => {
                let (claim, why) = (stream.names.home(), first_sentence(&unplaced.message));
                Verdict::no(reasons::VOLUME_PENDING, format!("claim {claim} is not bound; scheduler: {why}"))
            }
            UnplacedCause::Resources => unschedulable(stream, input, first_sentence(&unplaced.message)),
        };
    }
    if observation.node.is_none() {
        return Verdict::waiting("waiting for the scheduler");
    }
    if let Some(blocked) = observation.containers.iter().find_map(blocked) {
        return blocked;
    }
    if let Some(waiting) = unstarted(stream, observation) {
        return waiting;
    }
    if let Some(text) = gpus_differ(input, observation) {
        return Verdict::no(reasons::GPUS_DIFFER, text);
    }
    Verdict::yes(reasons::DEVICES_ALLOCATED, "")
}

/// The scheduler's first sentence, without its full stop. The next one is about preemption, and may be a fragment:
/// `0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found`.
fn first_sentence(message: &str) -> &str {
    message.split(". ").next().unwrap_or(message).trim_end_matches(['.', ' '])
}

/// A message if the desktop's GPU and the render node of its sidecar are known, and are not the same GPU.
fn gpus_differ(input: Input<'_>, observation: &Observation) -> Option<String> {
    let path = input.report?.ok()?.render_node_path.as_deref()?;
    let facts = &input.nodes.iter().find(|node| Some(&node.name) == observation.node.as_ref())?.facts;
    let file = |path: &str| Path::new(path).file_name().map(ToOwned::to_owned);
    let find = |name: &String| facts.gpus.iter().find(|gpu| gpu.name == *name);
    let desktop: Vec<_> = observation.desktop_gpus.iter().map(find).collect::<Option<_>>()?;
    let is_other = !desktop.is_empty() && desktop.iter().all(|gpu| file(&gpu.render) != file(path));
    let gpus = observation.desktop_gpus.join(", ");
    is_other.then(|| format!("the desktop has GPU {gpus}, and its sidecar has {path}"))
}

fn unschedulable(stream: &Validated, input: Input<'_>, message: &str) -> Verdict {
    let gpu = &stream.spec.gpu;
    if gpu.count == 0 {
        return Verdict::no(reasons::UNSCHEDULABLE, message);
    }
    if !input.nodes.iter().any(|node| node.offers(gpu.class, gpu.device_nodes, gpu.count)) {
        let resource = names::resource(gpu.class, gpu.device_nodes == DeviceNodes::RenderAndCard);
        let text = match input.engine {
            Engine::Kubernetes => format!("no node offers {} of {resource}", gpu.count),
            Engine::Docker => format!("{message}; spec.gpu asks for {} of class {:?}", gpu.count, gpu.class),
        };
        return Verdict::no(reasons::NO_DEVICE, text);
    }
    let capable = input.nodes.iter().filter(|node| pair::can_run(stream, node)).count();
    let text = format!("{capable} nodes offer the device; scheduler: {message}");
    Verdict::no(reasons::UNSCHEDULABLE, text)
}

/// Verdict while the desktop, or a container beside it, has not been started: its image may be missing. The sidecar
/// starts first, and a test pattern streams without the desktop. A crash is reported in its place.
fn unstarted(stream: &Validated, observation: &Observation) -> Option<Verdict> {
    if observation.containers.iter().any(|it| matches!(it.state, ContainerState::Crashing { .. })) {
        return None;
    }
    // The operator does not read the Secret; the kubelet mounts it, and starts nothing without it.
    let is_starting = |it: &Container| it.is_sidecar && it.state == ContainerState::Starting;
    if let Some(secret) = &stream.spec.viewers.auth.secret_name
        && observation.containers.iter().any(is_starting)
    {
        let text = format!("waiting for the sidecar, which needs Secret {secret} with the key {TOKEN_FILE}");
        return Some(Verdict::waiting(text));
    }
    let mut desktop = observation.containers.iter().filter(|it| !it.is_sidecar).peekable();
    if desktop.peek().is_none() {
        return Some(Verdict::waiting("waiting for the containers"));
    }
    let Container { name, image, .. } = desktop.find(|it| it.state == ContainerState::Starting)?;
    Some(Verdict::waiting(format!("waiting for container {name}, image {image}")))
}

fn blocked(container: &Container) -> Option<Verdict> {
    let ContainerState::Blocked { cause, message } = &container.state else { return None };
    let reason = match cause {
        BlockedCause::Image => reasons::IMAGE,
        BlockedCause::Config => reasons::CONFIG,
        BlockedCause::DiskFull => reasons::DISK_FULL,
    };
    let Container { name, image, .. } = container;
    Some(Verdict::no(reason, format!("container {name}, image {image}: {message}")))
}

/// Verdict on Capturing and Streaming if a container crashes.
pub(super) fn crash(input: Input<'_>) -> Option<Verdict> {
    let containers = &input.observation?.containers;
    containers.iter().find_map(|container| {
        let ContainerState::Crashing { last } = &container.state else { return None };
        let reason = if container.is_sidecar { reasons::SIDECAR_CRASHING } else { reasons::DESKTOP_CRASHING };
        let last = last.as_ref().map_or_else(|| "the exit code is not known yet".to_owned(), describe);
        let text = format!("container {} restarted {} times; {last}", container.name, container.restarts);
        Some(Verdict::no(reason, text))
    })
}

fn describe(Exit { reason, code, message }: &Exit) -> String {
    let message = message.trim();
    let separator = if message.is_empty() { "" } else { ": " };
    format!("last exit: {reason}, code {code}{separator}{message}")
}

/// True if the desktop was started within [`START_TIMEOUT`], or is about to be started.
pub(super) fn is_starting(input: Input<'_>) -> bool {
    let Some(observation) = input.observation else { return false };
    observation.containers.iter().filter(|container| !container.is_sidecar).any(|container| match &container
        .state
    {
        ContainerState::Running { since: Some(since) } => input.now.duration_since(*since) < START_TIMEOUT,
        ContainerState::Crashing { .. } => false,
        ContainerState::Running { since: None }
        | ContainerState::Starting
        | ContainerState::Blocked { .. }
        | ContainerState::Exited(_) => true,
    })
}
