//! Home volume and Secrets of a stream.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, Secret, VolumeResourceRequirements,
};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::metadata;
use crate::quantity::amount;
use crate::validate::Validated;

use contract::Endpoint;
use contract::names::{ENDPOINT_FILE, STATUS_KEYS_FILE, TLS_KEY_FILE, TOKEN_FILE, VIEW_ONLY_TOKEN_FILE};
use operator_api::{OnDelete, names};

/// Resource of a claim's size.
const STORAGE: &str = "storage";

pub(super) fn home(stream: &Validated) -> Option<PersistentVolumeClaim> {
    let home = stream.spec.desktop.as_ref()?.home.as_ref()?;
    let mut metadata = metadata(stream, stream.names.home());
    if home.on_delete == OnDelete::Keep {
        metadata.owner_references = None;
        metadata.annotations = Some([(names::CREATED_FOR.to_owned(), stream.uid.clone())].into());
    }
    Some(PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: home.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some([(STORAGE.to_owned(), home.size.clone())].into()),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    })
}

/// `desired` with a size that is not smaller than the live claim's: its user may have grown it, and claims cannot shrink.
pub fn fit_claim(mut desired: PersistentVolumeClaim, live: &PersistentVolumeClaim) -> PersistentVolumeClaim {
    let found = live.spec.as_ref().and_then(requests).and_then(|all| all.get(STORAGE));
    if let Some(found) = found
        && let Some(asked) = desired.spec.as_mut().and_then(|spec| spec.resources.as_mut())
        && let Some(asked) = asked.requests.as_mut().and_then(|all| all.get_mut(STORAGE))
        && amount(found) > amount(asked)
    {
        asked.clone_from(found);
    }
    desired
}

fn requests(spec: &PersistentVolumeClaimSpec) -> Option<&BTreeMap<String, Quantity>> {
    spec.resources.as_ref()?.requests.as_ref()
}

/// Endpoint of a host-agent, the token for it and the token's key.
#[derive(Clone, PartialEq, Eq)]
pub struct HostAgentSecret {
    /// Name of the HostAgent, the audience of the token.
    pub host_agent: String,
    /// Endpoint at which the pod's node reaches it.
    pub endpoint: Endpoint,
    /// Signed token.
    pub token: String,
    /// Private key that the token is bound to, in PEM; `None` for a plaintext endpoint, on which none can be proved.
    pub key: Option<String>,
    /// Time of issue, Unix seconds.
    pub issued: u64,
    /// Expiry, Unix seconds.
    pub expires: u64,
}

impl std::fmt::Debug for HostAgentSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host_agent, endpoint, token: _, key: _, issued, expires } = self;
        let mut shown = f.debug_struct("HostAgentSecret");
        shown.field("host_agent", host_agent).field("endpoint", endpoint);
        shown.field("issued", issued).field("expires", expires).finish_non_exhaustive()
    }
}

/// Renders the Secret that is mounted at [`contract::names::HOST_AGENT_DIR`]. `status_keys` are the operator's public keys.
/// Without a host-agent it has nothing else but exists: the pod waits for it, so the sidecar never starts before the choice
/// is made.
pub fn host_agent_secret(stream: &Validated, content: Option<&HostAgentSecret>, status_keys: &str) -> Secret {
    let mut data = BTreeMap::from([(STATUS_KEYS_FILE, status_keys.to_owned())]);
    if let Some(HostAgentSecret { endpoint, token, key, .. }) = content {
        data.extend([(ENDPOINT_FILE, endpoint.to_string()), (TOKEN_FILE, token.clone())]);
        data.extend(key.iter().map(|key| (TLS_KEY_FILE, key.clone())));
    }
    secret(stream, stream.names.host_agent_secret(), data)
}

/// Tokens of a stream's viewers.
#[derive(Clone, PartialEq, Eq)]
pub struct ViewerTokens {
    /// Token of viewers that may control the desktop.
    pub control: String,
    /// Token of viewers that may not.
    pub view_only: String,
}

/// Renders the Secret that is mounted at [`contract::names::VIEWER_DIR`].
pub fn viewer_secret(stream: &Validated, tokens: ViewerTokens) -> Secret {
    let ViewerTokens { control, view_only } = tokens;
    let data = BTreeMap::from([(TOKEN_FILE, control), (VIEW_ONLY_TOKEN_FILE, view_only)]);
    secret(stream, stream.names.viewer_secret(), data)
}

/// A Secret of the stream. Its type, which Kubernetes never changes, states the stream: an operator that may not read
/// Secrets can thus replace none but its own.
fn secret(stream: &Validated, name: String, data: BTreeMap<&str, String>) -> Secret {
    let data = data.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).collect();
    Secret {
        metadata: metadata(stream, name),
        data: Some(data),
        type_: Some(format!("{}{}", names::SECRET_TYPE_PREFIX, stream.uid)),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::validated;

    #[test]
    fn debug_output_has_neither_token_nor_key() {
        let secret = HostAgentSecret {
            host_agent: "mac".to_owned(),
            endpoint: Endpoint::Vsock { cid: 2, port: 1 },
            token: "s3cret-token".to_owned(),
            key: Some("s3cret-key".to_owned()),
            issued: 1,
            expires: 2,
        };
        let shown = format!("{secret:?}");
        assert!(shown.contains("mac") && !shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn claim_that_its_user_has_grown_keeps_its_size() {
        let claim = |size: &str| {
            home(&validated(&json!({"spec": {"desktop": {"home": {"size": size}}}}))).expect("a claim")
        };
        let size = |claim: &PersistentVolumeClaim| {
            claim.spec.as_ref().and_then(requests).expect("requests")[STORAGE].0.clone()
        };
        assert_eq!(size(&fit_claim(claim("1Gi"), &claim("2Gi"))), "2Gi");
        assert_eq!(size(&fit_claim(claim("3Gi"), &claim("2Gi"))), "3Gi");
        assert_eq!(size(&fit_claim(claim("1024Mi"), &claim("1Gi"))), "1024Mi");
    }
}
