//! Reasons to replace a pod.

use contract::SidecarStatus;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use operator_api::names;

use super::{has_ended, is_over, read_shape};
use crate::facts::Node;
use crate::validate::Validated;
use crate::workload::{self, Workload};

/// Reason why `pod` must be replaced; `None` if it can stay.
pub fn replace(pod: &Pod, workload: &Workload) -> Option<String> {
    if has_ended(pod) {
        return None;
    }
    if is_over(pod) {
        let status = pod.status.as_ref();
        let why = status.and_then(|status| status.message.clone().or_else(|| status.reason.clone()));
        return Some(format!("the pod failed: {}", why.as_deref().unwrap_or("its containers ended")));
    }
    if lacks_group(pod, workload) {
        return Some("the pod lacks the group of a GPU that a node has since reported".to_owned());
    }
    let shape = read_shape(pod.annotations().get(names::SHAPE)?);
    let changed = workload::changed(&shape, &workload.shape);
    (!changed.is_empty()).then(|| {
        let fields: Vec<String> = changed.iter().map(|part| format!("spec.{part}")).collect();
        format!("{} changed, which requires a new pod", fields.join(", "))
    })
}

/// True if the pod has no node yet, and is not in the render group of the node that it can be scheduled to now.
fn lacks_group(pod: &Pod, workload: &Workload) -> bool {
    let Some(spec) = pod.spec.as_ref().filter(|spec| spec.node_name.is_none()) else { return false };
    let groups = spec.security_context.as_ref().and_then(|pod| pod.supplemental_groups.as_ref());
    workload.render_gid.is_some_and(|gid| !groups.is_some_and(|groups| groups.contains(&gid.into())))
}

/// True if the pod runs without the device that it requested, and its node offers the device now.
///
/// A kubelet that lost its device state (a VM of the same name with a new disk) starts the pods that it already has
/// before the device plugin has registered, without their devices.
pub fn lacks_device(stream: &Validated, pod: &Pod, nodes: &[Node], report: &SidecarStatus) -> bool {
    let gpu = &stream.spec.gpu;
    let name = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let node = nodes.iter().find(|node| Some(node.name.as_str()) == name);
    gpu.count > 0
        && report.render_node == Some(false)
        && node.is_some_and(|node| node.ready && node.offers(gpu.class, gpu.device_nodes, gpu.count))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodStatus;
    use serde_json::json;

    use super::*;
    use crate::kubernetes::{self, SidecarImage};
    use crate::pair::Pairing;
    use crate::testing::validated;
    use crate::workload::workload;

    fn pod(stream: &Validated, gid: Option<u32>) -> (Workload, Pod) {
        let workload = workload(stream, gid);
        let pod = kubernetes::pod(stream, &workload, &Pairing::NotNeeded, &SidecarImage::default());
        (workload, pod.expect("the spec has a desktop"))
    }

    fn on(mut pod: Pod, node: &str) -> Pod {
        pod.spec.as_mut().expect("a spec").node_name = Some(node.to_owned());
        pod
    }

    #[test]
    fn pod_without_a_known_group_is_replaced_before_it_is_scheduled() {
        let stream = validated(&json!({}));
        let ((_, waiting), (known, good)) = (pod(&stream, None), pod(&stream, Some(105)));
        let text = serde_json::to_string(&waiting.spec.as_ref().expect("a spec").affinity).expect("JSON");
        assert!(text.contains("DoesNotExist") && text.contains("desktopstream.dev/render-gid"), "{text}");
        assert!(replace(&waiting, &known).is_some_and(|why| why.contains("group")));
        assert_eq!(replace(&good, &known), None);
        assert_eq!(replace(&on(waiting, "n1"), &known), None, "a running pod is not replaced");
    }

    #[test]
    fn succeeded_pod_is_replaced_unless_its_restart_policy_lets_it_end() {
        let stream = validated(&json!({}));
        let (workload, mut pod) = pod(&stream, Some(105));
        let mut replaced = |policy: Option<&str>| {
            pod.spec.as_mut().expect("a spec").restart_policy = policy.map(str::to_owned);
            pod.status = Some(PodStatus { phase: Some("Succeeded".to_owned()), ..PodStatus::default() });
            replace(&pod, &workload)
        };
        for always in [None, Some("Always")] {
            assert!(replaced(always).is_some_and(|why| why.contains("its containers ended")), "{always:?}");
        }
        for other in ["Never", "OnFailure"] {
            assert_eq!(replaced(Some(other)), None, "{other}");
        }
    }

    #[test]
    fn pod_without_its_device_is_replaced_once_its_node_offers_it() {
        let stream = validated(&json!({}));
        let pod = on(pod(&stream, Some(105)).1, "n1");
        let node = |shares: u64| Node {
            name: "n1".to_owned(),
            ready: true,
            devices: [("desktopstream.dev/dri".to_owned(), shares)].into(),
            ..Node::default()
        };
        let report = |render_node| SidecarStatus { render_node, ..SidecarStatus::default() };
        assert!(
            node(1).offers(stream.spec.gpu.class, stream.spec.gpu.device_nodes, 1),
            "the resource's name"
        );
        assert!(lacks_device(&stream, &pod, &[node(16)], &report(Some(false))));
        for (nodes, render_node) in [
            (vec![node(16)], Some(true)),
            (vec![node(16)], None),
            (vec![node(0)], Some(false)),
            (vec![Node { name: "n2".to_owned(), ..node(16) }], Some(false)),
            (vec![Node { ready: false, ..node(16) }], Some(false)),
        ] {
            assert!(!lacks_device(&stream, &pod, &nodes, &report(render_node)), "{nodes:?} {render_node:?}");
        }
    }
}
