//! Reads a Kubernetes node.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node as KubeNode, NodeCondition};
use operator_api::names;

use crate::facts::{Node, NodeFacts};

/// Facts that the node-agent wrote; empty without a node-agent.
///
/// # Errors
/// If the annotation is not the JSON of [`NodeFacts`].
pub fn facts(node: &KubeNode) -> Result<NodeFacts, serde_json::Error> {
    let annotations = node.metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get(names::NODE_FACTS))
        .map_or_else(|| Ok(NodeFacts::default()), |text| serde_json::from_str(text))
}

/// Reads a node. Facts that cannot be read count as absent.
pub fn node(node: &KubeNode) -> Node {
    let metadata = &node.metadata;
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
        facts: facts(node).unwrap_or_default(),
        devices,
        unschedulable: node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false),
        ready,
    }
}

/// Removes the fields that [`node`] does not read, before the node is cached: its images alone are larger than the rest.
pub fn slim(node: &mut KubeNode) {
    node.metadata.managed_fields = None;
    if let Some(status) = &mut node.status {
        status.images = None;
        status.volumes_attached = None;
        status.volumes_in_use = None;
        status.node_info = None;
        let is_ready = |condition: &NodeCondition| condition.type_ == "Ready";
        status.conditions.iter_mut().for_each(|all| all.retain(is_ready));
        status.conditions.iter_mut().flatten().for_each(|condition| condition.last_heartbeat_time = None);
    }
}
