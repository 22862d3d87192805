//! Choice of the host-agent that serves a stream: the current one while it is reachable and has capacity, otherwise the
//! least loaded one that the pod's node reaches.
//!
//! Before the pod has a node, the choice considers every node that the pod could run on; afterwards only its own, and
//! the pairing has an endpoint.

use std::collections::BTreeMap;

use contract::Endpoint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};
use operator_api::conditions::{Reason, reasons};
use operator_api::{HostAgentSpec, Placement, Require};

use super::facts::Node;
use super::validate::Validated;

/// A host-agent that could be chosen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Candidate {
    /// Name of the HostAgent.
    pub name: String,
    /// Labels of the HostAgent.
    pub labels: BTreeMap<String, String>,
    /// Spec of the HostAgent.
    pub spec: HostAgentSpec,
    /// Number of other streams that are paired with it.
    pub load: u32,
}

/// The choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pairing {
    /// The sidecar encodes, as the spec requires.
    NotNeeded,
    /// A host-agent is chosen.
    Paired {
        /// Name of the HostAgent.
        host_agent: String,
        /// Endpoint at which the pod's node reaches it; `None` until the pod has a node.
        endpoint: Option<Endpoint>,
    },
    /// The pod's node is not known yet, so neither is what it reaches. An earlier choice stays as it is.
    Unknown {
        /// Name of the HostAgent that the stream is paired with.
        host_agent: Option<String>,
        /// Name of the pod's node.
        node: String,
    },
    /// No host-agent can be chosen.
    None {
        /// Reason of the condition.
        reason: Reason,
        /// Text of the condition.
        text: String,
    },
}

impl Pairing {
    /// Name of the chosen HostAgent.
    pub fn host_agent(&self) -> Option<&str> {
        match self {
            Self::Paired { host_agent, .. } => Some(host_agent),
            Self::Unknown { host_agent, .. } => host_agent.as_deref(),
            Self::NotNeeded | Self::None { .. } => None,
        }
    }
}

/// True if the stream cannot be ready without a host-agent.
pub fn is_required(stream: &Validated) -> bool {
    let spec = &stream.spec;
    spec.encode.placement == Placement::HostAgent
        || spec.capture.require == Require::ZeroCopy
        || spec.host_agent.name.is_some()
}

/// Chooses a host-agent. `node` is the pod's node, once it has one; `current` is the HostAgent that the stream is paired
/// with.
pub fn pair(
    stream: &Validated,
    candidates: &[Candidate],
    nodes: &[Node],
    node: Option<&str>,
    current: Option<&str>,
) -> Pairing {
    if stream.spec.encode.placement == Placement::Sidecar {
        return Pairing::NotNeeded;
    }
    let matching: Vec<&Candidate> =
        candidates.iter().filter(|candidate| matches_spec(stream, candidate)).collect();
    if matching.is_empty() {
        let text = match &stream.spec.host_agent.name {
            Some(name) => format!("HostAgent {name:?} does not exist"),
            None if candidates.is_empty() => "no HostAgent exists".to_owned(),
            None => "no HostAgent matches spec.hostAgent.selector".to_owned(),
        };
        return Pairing::None { reason: reasons::NO_HOST_AGENT, text };
    }
    if let Some(node) = node
        && nodes.iter().all(|known| known.name != node)
    {
        return Pairing::Unknown { host_agent: current.map(ToOwned::to_owned), node: node.to_owned() };
    }
    let places: Vec<&Node> = match node {
        Some(name) => nodes.iter().filter(|node| node.name == name).collect(),
        None => nodes.iter().filter(|node| can_run(stream, node)).collect(),
    };
    let reached: Vec<&Candidate> = matching
        .iter()
        .copied()
        .filter(|candidate| places.iter().any(|node| endpoint(stream, candidate, node).is_some()))
        .collect();
    if reached.is_empty() {
        return unreached(&matching, node, current);
    }
    let has_room = |candidate: &&Candidate| candidate.load < candidate.spec.capacity;
    let kept = reached.iter().find(|candidate| Some(candidate.name.as_str()) == current).copied();
    let Some(chosen) =
        kept.filter(has_room).or_else(|| least_loaded(reached.iter().copied().filter(has_room)))
    else {
        let full: Vec<String> = reached
            .iter()
            .map(|it| format!("{} has {} of {} streams", it.name, it.load, it.spec.capacity))
            .collect();
        return Pairing::None { reason: reasons::HOST_AGENT_FULL, text: full.join(", ") };
    };
    let endpoint = node.and_then(|_| places.first()).and_then(|node| endpoint(stream, chosen, node));
    Pairing::Paired { host_agent: chosen.name.clone(), endpoint: endpoint.cloned() }
}

/// The candidate with the lowest load relative to its capacity; the first by name among equals, so that repeated runs
/// agree.
fn least_loaded<'c>(candidates: impl Iterator<Item = &'c Candidate>) -> Option<&'c Candidate> {
    let load = |it: &Candidate| u64::from(it.load) * 1_000_000 / u64::from(it.spec.capacity.max(1));
    candidates.min_by(|a, b| load(a).cmp(&load(b)).then(a.name.cmp(&b.name)))
}

fn unreached(matching: &[&Candidate], node: Option<&str>, current: Option<&str>) -> Pairing {
    let names = || matching.iter().map(|candidate| candidate.name.as_str()).collect::<Vec<_>>().join(", ");
    let names = current.map_or_else(names, ToOwned::to_owned);
    let reason = if current.is_some() { reasons::HOST_AGENT_GONE } else { reasons::HOST_AGENT_UNREACHABLE };
    let text = match node {
        Some(node) => format!("node {node} does not reach {names}"),
        None => format!("no node with the device reaches {names}"),
    };
    Pairing::None { reason, text }
}

fn matches_spec(stream: &Validated, candidate: &Candidate) -> bool {
    let want = &stream.spec.host_agent;
    want.name.as_ref().is_none_or(|name| *name == candidate.name)
        && want.selector.as_ref().is_none_or(|selector| selects(selector, &candidate.labels))
}

/// True if a pod of `stream` can be scheduled to `node`.
pub fn can_run(stream: &Validated, node: &Node) -> bool {
    let gpu = &stream.spec.gpu;
    node.ready && !node.unschedulable && node.offers(gpu.class, gpu.device_nodes, gpu.count)
}

fn endpoint<'n>(stream: &Validated, candidate: &Candidate, node: &'n Node) -> Option<&'n Endpoint> {
    let allowed = candidate.spec.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    allowed
        .then(|| node.endpoint(&candidate.name, &candidate.spec, stream.spec.host_agent.transport))
        .flatten()
}

/// True if `selector` selects `labels`; false for an invalid selector.
fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(labels))
}

#[cfg(test)]
mod tests;
