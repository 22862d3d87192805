//! What a node says of itself: the node-agent writes it into an annotation, the operator reads it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use operator_api::{GpuClass, GpuNodes, Transport, names};

/// All facts of a node, as JSON in [`names::NODE_FACTS`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeFacts {
    /// The node-agent's version.
    pub version: String,
    /// Its GPUs.
    pub gpus: Vec<Gpu>,
    /// Host-agents that it reaches, and where, best first.
    pub host_agents: BTreeMap<String, Vec<String>>,
}

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// Its name: stable over reboots, from the bus address.
    pub name: String,
    /// Its kernel driver.
    pub driver: String,
    /// The driver's family.
    pub class: GpuClass,
    /// Its render node.
    pub render: String,
    /// Its card node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<String>,
    /// The render node's group.
    pub render_gid: u32,
    /// Whether it draws in 3D: asked of the driver where that can be asked.
    #[serde(default, rename = "3d", skip_serializing_if = "Option::is_none")]
    pub three_d: Option<bool>,
}

/// A node as the operator sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its facts, if a node-agent runs there.
    pub facts: NodeFacts,
    /// Extended resources of ours that it can still give, by name: what the kubelet offers in all.
    pub devices: BTreeMap<String, u64>,
    /// No new pods go there.
    pub unschedulable: bool,
    /// It answers.
    pub ready: bool,
}

impl Node {
    /// Whether it has `count` devices of this kind.
    pub fn offers(&self, class: GpuClass, nodes: GpuNodes, count: u32) -> bool {
        let resource = names::resource(class, nodes == GpuNodes::RenderAndCard);
        count == 0 || self.devices.get(&resource).is_some_and(|has| *has >= u64::from(count))
    }

    /// The group of its render nodes of a class: that of the first.
    pub fn render_gid(&self, class: GpuClass) -> Option<u32> {
        let fits = |gpu: &&Gpu| class == GpuClass::Any || gpu.class == class;
        self.facts.gpus.iter().find(fits).map(|gpu| gpu.render_gid)
    }

    /// Where it reaches a host-agent by this transport.
    pub fn endpoint(&self, host_agent: &str, transport: Transport) -> Option<&str> {
        let fits = |endpoint: &&String| match transport {
            Transport::Auto => true,
            Transport::Vsock => endpoint.starts_with("vsock:"),
            Transport::Tcp => endpoint.starts_with("tcp:"),
            Transport::Unix => endpoint.starts_with("unix:"),
        };
        self.facts.host_agents.get(host_agent)?.iter().find(fits).map(String::as_str)
    }
}
