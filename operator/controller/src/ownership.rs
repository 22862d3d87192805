//! Makes the operator's Deployment the owner of certificate and Lease, so that uninstalling it deletes them. The signing key and
//! its public part have no owner: hosts trust the key, and a new one would cut off every host.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use operator_api::names;
use serde_json::json;

/// First interval between attempts; it doubles.
const FIRST_INTERVAL: Duration = Duration::from_secs(5);
/// Longest interval between attempts. Without a webhook the certificate never exists.
const MAX_INTERVAL: Duration = Duration::from_secs(600);

/// Sets the owner of certificate and Lease, and removes that of the keys, as soon as they exist. Never returns.
pub async fn keep(client: Client, namespace: String, deployment: String) {
    let mut interval = FIRST_INTERVAL;
    while let Err(error) = set_owner(&client, &namespace, &deployment).await {
        tracing::debug!(%error, deployment, "owner of the operator's objects not set yet");
        tokio::time::sleep(interval).await;
        interval = (interval * 2).min(MAX_INTERVAL);
    }
    std::future::pending::<()>().await;
}

async fn set_owner(client: &Client, namespace: &str, deployment: &str) -> Result<(), kube::Error> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let found = deployments.get_metadata(deployment).await?;
    let owner = OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: "Deployment".to_owned(),
        name: deployment.to_owned(),
        uid: found.metadata.uid.unwrap_or_default(),
        ..OwnerReference::default()
    };
    let patch = Patch::Merge(json!({"metadata": {"ownerReferences": [owner]}}));
    let params = PatchParams::default();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    // Earlier versions set it.
    let no_owner = Patch::Merge(json!({"metadata": {"ownerReferences": null}}));
    secrets.patch_metadata(names::SIGNING_KEY_SECRET, &params, &no_owner).await?;
    maps.patch_metadata(names::PUBLIC_KEY_CONFIG_MAP, &params, &no_owner).await?;
    leases.patch_metadata(names::LEASE, &params, &patch).await?;
    secrets.patch_metadata(names::WEBHOOK_CERT_SECRET, &params, &patch).await?;
    Ok(())
}
