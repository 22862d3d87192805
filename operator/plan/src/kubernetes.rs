//! Renders a workload as Kubernetes objects, and reads pods and nodes. Rendering cannot fail: it takes a [`Validated`].

mod network;
mod node;
mod observe;
mod pod;
mod replace;
mod storage;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Service};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub use node::{facts, node, slim};
pub use observe::{has_ended, is_over, observe};
pub(crate) use pod::simple;
pub use pod::{SidecarImage, choose_pod, inject, place, pod, read_shape, uses_host_agent_secret};
pub use replace::{lacks_device, replace};
pub use storage::{HostAgentSecret, ViewerTokens, fit_claim, host_agent_secret, viewer_secret};

use super::validate::Validated;
use operator_api::{GROUP, VERSION, names};

/// Objects of a stream besides the pod ([`pod`]) and the Secrets ([`host_agent_secret`], [`viewer_secret`]).
#[derive(Debug, Clone, PartialEq)]
pub struct Objects {
    /// Service in front of the sidecar.
    pub service: Service,
    /// Ingress in front of the Service.
    pub ingress: Option<Ingress>,
    /// Allows ingress to the sidecar's port only.
    pub network_policy: Option<NetworkPolicy>,
    /// Claim of the home volume.
    pub home: Option<PersistentVolumeClaim>,
}

/// Renders the objects of `stream`.
pub fn objects(stream: &Validated) -> Objects {
    Objects {
        service: network::service(stream),
        ingress: network::ingress(stream),
        network_policy: network::network_policy(stream),
        home: storage::home(stream),
    }
}

/// URL of the viewer page.
pub fn viewer_url(stream: &Validated) -> String {
    network::viewer_url(stream)
}

/// Labels of every object of a stream.
pub fn labels(stream: &Validated) -> BTreeMap<String, String> {
    [
        (names::MANAGED_BY, names::MANAGER),
        (names::STREAM, &stream.names.stream),
        ("app.kubernetes.io/name", "desktopstream"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// Owner reference to the stream, so that deleting it deletes the object.
pub fn owner(stream: &Validated) -> OwnerReference {
    OwnerReference {
        api_version: format!("{GROUP}/{VERSION}"),
        kind: "DesktopStream".to_owned(),
        name: stream.names.stream.clone(),
        uid: stream.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn metadata(stream: &Validated, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(stream.namespace.clone()),
        labels: Some(labels(stream)),
        owner_references: Some(vec![owner(stream)]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests;
