//! What we make for ourselves goes when our Deployment goes: an uninstallation knows only what it installed.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use operator_api::names;

/// First wait for what isn't made yet; it doubles.
const SOON: Duration = Duration::from_secs(5);
/// Longest wait: without a webhook there is never a certificate.
const LATE: Duration = Duration::from_secs(600);

/// Has key, certificate and Lease owned by this Deployment of ours; never returns.
pub async fn hold(client: Client, namespace: String, deployment: String) {
    let mut wait = SOON;
    while let Err(error) = once(&client, &namespace, &deployment).await {
        tracing::debug!(%error, deployment, "what is ours has not all the Deployment as its owner yet");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LATE);
    }
    std::future::pending::<()>().await;
}

async fn once(client: &Client, namespace: &str, deployment: &str) -> Result<(), kube::Error> {
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
    secrets.patch_metadata(names::SIGNING_KEY_SECRET, &params, &patch).await?;
    maps.patch_metadata(names::PUBLIC_KEY_CONFIG_MAP, &params, &patch).await?;
    leases.patch_metadata(names::LEASE, &params, &patch).await?;
    secrets.patch_metadata(names::WEBHOOK_CERT_SECRET, &params, &patch).await?;
    Ok(())
}
