//! Facts of a node. The node-agent writes them into an annotation of its Node; the operator reads them.

use std::collections::BTreeMap;

use contract::Endpoint;
use contract::endpoint::Transport as EndpointTransport;
use operator_api::{DeviceNodes, GpuClass, HostAgentSpec, Transport, names};
use serde::{Deserialize, Deserializer, Serialize};

use crate::host_agent;

/// Facts of a node, as the JSON in [`names::NODE_FACTS`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeFacts {
    /// Version of the node-agent.
    pub version: String,
    /// GPUs with a render node.
    pub gpus: Vec<Gpu>,
    /// Endpoints that the node reaches, by HostAgent, in the order of preference.
    #[serde(deserialize_with = "known_endpoints")]
    pub host_agents: BTreeMap<String, Vec<Endpoint>>,
}

/// Endpoints without those of a grammar that this version does not know: a newer node-agent may have written them.
fn known_endpoints<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Vec<Endpoint>>, D::Error> {
    let all = BTreeMap::<String, Vec<String>>::deserialize(from)?;
    let parse = |texts: Vec<String>| texts.iter().filter_map(|text| text.parse().ok()).collect();
    Ok(all.into_iter().map(|(name, texts)| (name, parse(texts))).collect())
}

/// A GPU with a render node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// Name from the bus address, which stays the same over reboots.
    pub name: String,
    /// Kernel driver.
    pub driver: String,
    /// Family of the driver.
    pub class: GpuClass,
    /// Path of the render node.
    pub render: String,
    /// Path of the card node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<String>,
    /// Group that owns the render node.
    pub render_gid: u32,
    /// True if the GPU renders 3D; `None` if the driver does not report it.
    #[serde(default, rename = "3d", skip_serializing_if = "Option::is_none")]
    pub three_d: Option<bool>,
}

/// A node that desktops can run on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Name of the node.
    pub name: String,
    /// Labels of the node.
    pub labels: BTreeMap<String, String>,
    /// Facts from the node-agent; empty without one.
    pub facts: NodeFacts,
    /// Allocatable extended resources of [`names::RESOURCE_DOMAIN`], by name.
    pub devices: BTreeMap<String, u64>,
    /// True if no new pods are scheduled to the node.
    pub unschedulable: bool,
    /// True if the node is ready.
    pub ready: bool,
}

impl Node {
    /// True if the node has at least `count` allocatable devices of this kind.
    pub fn offers(&self, class: GpuClass, nodes: DeviceNodes, count: u32) -> bool {
        let resource = names::resource(class, nodes == DeviceNodes::RenderAndCard);
        count == 0 || self.devices.get(&resource).is_some_and(|has| *has >= u64::from(count))
    }

    /// Group of the render node of the first GPU of `class`.
    pub fn render_gid(&self, class: GpuClass) -> Option<u32> {
        let fits = |gpu: &&Gpu| class == GpuClass::Any || gpu.class == class;
        self.facts.gpus.iter().find(fits).map(|gpu| gpu.render_gid)
    }

    /// Endpoints of `transport` at which the node reaches `host_agent`.
    pub fn endpoints(&self, host_agent: &str, transport: Transport) -> impl Iterator<Item = &Endpoint> {
        let fits = move |endpoint: &&Endpoint| match transport {
            Transport::Auto => true,
            Transport::Vsock => endpoint.transport() == EndpointTransport::Vsock,
            Transport::Tcp => endpoint.transport() == EndpointTransport::Tcp,
            Transport::Unix => endpoint.transport() == EndpointTransport::Unix,
        };
        self.facts.host_agents.get(host_agent).into_iter().flatten().filter(fits)
    }

    /// The first of these that the HostAgent's `spec` allows: facts may be older than the spec.
    pub fn endpoint(
        &self,
        host_agent: &str,
        spec: &HostAgentSpec,
        transport: Transport,
    ) -> Option<&Endpoint> {
        self.endpoints(host_agent, transport).find(|endpoint| host_agent::allows(spec, endpoint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_of_an_unknown_grammar_hides_no_other_fact() {
        let json = r#"{"version": "9", "gpus": [], "hostAgents": {"a": ["quic://h:1", "vsock://2:1"], "b": ["quic://h:1"]}}"#;
        let facts: NodeFacts = serde_json::from_str(json).expect("facts");
        let endpoints =
            |name: &str| facts.host_agents[name].iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!((endpoints("a"), endpoints("b")), (vec!["vsock://2:1".to_owned()], vec![]));
    }
}
