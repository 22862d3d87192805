//! Kubernetes' nodes as `plan` sees them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node as KubeNode;

use operator_api::names;
use operator_plan::facts::{Node, NodeFacts};

/// The part of a node that we read.
pub fn node(node: &KubeNode) -> Node {
    let metadata = &node.metadata;
    let facts = metadata.annotations.as_ref().and_then(|all| all.get(names::NODE_FACTS));
    let status = node.status.as_ref();
    let ready = status
        .and_then(|status| status.conditions.as_ref())
        .and_then(|all| all.iter().find(|condition| condition.type_ == "Ready"))
        .is_some_and(|condition| condition.status == "True");
    let devices: BTreeMap<String, u64> = status
        .and_then(|status| status.allocatable.as_ref())
        .into_iter()
        .flatten()
        .filter(|(name, _)| name.starts_with(names::RESOURCE_DOMAIN))
        .filter_map(|(name, count)| Some((name.clone(), count.0.parse().ok()?)))
        .collect();
    Node {
        name: metadata.name.clone().unwrap_or_default(),
        labels: metadata.labels.clone().unwrap_or_default(),
        facts: facts.map(|text| read_facts(text)).unwrap_or_default(),
        devices,
        unschedulable: node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false),
        ready,
    }
}

/// Facts of a newer or older node-agent are read as far as they go.
fn read_facts(text: &str) -> NodeFacts {
    serde_json::from_str(text).unwrap_or_else(|error| {
        tracing::warn!(%error, "a node's facts can't be read; update its node-agent");
        NodeFacts::default()
    })
}

/// Takes off what we never read: a node's images alone are larger than all the rest.
pub fn slim(node: &mut KubeNode) {
    node.metadata.managed_fields = None;
    if let Some(status) = &mut node.status {
        status.images = None;
        status.volumes_attached = None;
        status.volumes_in_use = None;
        status.node_info = None;
        let ready = |condition: &k8s_openapi::api::core::v1::NodeCondition| condition.type_ == "Ready";
        status.conditions.iter_mut().for_each(|all| all.retain(ready));
        // Heartbeats are no news.
        status.conditions.iter_mut().flatten().for_each(|condition| condition.last_heartbeat_time = None);
    }
}
