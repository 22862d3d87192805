//! Which host-agent serves a stream: the one that it has, as long as that will do, else the least loaded
//! one that its node reaches and that has room.
//!
//! ```text
//!  no node yet ──▶ where to?  prefers (or requires) nodes that reach somebody
//!  node known  ──▶ who there? Paired with an endpoint, or why not
//! ```

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::facts::Node;
use super::validate::Validated;
use operator_api::conditions::{Reason, reasons};
use operator_api::{EncodeWhere, Require};

/// A host-agent, as far as choosing goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Nodes that may use it, by their labels.
    pub node_selector: BTreeMap<String, String>,
    /// Most streams.
    pub capacity: u32,
    /// Streams of others that it has.
    pub load: u32,
}

/// The choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pairing {
    /// The sidecar encodes, as asked.
    NotNeeded,
    /// This one.
    Paired {
        /// Its name.
        host_agent: String,
        /// Where the pod's node reaches it; unknown until there is a node.
        endpoint: Option<String>,
    },
    /// None, and why.
    None {
        /// In the condition.
        reason: Reason,
        /// In words.
        text: String,
    },
}

impl Pairing {
    /// The host-agent's name.
    pub fn host_agent(&self) -> Option<&str> {
        if let Self::Paired { host_agent, .. } = self { Some(host_agent) } else { None }
    }
}

/// Whether the stream is worth nothing without a host-agent.
pub fn is_required(stream: &Validated) -> bool {
    let spec = &stream.spec;
    spec.encode.place == EncodeWhere::HostAgent
        || spec.capture.require == Require::ZeroCopy
        || spec.host_agent.name.is_some()
}

/// Chooses. `node` is the pod's, once it has one; `current` is whom the stream was paired with.
pub fn pair(
    stream: &Validated,
    candidates: &[Candidate],
    nodes: &[Node],
    node: Option<&str>,
    current: Option<&str>,
) -> Pairing {
    if stream.spec.encode.place == EncodeWhere::Sidecar {
        return Pairing::NotNeeded;
    }
    let fitting: Vec<&Candidate> = candidates.iter().filter(|candidate| fits(stream, candidate)).collect();
    if fitting.is_empty() {
        return none(
            reasons::NO_HOST_AGENT,
            match &stream.spec.host_agent.name {
                Some(name) => format!("there is no HostAgent {name:?}"),
                None if candidates.is_empty() => "there is no HostAgent".to_owned(),
                None => "no HostAgent has the labels that spec.hostAgent.selector asks for".to_owned(),
            },
        );
    }
    let places: Vec<&Node> = match node {
        Some(name) => nodes.iter().filter(|node| node.name == name).collect(),
        None => nodes.iter().filter(|node| can_run(stream, node)).collect(),
    };
    let reached: Vec<&Candidate> = fitting
        .iter()
        .copied()
        .filter(|candidate| places.iter().any(|node| endpoint(stream, candidate, node).is_some()))
        .collect();
    if reached.is_empty() {
        let gone = current.is_some();
        let whom = current.map_or_else(
            || fitting.iter().map(|candidate| candidate.name.as_str()).collect::<Vec<_>>().join(", "),
            ToOwned::to_owned,
        );
        let reason = if gone { reasons::HOST_AGENT_GONE } else { reasons::HOST_AGENT_UNREACHABLE };
        return none(
            reason,
            match node {
                Some(node) => format!("node {node} does not reach {whom}"),
                None => format!("no node that has the device reaches {whom}"),
            },
        );
    }
    let room = |candidate: &&Candidate| candidate.load < candidate.capacity;
    let kept = reached.iter().find(|candidate| Some(candidate.name.as_str()) == current).copied();
    // The least loaded relative to what it bears; by name where that is equal, so that two runs agree.
    let least = || {
        let load = |it: &Candidate| u64::from(it.load) * 1_000_000 / u64::from(it.capacity.max(1));
        reached.iter().copied().filter(room).min_by(|a, b| load(a).cmp(&load(b)).then(a.name.cmp(&b.name)))
    };
    let Some(chosen) = kept.filter(room).or_else(least) else {
        let full: Vec<String> = reached
            .iter()
            .map(|it| format!("{} has {} of {} streams", it.name, it.load, it.capacity))
            .collect();
        return none(reasons::HOST_AGENT_FULL, full.join(", "));
    };
    let endpoint = node.and_then(|_| places.first()).and_then(|node| endpoint(stream, chosen, node));
    Pairing::Paired { host_agent: chosen.name.clone(), endpoint: endpoint.map(ToOwned::to_owned) }
}

fn none(reason: Reason, text: String) -> Pairing {
    Pairing::None { reason, text }
}

fn fits(stream: &Validated, candidate: &Candidate) -> bool {
    let want = &stream.spec.host_agent;
    want.name.as_ref().is_none_or(|name| *name == candidate.name)
        && want.selector.as_ref().is_none_or(|selector| selects(selector, &candidate.labels))
}

/// Whether a stream's pod may go there.
pub fn can_run(stream: &Validated, node: &Node) -> bool {
    let gpu = &stream.spec.gpu;
    node.ready && !node.unschedulable && node.offers(gpu.class, gpu.nodes, gpu.count)
}

fn endpoint<'n>(stream: &Validated, candidate: &Candidate, node: &'n Node) -> Option<&'n str> {
    let allowed = candidate.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    allowed.then(|| node.endpoint(&candidate.name, stream.spec.host_agent.transport)).flatten()
}

/// A label selector, as Kubernetes reads it.
pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let exact = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    exact
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let has = labels.get(&requirement.key);
            let listed =
                || has.is_some_and(|has| requirement.values.iter().flatten().any(|value| value == has));
            match requirement.operator.as_str() {
                "In" => listed(),
                "NotIn" => !listed(),
                "Exists" => has.is_some(),
                "DoesNotExist" => has.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests;
