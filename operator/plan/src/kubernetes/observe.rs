//! Reads a pod as an [`Observation`].

use k8s_openapi::api::core::v1::{
    ContainerState as KubeState, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    PersistentVolumeClaim, Pod,
};
use operator_api::names;

use crate::observation::{
    BlockedCause, Container, ContainerState, Exit, NO_SPACE, Observation, Unplaced, UnplacedCause,
};

/// True if the pod ran to its end, successfully or not, or its node is lost.
pub fn is_over(pod: &Pod) -> bool {
    matches!(phase(pod), Some("Succeeded" | "Failed"))
}

/// True if all containers succeeded and the restart policy does not restart them.
///
/// A pod with restart policy `Always` can succeed too: a kubelet that was restarted and has no device plugin yet stops the
/// containers of pods that it does not admit again.
pub fn has_ended(pod: &Pod) -> bool {
    let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    policy.is_some_and(|it| it != "Always") && phase(pod) == Some("Succeeded")
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref().and_then(|status| status.phase.as_deref())
}

/// Reads a pod. `home` is the claim of the stream's home volume.
pub fn observe(pod: &Pod, home: Option<&PersistentVolumeClaim>) -> Observation {
    let evicted = condition(pod, "DisruptionTarget").filter(|(holds, _)| *holds);
    let unplaced = condition(pod, "PodScheduled").filter(|(holds, _)| !holds);
    Observation {
        name: pod.metadata.name.clone().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        unplaced: unplaced
            .map(|(_, message)| Unplaced { cause: cause(message, home), message: message.to_owned() }),
        evicted: evicted.map(|(_, message)| message.to_owned()),
        is_terminating: pod.metadata.deletion_timestamp.is_some(),
        has_ended: has_ended(pod),
        desktop_gpus: desktop_gpus(pod),
        containers: containers(pod).map(container).collect(),
    }
}

/// GPUs of the containers beside the sidecar, which kubelets report since 1.36 (KEP-4680).
fn desktop_gpus(pod: &Pod) -> Vec<String> {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let allocated = statuses.flat_map(|status| status.allocated_resources_status.iter().flatten());
    let ours = allocated.filter(|resource| resource.name.starts_with(names::RESOURCE_DOMAIN));
    let shares = ours.flat_map(|resource| resource.resources.iter().flatten());
    shares.filter_map(|share| names::gpu_of_share(&share.resource_id)).map(ToOwned::to_owned).collect()
}

/// The scheduler reports an unbound volume only in its message.
fn cause(message: &str, home: Option<&PersistentVolumeClaim>) -> UnplacedCause {
    let is_bound = |claim: &PersistentVolumeClaim| {
        claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
    };
    let names_volume = message.contains("PersistentVolumeClaim") || message.contains("persistent");
    if names_volume && home.is_some_and(|claim| !is_bound(claim)) {
        UnplacedCause::Volume
    } else {
        UnplacedCause::Resources
    }
}

/// Status and message of a pod condition.
fn condition<'p>(pod: &'p Pod, kind: &str) -> Option<(bool, &'p str)> {
    let condition = pod.status.as_ref()?.conditions.as_ref()?.iter().find(|it| it.type_ == kind)?;
    Some((condition.status == "True", condition.message.as_deref().unwrap_or_default()))
}

fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    let main = status.and_then(|status| status.container_statuses.as_ref());
    init.into_iter().chain(main).flatten()
}

fn container(status: &ContainerStatus) -> Container {
    Container {
        name: status.name.clone(),
        image: status.image.clone(),
        is_sidecar: status.name == names::SIDECAR_CONTAINER,
        restarts: status.restart_count.try_into().unwrap_or(0),
        state: state(status),
    }
}

fn state(status: &ContainerStatus) -> ContainerState {
    let now = status.state.clone().unwrap_or_default();
    if let Some(blocked) = now.waiting.as_ref().and_then(blocked) {
        return blocked;
    }
    if is_crashing(status, &now) {
        let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        let last = if status.last_state.is_some() { last } else { now.terminated.as_ref() };
        return ContainerState::Crashing { last: last.map(exit) };
    }
    match (now.running, now.terminated) {
        (Some(running), _) => ContainerState::Running { since: running.started_at.map(|at| at.0) },
        (None, Some(terminated)) => ContainerState::Exited(exit(&terminated)),
        (None, None) => ContainerState::Starting,
    }
}

fn is_crashing(status: &ContainerStatus, now: &KubeState) -> bool {
    let waiting = now.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref());
    let restarts = u32::try_from(status.restart_count).unwrap_or(0);
    waiting == Some("CrashLoopBackOff")
        || (restarts >= ContainerState::CRASHING_RESTARTS && !status.ready && status.started != Some(true))
}

/// A waiting container that does not start by itself.
fn blocked(waiting: &ContainerStateWaiting) -> Option<ContainerState> {
    let message = waiting.message.clone().unwrap_or_default();
    let is_full = message.contains(NO_SPACE);
    let cause = match waiting.reason.as_deref()? {
        "ErrImagePull" | "ImagePullBackOff" | "CreateContainerError" | "RunContainerError" if is_full => {
            BlockedCause::DiskFull
        }
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => BlockedCause::Image,
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => BlockedCause::Config,
        _ => return None,
    };
    Some(ContainerState::Blocked { cause, message })
}

fn exit(terminated: &ContainerStateTerminated) -> Exit {
    Exit {
        reason: terminated.reason.clone().unwrap_or_else(|| "ended".to_owned()),
        code: terminated.exit_code,
        message: terminated.message.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: &Value) -> Pod {
        let pod = json!({"metadata": {"name": "desk-desktop"}, "spec": {"nodeName": "n1", "containers": []}, "status": status});
        serde_json::from_value(pod).expect("a pod")
    }

    fn state_of(status: &Value) -> ContainerState {
        let mut whole =
            json!({"name": "desktop", "image": "i", "imageID": "", "ready": false, "restartCount": 0});
        json_patch::merge(&mut whole, status);
        observe(&pod(&json!({"containerStatuses": [whole]})), None).containers.remove(0).state
    }

    #[test]
    fn waiting_container_is_blocked_starting_or_crashing_by_its_reason() {
        let waiting = |reason: &str, message: &str| {
            state_of(&json!({"state": {"waiting": {"reason": reason, "message": message}}}))
        };
        let blocked = |cause| ContainerState::Blocked { cause, message: "m".to_owned() };
        for reason in ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"] {
            assert_eq!(waiting(reason, "m"), blocked(BlockedCause::Image), "{reason}");
        }
        for reason in ["CreateContainerConfigError", "CreateContainerError", "RunContainerError"] {
            assert_eq!(waiting(reason, "m"), blocked(BlockedCause::Config), "{reason}");
        }
        let full = waiting("ErrImagePull", "write /x: no space left on device");
        assert!(matches!(full, ContainerState::Blocked { cause: BlockedCause::DiskFull, .. }), "{full:?}");
        assert_eq!(waiting("PodInitializing", ""), ContainerState::Starting);
        assert_eq!(waiting("CrashLoopBackOff", ""), ContainerState::Crashing { last: None });
    }

    #[test]
    fn restarted_container_that_is_not_ready_is_crashing() {
        let ended = json!({"terminated": {"exitCode": 3, "reason": "Error"}});
        let crashing = state_of(&json!({"restartCount": 2, "state": ended, "lastState": ended}));
        let last = Exit { reason: "Error".to_owned(), code: 3, message: String::new() };
        assert_eq!(crashing, ContainerState::Crashing { last: Some(last.clone()) });
        assert_eq!(state_of(&json!({"restartCount": 1, "state": ended})), ContainerState::Exited(last));
        let runs = json!({"restartCount": 9, "ready": true, "started": true, "state": {"running": {}}});
        assert_eq!(state_of(&runs), ContainerState::Running { since: None });
    }

    #[test]
    fn unscheduled_pod_waits_for_its_volume_only_while_the_claim_is_unbound() {
        let unplaced = |message: &str, claim: Option<&str>| {
            let condition = json!({"type": "PodScheduled", "status": "False", "message": message});
            let claim = claim.map(|phase| {
                serde_json::from_value(json!({"metadata": {}, "status": {"phase": phase}})).expect("a claim")
            });
            observe(&pod(&json!({"conditions": [condition]})), claim.as_ref()).unplaced.map(|it| it.cause)
        };
        let volume = "pod has unbound immediate PersistentVolumeClaims";
        assert_eq!(unplaced(volume, Some("Pending")), Some(UnplacedCause::Volume));
        assert_eq!(unplaced(volume, Some("Bound")), Some(UnplacedCause::Resources));
        assert_eq!(unplaced("0/1 nodes are available", Some("Pending")), Some(UnplacedCause::Resources));
        assert_eq!(unplaced(volume, None), Some(UnplacedCause::Resources));
    }

    #[test]
    fn pod_ends_only_if_its_restart_policy_lets_it() {
        let ended = |policy: Option<&str>| {
            let mut pod = pod(&json!({"phase": "Succeeded"}));
            pod.spec.as_mut().expect("a spec").restart_policy = policy.map(str::to_owned);
            observe(&pod, None).has_ended
        };
        assert!(ended(Some("Never")) && ended(Some("OnFailure")));
        assert!(!ended(Some("Always")) && !ended(None));
    }
}
