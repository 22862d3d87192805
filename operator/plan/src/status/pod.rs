//! What a pod's own status means for the stream.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use k8s_openapi::jiff::SignedDuration;

use super::{Seen, Verdict};
use crate::pair;
use crate::validate::Validated;
use operator_api::conditions::{Reason, reasons};
use operator_api::{GpuNodes, names};

/// Restarts after which a container counts as crashing.
const CRASHES: i32 = 2;

/// The kernel's words, which every engine passes on.
pub const NO_ROOM: &str = "no space left on device";

/// What a desktop may take from its start to its first frame before that counts as trouble.
const START: SignedDuration = SignedDuration::from_secs(30);

/// It has run to its end, well or badly, or its node is gone.
pub fn is_over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// It has ended well, by itself. One whose containers are started again whenever they end did not: somebody took it down,
/// as a kubelet does that was restarted, has no device plugin yet, and so does not admit it again; its containers ended well
/// when they were told to.
pub fn has_ended(pod: Option<&Pod>) -> bool {
    let Some(pod) = pod else { return false };
    let may_end =
        pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).is_some_and(|it| it != "Always");
    may_end && pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Succeeded")
}

/// Whether the pod has what it asked for.
pub(super) fn devices(stream: &Validated, seen: Seen<'_>) -> Verdict {
    if let Some(obstacle) = seen.obstacle {
        return Verdict::no(obstacle.reason, obstacle.text.clone());
    }
    let Some(pod) = seen.pod else {
        return if stream.spec.attach.is_some() {
            Verdict::no(reasons::NOT_INJECTED, "no pod bears this stream's sidecar")
        } else {
            Verdict::unknown(reasons::POD_CREATED, "the pod is being made")
        };
    };
    // An evicted pod is on its way out, too: why is worth more.
    if let Some((true, text)) = condition(pod, "DisruptionTarget") {
        return Verdict::no(reasons::NODE_GONE, format!("the pod is taken off its node: {text}"));
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Verdict::no(reasons::REPLACING, "the pod is going away");
    }
    if has_ended(Some(pod)) {
        return Verdict::no(reasons::ENDED, "the desktop ended by itself");
    }
    let placed = condition(pod, "PodScheduled");
    if let Some((false, text)) = placed {
        return unplaced(stream, seen, text);
    }
    if pod.spec.as_ref().is_none_or(|spec| spec.node_name.is_none()) {
        return Verdict::unknown(reasons::WAITING, "waiting for the scheduler");
    }
    if let Some((reason, text)) = containers(pod).find_map(stuck) {
        return Verdict::no(reason, text);
    }
    Verdict::yes(reasons::OK, "")
}

fn unplaced(stream: &Validated, seen: Seen<'_>, text: &str) -> Verdict {
    let volume = seen.claim.is_some_and(|claim| {
        claim.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Bound")
    });
    if volume && (text.contains("PersistentVolumeClaim") || text.contains("persistent")) {
        return Verdict::no(reasons::VOLUME_PENDING, format!("claim {}: {text}", stream.names.home()));
    }
    let gpu = &stream.spec.gpu;
    if gpu.count > 0 && !seen.nodes.iter().any(|node| node.offers(gpu.class, gpu.nodes, gpu.count)) {
        let resource = names::resource(gpu.class, gpu.nodes == GpuNodes::RenderAndCard);
        return Verdict::no(reasons::NO_DEVICE, format!("no node offers {} of {resource}", gpu.count));
    }
    if gpu.count == 0 {
        return Verdict::no(reasons::UNSCHEDULABLE, text);
    }
    let capable = seen.nodes.iter().filter(|node| pair::can_run(stream, node)).count();
    Verdict::no(
        reasons::UNSCHEDULABLE,
        format!("{capable} nodes offer the device; the scheduler says: {text}"),
    )
}

/// A pod's condition: whether it holds, and its message.
fn condition<'p>(pod: &'p Pod, kind: &str) -> Option<(bool, &'p str)> {
    let condition = pod.status.as_ref()?.conditions.as_ref()?.iter().find(|it| it.type_ == kind)?;
    Some((condition.status == "True", condition.message.as_deref().unwrap_or_default()))
}

fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let inits = status.and_then(|status| status.init_container_statuses.as_ref());
    let main = status.and_then(|status| status.container_statuses.as_ref());
    inits.into_iter().chain(main).flatten()
}

/// Why a container doesn't start, if that won't pass by itself.
fn stuck(container: &ContainerStatus) -> Option<(Reason, String)> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let text = waiting.message.as_deref().unwrap_or_default();
    let name = &container.name;
    let reason = match waiting.reason.as_deref()? {
        "ErrImagePull" | "ImagePullBackOff" | "CreateContainerError" | "RunContainerError"
            if text.contains(NO_ROOM) =>
        {
            reasons::DISK_FULL
        }
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => reasons::IMAGE,
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => reasons::CONFIG,
        _ => return None,
    };
    Some((reason, format!("container {name}, image {}: {text}", container.image)))
}

/// Why there is no picture though the pod has its node: a container that crashes.
pub(super) fn trouble(seen: Seen<'_>) -> Option<Verdict> {
    let crashing = containers(seen.pod?).find(|container| is_crashing(container))?;
    let last = crashing.last_state.as_ref().or(crashing.state.as_ref());
    let text =
        format!("container {} restarted {} times; {}", crashing.name, crashing.restart_count, exit(last));
    let reason = if crashing.name == names::SIDECAR_CONTAINER {
        reasons::SIDECAR_CRASHING
    } else {
        reasons::DESKTOP_CRASHING
    };
    Some(Verdict::no(reason, text))
}

/// The desktop was started a moment ago, or is about to be: that there are no frames yet is no trouble yet.
pub(super) fn is_starting(seen: Seen<'_>) -> bool {
    let Some(pod) = seen.pod else { return false };
    let mut desktops = containers(pod).filter(|container| container.name != names::SIDECAR_CONTAINER);
    desktops.any(|container| {
        let state = container.state.as_ref();
        let started = state.and_then(|state| state.running.as_ref()?.started_at.as_ref());
        started.map_or_else(|| !is_crashing(container), |at| seen.now.duration_since(at.0) < START)
    })
}

fn is_crashing(container: &ContainerStatus) -> bool {
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref()?.reason.as_deref());
    waiting == Some("CrashLoopBackOff")
        || (container.restart_count >= CRASHES && !container.ready && container.started != Some(true))
}

fn exit(state: Option<&ContainerState>) -> String {
    match state.and_then(|state| state.terminated.as_ref()) {
        Some(end) => {
            let said = end.message.as_deref().unwrap_or_default().trim();
            let reason = end.reason.as_deref().unwrap_or("ended");
            format!(
                "last: {reason}, exit code {}{}{said}",
                end.exit_code,
                if said.is_empty() { "" } else { ": " }
            )
        }
        None => "why is not known yet".to_owned(),
    }
}
