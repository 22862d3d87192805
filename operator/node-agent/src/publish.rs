//! Publishes a node's facts on its Node: labels for the scheduler, one annotation for the operator.

use std::collections::BTreeMap;

use contract::Endpoint;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use operator_api::names;
use operator_discovery::gpus::Found;
use operator_plan::facts::NodeFacts;

/// Facts of a node.
pub(super) fn facts(found: &[Found], host_agents: BTreeMap<String, Vec<Endpoint>>) -> NodeFacts {
    NodeFacts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        gpus: found.iter().filter(|found| found.healthy).map(|found| found.gpu.clone()).collect(),
        host_agents,
    }
}

/// Labels of the facts.
fn labels(facts: &NodeFacts) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for gpu in &facts.gpus {
        let key = format!("{}{}", names::NODE_GPU_PREFIX, gpu.class.label());
        let count = facts.gpus.iter().filter(|other| other.class == gpu.class).count();
        labels.insert(key, count.to_string());
        labels.entry(names::NODE_RENDER_GID.to_owned()).or_insert_with(|| gpu.render_gid.to_string());
        if gpu.three_d == Some(true) {
            labels.insert(names::NODE_3D.to_owned(), "true".to_owned());
        }
    }
    for host_agent in facts.host_agents.keys() {
        labels.insert(format!("{}{host_agent}", names::NODE_HOST_AGENT_PREFIX), names::REACHABLE.to_owned());
    }
    labels
}

/// Server-side apply patch with every field of the node-agent. Fields that it leaves out are removed.
fn patch(node: &str, facts: &NodeFacts) -> Result<Value, serde_json::Error> {
    Ok(json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": node,
            "labels": labels(facts),
            "annotations": {names::NODE_FACTS: serde_json::to_string(facts)?},
        },
    }))
}

/// Writes the facts.
pub(super) async fn publish(nodes: &Api<Node>, node: &str, facts: &NodeFacts) -> anyhow::Result<()> {
    let params = PatchParams::apply(names::NODE_FIELD_MANAGER).force();
    nodes.patch(node, &params, &Patch::Apply(&patch(node, facts)?)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use operator_plan::testing::node;

    #[test]
    fn published_facts_are_read_back_and_labelled() {
        let facts = node("n1", 105, &[("mac", "vsock://2:1")]).facts;
        let patch = patch("n1", &facts).expect("JSON");
        let object: Node = serde_json::from_value(patch).expect("a node");
        let text = &object.metadata.annotations.as_ref().expect("annotations")[names::NODE_FACTS];
        assert_eq!(serde_json::from_str::<NodeFacts>(text).expect("reads"), facts);
        let labels = object.metadata.labels.expect("labels");
        let expected = [
            ("desktopstream.dev/gpu-3d", "true"),
            ("desktopstream.dev/render-gid", "105"),
            ("gpu.desktopstream.dev/virtio", "1"),
            ("host-agent.desktopstream.dev/mac", "reachable"),
        ];
        assert_eq!(labels, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    }
}
