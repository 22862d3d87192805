//! Decides which stream's sidecar a pod gets, and adds it.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use operator_api::{DesktopStream, WorkloadKind, names};
use operator_plan::facts::Node;
use operator_plan::kubernetes::{self, SidecarImage};
use operator_plan::pair::Pairing;
use operator_plan::validate::security::Policy;
use operator_plan::validate::{Validated, validate};
use operator_plan::workload::{render_gid, workload};

/// Stream that a pod requests the sidecar of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// None, or the pod has the sidecar already.
    Nothing,
    /// The stream that a label names.
    Named(String),
    /// The stream that attaches to the pod's workload.
    Owned(WorkloadKind, String),
}

/// Request of a pod, from its label and its owner.
pub fn request(pod: &Pod) -> Request {
    if pod.annotations().contains_key(names::INJECTED) || pod.labels().contains_key(names::STREAM) {
        return Request::Nothing;
    }
    if let Some(name) = pod.labels().get(names::INJECT) {
        return Request::Named(name.clone());
    }
    let Some(owner) = pod.owner_references().iter().find(|owner| owner.controller == Some(true)) else {
        return Request::Nothing;
    };
    match owner.kind.as_str() {
        "StatefulSet" => Request::Owned(WorkloadKind::StatefulSet, owner.name.clone()),
        "Job" => Request::Owned(WorkloadKind::Job, owner.name.clone()),
        "ReplicaSet" => {
            // A ReplicaSet of a Deployment has the Deployment's name and the template's hash.
            let hash = pod.labels().get("pod-template-hash").map(|hash| format!("-{hash}"));
            match hash.and_then(|hash| owner.name.strip_suffix(&hash).map(ToOwned::to_owned)) {
                Some(deployment) => Request::Owned(WorkloadKind::Deployment, deployment),
                None => Request::Nothing,
            }
        }
        _ => Request::Nothing,
    }
}

/// The stream that a request is for. Streams that are being deleted do not count: their specs can change without a review.
pub fn choose<'s>(
    request: &Request,
    streams: impl IntoIterator<Item = &'s DesktopStream>,
) -> Option<&'s DesktopStream> {
    let mut streams = streams.into_iter().filter(|stream| stream.metadata.deletion_timestamp.is_none());
    streams.find(|stream| match (request, &stream.spec.attach) {
        (Request::Named(name), Some(_)) => stream.name_any() == *name,
        (Request::Owned(kind, name), Some(attach)) => attach.kind == *kind && attach.name == *name,
        _ => false,
    })
}

/// The pod with the sidecar.
///
/// # Errors
/// A message for the user if the stream is invalid, exceeds the policy or does not fit the pod.
pub fn injected(
    pod: &Pod,
    stream: &DesktopStream,
    nodes: &[Node],
    image: &SidecarImage,
    policy: &Policy,
) -> Result<Pod, String> {
    let valid = validate(stream)
        .and_then(|valid| policy.admit(valid))
        .map_err(|invalid| format!("DesktopStream {} is invalid: {invalid}", stream.name_any()))?;
    let container = valid.spec.attach.as_ref().and_then(|attach| attach.container.as_deref());
    let mut pod = pod.clone();
    let spec = pod.spec.as_mut().ok_or("the pod has no spec")?;
    if let Some(name) = container
        && !spec.containers.iter().any(|it| it.name == name)
    {
        return Err(format!(
            "the pod has no container {name:?}: correct spec.attach.container of {}",
            valid.names.stream
        ));
    }
    let gid = render_gid(&valid, nodes, &Pairing::NotNeeded);
    let workload = workload(&valid, gid);
    kubernetes::inject(&valid, &workload, image, spec, container);
    kubernetes::place(&valid, &workload, &Pairing::NotNeeded, spec);
    mark(&valid, &mut pod);
    Ok(pod)
}

fn mark(stream: &Validated, pod: &mut Pod) {
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(names::STREAM.to_owned(), stream.names.stream.clone());
    let generation = stream.generation.unwrap_or_default().to_string();
    pod.metadata.annotations.get_or_insert_default().insert(names::INJECTED.to_owned(), generation);
}

#[cfg(test)]
mod tests {
    use kube::core::ObjectMeta;
    use serde_json::{Value, json};

    use super::*;
    use operator_plan::testing::{node, stream};

    fn pod(metadata: &Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": metadata, "spec": {"containers": [{"name": "shell"}, {"name": "b"}]}}),
        )
        .expect("a pod")
    }

    fn owned(kind: &str, name: &str, labels: &Value) -> Pod {
        let owner = json!([{"apiVersion": "v", "kind": kind, "name": name, "uid": "u", "controller": true}]);
        pod(&json!({"ownerReferences": owner, "labels": labels}))
    }

    fn attached(attach: &Value) -> DesktopStream {
        stream(&json!({"spec": {"desktop": null, "attach": attach}}))
    }

    #[test]
    fn request_follows_the_label_or_the_owner() {
        assert_eq!(
            request(&pod(&json!({"labels": {names::INJECT: "desk"}}))),
            Request::Named("desk".to_owned())
        );
        assert_eq!(request(&pod(&json!({}))), Request::Nothing);
        assert_eq!(
            request(&owned("Job", "j", &json!({}))),
            Request::Owned(WorkloadKind::Job, "j".to_owned())
        );
        let deployment = owned("ReplicaSet", "kiosk-5d8f", &json!({"pod-template-hash": "5d8f"}));
        assert_eq!(request(&deployment), Request::Owned(WorkloadKind::Deployment, "kiosk".to_owned()));
        assert_eq!(request(&owned("ReplicaSet", "by-hand", &json!({}))), Request::Nothing);
        let streams = [attached(&json!({"kind": "Deployment", "name": "kiosk"}))];
        assert!(choose(&request(&deployment), &streams).is_some());
        assert!(choose(&Request::Owned(WorkloadKind::Job, "kiosk".to_owned()), &streams).is_none());
        assert!(
            choose(&Request::Named("desk".to_owned()), &[stream(&json!({}))]).is_none(),
            "a stream without attach"
        );
    }

    #[test]
    fn stream_that_is_being_deleted_attaches_to_nothing() {
        let mut streams = [attached(&json!({"kind": "Deployment", "name": "kiosk"}))];
        let requests =
            [Request::Named("desk".to_owned()), Request::Owned(WorkloadKind::Deployment, "kiosk".to_owned())];
        assert!(requests.iter().all(|request| choose(request, &streams).is_some()));
        let deleted = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["example.com/x"]});
        let deleted: ObjectMeta = serde_json::from_value(deleted).expect("metadata");
        streams[0].metadata.deletion_timestamp = deleted.deletion_timestamp;
        assert!(requests.iter().all(|request| choose(request, &streams).is_none()));
    }

    #[test]
    fn injected_pod_is_selected_by_the_service_and_not_injected_again() {
        let stream = attached(&json!({"kind": "Pod", "name": "any", "container": "b"}));
        let nodes = [node("n1", 105, &[])];
        let image = SidecarImage::default();
        let before = pod(&json!({"labels": {names::INJECT: "desk"}}));
        let after = injected(&before, &stream, &nodes, &image, &Policy::default()).expect("injects");
        assert_eq!(request(&after), Request::Nothing);
        let valid = validate(&stream).expect("valid");
        let selector =
            kubernetes::objects(&valid).service.spec.and_then(|spec| spec.selector).expect("a selector");
        assert!(
            selector.iter().all(|(key, value)| after.labels().get(key) == Some(value)),
            "the Service selects it"
        );
        let spec = after.spec.expect("a spec");
        assert_eq!(spec.init_containers.expect("inits")[0].name, names::SIDECAR_CONTAINER);
        assert!(spec.containers[1].volume_mounts.is_some() && spec.containers[0].volume_mounts.is_none());
        assert_eq!(spec.security_context.and_then(|it| it.supplemental_groups), Some(vec![105]));
        let wrong = attached(&json!({"kind": "Pod", "name": "any", "container": "z"}));
        assert!(
            injected(&before, &wrong, &nodes, &image, &Policy::default())
                .expect_err("no such")
                .contains("spec.attach.container")
        );
    }
}
