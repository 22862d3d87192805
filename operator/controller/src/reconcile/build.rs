//! Builds the desired state of a stream. No IO; the choice of host-agent is registered in the memory.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use contract::{HostAgentConnection, SidecarStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use operator_api::{DesktopStream, names};
use operator_plan::facts::Node;
use operator_plan::kubernetes::{self, Objects};
use operator_plan::lifecycle::{self, Life, Outcome, lifecycle};
use operator_plan::pair::{Candidate, Pairing, pair};
use operator_plan::validate::Validated;
use operator_plan::workload::{self, Workload};

use super::dereference::Dereferenced;
use crate::context::Context;

/// Minimum interval between replacements of a pod that runs without its device: the next pod can lack it too.
const DEVICE_REPLACEMENT_INTERVAL: Duration = Duration::from_secs(300);

/// Desired state of a stream.
pub struct Built {
    /// Decision of the lifecycle.
    pub outcome: Outcome,
    /// Choice of host-agent.
    pub pairing: Pairing,
    /// Workload, independent of the engine.
    pub workload: Workload,
    /// Objects besides pod and Secrets.
    pub objects: Objects,
    /// The pod; `None` with `attach`.
    pub pod: Option<Pod>,
    /// Reason to replace the existing pod.
    pub replacement: Option<String>,
}

/// Builds the desired state of a stream.
pub fn build(
    context: &Context,
    stream: &DesktopStream,
    valid: &Validated,
    dereferenced: &Dereferenced,
    now: Timestamp,
) -> Built {
    let report = dereferenced.report();
    let input = lifecycle::Input {
        created: stream.metadata.creation_timestamp.as_ref().map(|time| time.0),
        wake: stream.annotations().get(names::WAKE).map(String::as_str),
        previous: &dereferenced.previous,
        viewers: report.map(|report| report.viewers),
        now,
    };
    let outcome = lifecycle(valid, input);
    if let (Some(node), Some(report)) = (dereferenced.node(), report) {
        observe_mispairing(context, &valid.uid, node, report);
    }
    let pairing = choose_host_agent(context, valid, dereferenced, outcome.life);
    let nodes = &dereferenced.nodes;
    let workload = workload::workload(valid, workload::render_gid(valid, nodes, &pairing));
    let replacement = dereferenced.pod.as_ref().and_then(|pod| {
        kubernetes::replace(pod, &workload).or_else(|| {
            let lacks = report.is_some_and(|report| kubernetes::lacks_device(valid, pod, nodes, report));
            let is_due = lacks && is_device_replacement_due(context, &valid.uid);
            is_due.then(|| "the pod was started without the device that its node offers now".to_owned())
        })
    });
    Built {
        objects: kubernetes::objects(valid),
        pod: kubernetes::pod(valid, &workload, &pairing, &context.settings.sidecar),
        outcome,
        pairing,
        workload,
        replacement,
    }
}

/// Records that the sidecar reached the host-agent of another VM.
fn observe_mispairing(context: &Context, uid: &str, node: &str, report: &SidecarStatus) {
    if let HostAgentConnection::OtherVm { endpoint, .. } = &report.host_agent {
        context.memory.update(uid, |known| known.mispaired.observe(node, endpoint));
    }
}

/// True at most once per [`DEVICE_REPLACEMENT_INTERVAL`].
fn is_device_replacement_due(context: &Context, uid: &str) -> bool {
    context.memory.update(uid, |known| {
        let is_due = known.device_replaced_at.is_none_or(|at| at.elapsed() >= DEVICE_REPLACEMENT_INTERVAL);
        if is_due {
            known.device_replaced_at = Some(Instant::now());
        }
        is_due
    })
}

fn choose_host_agent(
    context: &Context,
    valid: &Validated,
    dereferenced: &Dereferenced,
    life: Life,
) -> Pairing {
    let current = dereferenced.previous.host_agent_name.as_deref();
    let mispaired = context.memory.get(&valid.uid).mispaired;
    let choose = |loads: &HashMap<String, u32>| {
        let candidates = candidates(context, loads);
        let among = |nodes: &[Node]| pair(valid, &candidates, nodes, dereferenced.node(), current);
        let preferred = (!mispaired.is_empty()).then(|| among(&mispaired.hide(&dereferenced.nodes)));
        // A host-agent of another VM still encodes pixels, which is better than none.
        preferred
            .filter(|pairing| pairing.host_agent().is_some())
            .unwrap_or_else(|| among(&dereferenced.nodes))
    };
    // A stream that does not run is not a load.
    let taken = |pairing: &Pairing| pairing.host_agent().map(ToOwned::to_owned).filter(|_| life == Life::Run);
    context.memory.choose(&valid.uid, choose, taken)
}

fn candidates(context: &Context, loads: &HashMap<String, u32>) -> Vec<Candidate> {
    let agents = context.stores.host_agents.state();
    let mut all: Vec<Candidate> = agents
        .iter()
        .filter(|agent| agent.metadata.deletion_timestamp.is_none())
        .map(|agent| Candidate {
            name: agent.name_any(),
            labels: agent.labels().clone(),
            spec: agent.spec.clone(),
            load: loads.get(&agent.name_any()).copied().unwrap_or(0),
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}
