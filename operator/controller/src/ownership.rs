//! Makes the operator's Deployment the owner of certificate and Lease, so that uninstalling it deletes them. The signing key and
//! its public part have no owner: hosts trust the key, and a new one would cut off every host.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::PostParams;
use kube::{Api, Client, Resource};
use operator_api::names;

/// First interval between attempts; it doubles.
const FIRST_INTERVAL: Duration = Duration::from_secs(5);
/// Longest interval between attempts. Without a webhook the certificate never exists.
const MAX_INTERVAL: Duration = Duration::from_secs(600);

/// Sets the owner of certificate and Lease, as soon as they exist. Never returns.
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
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    own(&leases, names::LEASE, &owner).await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    own(&secrets, names::WEBHOOK_CERT_SECRET, &owner).await
}

/// Makes `owner` the owner of an object, in the version that was read.
async fn own<K>(api: &Api<K>, name: &str, owner: &OwnerReference) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let mut object = api.get(name).await?;
    let owners = object.meta_mut().owner_references.get_or_insert_default();
    if !owners.contains(owner) {
        *owners = vec![owner.clone()];
        api.replace(name, &PostParams::default(), &object).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::Apiserver;

    #[tokio::test]
    async fn deployment_owns_certificate_and_lease_and_not_the_keys() {
        let apiserver = Apiserver::default();
        let namespace = "/api/v1/namespaces/system";
        let secret = |name: &str| format!("{namespace}/secrets/{name}");
        let lease = format!("/apis/coordination.k8s.io/v1/namespaces/system/leases/{}", names::LEASE);
        let deployment = apiserver.add(
            "/apis/apps/v1/namespaces/system/deployments/operator",
            json!({"metadata": {"name": "operator"}}),
        );
        for (path, name) in [
            (&lease, names::LEASE),
            (&secret(names::WEBHOOK_CERT_SECRET), names::WEBHOOK_CERT_SECRET),
            (&secret(names::SIGNING_KEY_SECRET), names::SIGNING_KEY_SECRET),
        ] {
            apiserver.add(path, json!({"metadata": {"name": name, "labels": {"kept": "yes"}}}));
        }
        for is_repeated in [false, true] {
            apiserver.take_requests();
            set_owner(&apiserver.client(), "system", "operator").await.expect("set");
            let writes = apiserver.count("PUT ");
            assert_eq!(writes, if is_repeated { 0 } else { 2 });
        }
        for (path, is_owned) in [
            (&lease, true),
            (&secret(names::WEBHOOK_CERT_SECRET), true),
            (&secret(names::SIGNING_KEY_SECRET), false),
        ] {
            let metadata = apiserver.get(path).expect("it exists")["metadata"].clone();
            let owner = &metadata["ownerReferences"][0]["uid"];
            assert_eq!(*owner == deployment["metadata"]["uid"], is_owned, "{path}: {metadata}");
            assert_eq!(metadata["labels"]["kept"], "yes");
        }
    }
}
