//! Home volume and Secrets of a stream.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, Secret, VolumeResourceRequirements,
};

use super::metadata;
use crate::validate::Validated;

use contract::Endpoint;
use contract::names::{ENDPOINT_FILE, TOKEN_FILE};
use operator_api::{OnDelete, names};

pub(super) fn home(stream: &Validated) -> Option<PersistentVolumeClaim> {
    let home = stream.spec.desktop.as_ref()?.home.as_ref()?;
    let mut metadata = metadata(stream, stream.names.home());
    if home.on_delete == OnDelete::Keep {
        metadata.owner_references = None;
    }
    Some(PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: home.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), home.size.clone())].into()),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    })
}

/// Endpoint of a host-agent and the token for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAgentSecret {
    /// Name of the HostAgent, the audience of the token.
    pub host_agent: String,
    /// Endpoint at which the pod's node reaches it.
    pub endpoint: Endpoint,
    /// Signed token.
    pub token: String,
    /// Time of issue, Unix seconds.
    pub issued: u64,
    /// Expiry, Unix seconds.
    pub expires: u64,
}

/// Renders the Secret that is mounted at [`contract::names::HOST_AGENT_DIR`]. Without a host-agent it is empty but exists:
/// the pod waits for it, so the sidecar never starts before the choice is made.
pub fn host_agent_secret(stream: &Validated, content: Option<&HostAgentSecret>) -> Secret {
    let mut metadata = metadata(stream, stream.names.host_agent_secret());
    let mut data = BTreeMap::new();
    if let Some(HostAgentSecret { host_agent, endpoint, token, issued, expires }) = content {
        metadata.annotations = Some(
            [
                (names::PLACED_FOR.to_owned(), host_agent.clone()),
                (names::TOKEN_ISSUED.to_owned(), issued.to_string()),
                (names::TOKEN_EXPIRES.to_owned(), expires.to_string()),
            ]
            .into(),
        );
        data.insert(ENDPOINT_FILE.to_owned(), ByteString(endpoint.to_string().into_bytes()));
        data.insert(TOKEN_FILE.to_owned(), ByteString(token.clone().into_bytes()));
    }
    Secret { metadata, data: Some(data), type_: Some("Opaque".to_owned()), ..Secret::default() }
}

/// Renders the Secret with the viewers' token.
pub fn viewer_secret(stream: &Validated, token: &str) -> Secret {
    Secret {
        metadata: metadata(stream, stream.names.viewer_secret()),
        data: Some([(TOKEN_FILE.to_owned(), ByteString(token.as_bytes().to_vec()))].into()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}
