//! Why a pod of ours has to make room for another.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use super::read_shape;
use crate::facts::Node;
use crate::status;
use crate::status::report::Report;
use crate::validate::Validated;
use crate::workload::{self, Workload};
use operator_api::names;

/// Why it has to go; `None` if it may stay.
pub fn replace(pod: &Pod, workload: &Workload) -> Option<String> {
    if status::has_ended(Some(pod)) {
        return None;
    }
    if status::is_over(pod) {
        let status = pod.status.as_ref();
        let why = status.and_then(|status| status.message.clone().or_else(|| status.reason.clone()));
        return Some(format!("the pod failed: {}", why.as_deref().unwrap_or("its containers ended")));
    }
    if lacks_group(pod, workload) {
        return Some(
            "no node had such a GPU when the pod was made; now one has, whose group it must be in".to_owned(),
        );
    }
    let shape = read_shape(pod.annotations().get(names::SHAPE)?);
    let changed = workload::changed(&shape, &workload.shape);
    (!changed.is_empty()).then(|| {
        let fields: Vec<String> = changed.iter().map(|part| format!("spec.{part}")).collect();
        format!("{} changed, which a running pod can't take over", fields.join(", "))
    })
}

/// Whether a pod waits for a node, and would not be in the render group of the one that it may get now.
fn lacks_group(pod: &Pod, workload: &Workload) -> bool {
    let Some(spec) = pod.spec.as_ref().filter(|spec| spec.node_name.is_none()) else { return false };
    let groups = spec.security_context.as_ref().and_then(|pod| pod.supplemental_groups.as_ref());
    workload.render_gid.is_some_and(|gid| !groups.is_some_and(|groups| groups.contains(&gid.into())))
}

/// Whether a pod runs without the device that it was promised, which its node has by now. A kubelet that has forgotten its
/// devices (a VM of the same name with a new disk) starts the pods it is told of before our device plugin has come, and
/// gives them none.
pub fn lacks_device(stream: &Validated, pod: &Pod, nodes: &[Node], report: &Report) -> bool {
    let gpu = &stream.spec.gpu;
    let name = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let node = nodes.iter().find(|node| Some(node.name.as_str()) == name);
    gpu.count > 0
        && report.render_node == Some(false)
        && node.is_some_and(|node| node.ready && node.offers(gpu.class, gpu.nodes, gpu.count))
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
        (workload, pod.expect("it has a desktop"))
    }

    fn on(mut pod: Pod, node: &str) -> Pod {
        pod.spec.as_mut().expect("a spec").node_name = Some(node.to_owned());
        pod
    }

    #[test]
    fn a_pod_whose_group_is_not_known_yet_waits_and_is_made_anew() {
        let stream = validated(&json!({}));
        let ((_, waits), (known, good)) = (pod(&stream, None), pod(&stream, Some(105)));
        let text = serde_json::to_string(&waits.spec.as_ref().expect("a spec").affinity).expect("JSON");
        assert!(text.contains("DoesNotExist") && text.contains("desktopstream.dev/render-gid"), "{text}");
        assert!(replace(&waits, &known).is_some_and(|why| why.contains("group")));
        assert_eq!(replace(&good, &known), None);
        assert_eq!(replace(&on(waits, "n1"), &known), None, "who runs is left alone");
    }

    #[test]
    fn a_pod_ends_well_only_if_its_containers_may() {
        let stream = validated(&json!({}));
        let (workload, mut pod) = pod(&stream, Some(105));
        let mut ends = |policy: Option<&str>| {
            pod.spec.as_mut().expect("a spec").restart_policy = policy.map(str::to_owned);
            pod.status = Some(PodStatus { phase: Some("Succeeded".to_owned()), ..PodStatus::default() });
            replace(&pod, &workload)
        };
        // By a kubelet that was restarted and has no device plugin yet.
        for always in [None, Some("Always")] {
            assert!(ends(always).is_some_and(|why| why.contains("its containers ended")), "{always:?}");
        }
        for may in ["Never", "OnFailure"] {
            assert_eq!(ends(Some(may)), None, "{may}");
        }
    }

    #[test]
    fn a_pod_without_its_device_goes_once_its_node_has_one() {
        let stream = validated(&json!({}));
        let pod = on(pod(&stream, Some(105)).1, "n1");
        let node = |shares: u64| Node {
            name: "n1".to_owned(),
            ready: true,
            devices: [("desktopstream.dev/dri".to_owned(), shares)].into(),
            ..Node::default()
        };
        let says = |render_node| Report { render_node, ..Report::default() };
        assert!(node(1).offers(stream.spec.gpu.class, stream.spec.gpu.nodes, 1), "the resource's name");
        assert!(lacks_device(&stream, &pod, &[node(16)], &says(Some(false))));
        for (nodes, render_node) in [
            (vec![node(16)], Some(true)),
            (vec![node(16)], None),
            (vec![node(0)], Some(false)),
            (vec![Node { name: "n2".to_owned(), ..node(16) }], Some(false)),
            (vec![Node { ready: false, ..node(16) }], Some(false)),
        ] {
            assert!(!lacks_device(&stream, &pod, &nodes, &says(render_node)), "{nodes:?} {render_node:?}");
        }
    }
}
