//! A workload as Kubernetes objects. Infallible: what could be wrong was found by `validate`.

mod network;
mod node;
mod pod;
mod replace;
mod storage;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Service};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub use node::{facts, node, slim};
pub use pod::{SidecarImage, inject, place, pod, read_shape};
pub use replace::{lacks_device, replace};
pub use storage::{HostAgentSecret, host_agent_secret, viewer_secret};

use super::validate::Validated;
use operator_api::{GROUP, VERSION, names};

/// What should be there besides the pod, which has rules of its own, and the Secrets, which have secrets.
#[derive(Debug, Clone, PartialEq)]
pub struct Objects {
    /// The way to the sidecar.
    pub service: Service,
    /// The way from outside.
    pub ingress: Option<Ingress>,
    /// Only the sidecar's port may be reached.
    pub network_policy: Option<NetworkPolicy>,
    /// The home folder.
    pub home: Option<PersistentVolumeClaim>,
}

/// What should be there for `stream`.
pub fn objects(stream: &Validated) -> Objects {
    Objects {
        service: network::service(stream),
        ingress: network::ingress(stream),
        network_policy: network::network_policy(stream),
        home: storage::home(stream),
    }
}

/// Where viewers find the stream.
pub fn viewer_url(stream: &Validated) -> String {
    network::viewer_url(stream)
}

/// Labels of all objects of a stream.
pub fn labels(stream: &Validated) -> BTreeMap<String, String> {
    [
        (names::MANAGED_BY, names::MANAGER),
        (names::STREAM, &stream.names.stream),
        ("app.kubernetes.io/name", "desktopstream"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// The stream, as owner of its objects: they go when it goes.
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
