//! Reads the inputs of a reconciliation: pod, nodes, previous status, and the sidecar's status.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use contract::SidecarStatus;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use operator_api::{DesktopStream, DesktopStreamStatus, names};
use operator_plan::facts::Node;
use operator_plan::kubernetes;

use crate::apply::Owner;
use crate::apply::provenance::{Provenance, provenance};
use crate::context::Context;
use crate::poller::Answer;
use crate::secrets::Freshness;

/// Time after a write during which the written status overrides the watch's.
const WRITTEN_STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// Inputs of a reconciliation.
pub struct Dereferenced {
    /// Identity of the stream.
    pub owner: Owner,
    /// Previous status.
    pub previous: DesktopStreamStatus,
    /// The stream's pod.
    pub pod: Option<Arc<Pod>>,
    /// All nodes.
    pub nodes: Vec<Node>,
    /// Address of the sidecar; `None` if it does not run.
    pub sidecar: Option<SocketAddr>,
    /// Last answer of the sidecar; `None` if it does not run or was not polled yet.
    pub answer: Option<Answer>,
}

impl Dereferenced {
    /// Node of the pod.
    pub fn node(&self) -> Option<&str> {
        self.pod.as_ref()?.spec.as_ref()?.node_name.as_deref()
    }

    /// Status of the sidecar, if it answered.
    pub fn report(&self) -> Option<&SidecarStatus> {
        self.answer.as_ref()?.as_ref().ok()
    }

    /// How long the memory of the stream's Secrets can be relied upon.
    pub fn freshness(&self) -> Freshness {
        match (&self.pod, &self.answer) {
            (None, _) => Freshness::NoPod,
            (_, Some(Err(error))) if error.is_unauthorized() => Freshness::Refused,
            _ if self.node().is_some() && self.sidecar.is_none() => Freshness::Waiting,
            _ => Freshness::Settled,
        }
    }
}

/// Reads the inputs of the reconciliation of `stream`. Cannot fail: it reads caches and memory.
pub fn dereference(context: &Context, stream: &DesktopStream) -> Dereferenced {
    let owner = Owner {
        namespace: stream.namespace().unwrap_or_default(),
        name: stream.name_any(),
        uid: stream.uid().unwrap_or_default(),
    };
    let pods = pods(context, &owner, stream.spec.attach.is_some());
    let pod = kubernetes::choose_pod(&pods).cloned();
    let sidecar = pod.as_deref().and_then(sidecar_address);
    let answer = sidecar.and_then(|address| context.poller.answer(&owner.uid, address));
    Dereferenced {
        previous: previous(context, stream, &owner.uid),
        nodes: context.stores.nodes(),
        owner,
        pod,
        sidecar,
        answer,
    }
}

/// Pods of the stream: its own, or with `attach` those with its injected sidecar.
fn pods(context: &Context, owner: &Owner, is_attached: bool) -> Vec<Arc<Pod>> {
    context.stores.pods.state_filter(|pod| {
        pod.namespace().as_deref() == Some(&owner.namespace)
            && pod.labels().get(names::STREAM) == Some(&owner.name)
            && (is_attached || provenance(pod, owner) == Provenance::Own)
    })
}

/// Previous status: the written one until the watch has had time to report it.
pub fn previous(context: &Context, stream: &DesktopStream, uid: &str) -> DesktopStreamStatus {
    match context.memory.get(uid).status {
        Some(written) if written.at.elapsed() < WRITTEN_STATUS_TIMEOUT => written.status,
        _ => stream.status.clone().unwrap_or_default(),
    }
}

/// Address of the port of the pod's sidecar that serves `/status`, if the sidecar runs.
pub fn sidecar_address(pod: &Pod) -> Option<SocketAddr> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = pod.status.as_ref()?;
    let statuses = status.init_container_statuses.as_ref()?;
    let sidecar = statuses.iter().find(|it| it.name == names::SIDECAR_CONTAINER)?;
    sidecar.state.as_ref()?.running.as_ref()?;
    let ip: IpAddr = status.pod_ip.as_ref()?.parse().ok()?;
    Some(SocketAddr::new(ip, names::SIDECAR_ADMIN_PORT))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sidecar_has_an_address_only_while_it_runs() {
        let pod = |state: serde_json::Value| -> Pod {
            let sidecar = json!({
                "name": names::SIDECAR_CONTAINER, "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                "state": state,
            });
            let status = json!({"podIP": "10.0.0.7", "initContainerStatuses": [sidecar]});
            serde_json::from_value(json!({"metadata": {}, "status": status})).expect("a pod")
        };
        let running = pod(json!({"running": {}}));
        assert_eq!(
            sidecar_address(&running),
            Some(SocketAddr::from(([10, 0, 0, 7], names::SIDECAR_ADMIN_PORT)))
        );
        assert_eq!(sidecar_address(&pod(json!({"waiting": {}}))), None);
        assert_eq!(sidecar_address(&Pod::default()), None);
    }
}
