//! Keeps the webhook's certificate current: in its Secret, in the server, and in the webhook configurations.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use operator_api::names::WEBHOOK_CERT_SECRET;
use serde_json::json;

use super::cert::{self, Cert};
use super::tls::Tls;

/// Interval at which certificates are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Loads a certificate that another program keeps in `folder`. With `client_ca`, in PEM, clients need a certificate of it.
///
/// # Errors
/// If the folder has no usable `tls.crt` and `tls.key`.
pub fn load(folder: &std::path::Path, client_ca: Option<&[u8]>) -> anyhow::Result<Tls> {
    let remedy = || {
        format!("no usable webhook certificate in {}; check that cert-manager issued it", folder.display())
    };
    let (chain, key) = read(folder).with_context(remedy)?;
    Tls::new(&chain, &key, client_ca).with_context(remedy)
}

/// Reloads the certificate in `folder` periodically. Never returns.
pub async fn reload(tls: Tls, folder: PathBuf) {
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        let replaced =
            read(&folder).map_err(anyhow::Error::from).and_then(|(chain, key)| tls.replace(&chain, &key));
        if let Err(error) = replaced {
            let error = format!("{error:#}");
            tracing::warn!(error, "webhook certificate not reloaded; the previous one stays");
        }
    }
}

/// Certificate and key in `folder`.
fn read(folder: &std::path::Path) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    Ok((std::fs::read(folder.join("tls.crt"))?, std::fs::read(folder.join("tls.key"))?))
}

/// The operator's own certificate.
pub struct SelfSigned {
    /// Client of the apiserver.
    pub client: Client,
    /// Namespace of the Secret.
    pub namespace: String,
    /// Service in front of the webhook.
    pub service: String,
    /// Name of both webhook configurations.
    pub configuration: String,
}

impl SelfSigned {
    /// Reads the certificate, or makes one if there is none or it must be renewed. If another replica makes one at the
    /// same time, reads that.
    ///
    /// # Errors
    /// If the Secret cannot be read or written.
    pub async fn ensure(&self) -> anyhow::Result<Cert> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let now = Timestamp::now().as_second().max(0).cast_unsigned();
        let found = secrets.get_opt(WEBHOOK_CERT_SECRET).await.context("cannot read the webhook's Secret")?;
        let before = found.as_ref().and_then(Cert::read);
        if let Some(cert) = &before
            && !cert.is_due(now)
        {
            return Ok(cert.clone());
        }
        let hosts = ["", ".cluster.local"].map(|end| format!("{}.{}.svc{end}", self.service, self.namespace));
        let cert = Cert::make(hosts.to_vec(), now, cert::LIFE, before.as_ref())?;
        let mut secret = cert.secret();
        let written = match found {
            Some(found) => {
                secret.metadata.resource_version = found.metadata.resource_version;
                secret.metadata.owner_references = found.metadata.owner_references;
                secrets.replace(WEBHOOK_CERT_SECRET, &PostParams::default(), &secret).await
            }
            None => secrets.create(&PostParams::default(), &secret).await,
        };
        match written {
            Ok(_) => {
                tracing::info!(expires = cert.expires, "created webhook certificate");
                Ok(cert)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let theirs =
                    secrets.get(WEBHOOK_CERT_SECRET).await.context("cannot read the webhook's Secret")?;
                Cert::read(&theirs)
                    .with_context(|| format!("Secret {WEBHOOK_CERT_SECRET} has no certificate; delete it"))
            }
            Err(error) => Err(error).context("cannot write the webhook's Secret"),
        }
    }

    /// Renews and serves the certificate, and publishes its CA. Never returns.
    pub async fn keep(self, tls: Tls, first: Cert) {
        let mut served = first;
        loop {
            if let Err(error) = self.publish(&served).await {
                tracing::warn!(error = format!("{error:#}"), "webhook CA not published; retrying");
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
            match self.ensure().await {
                Ok(cert) if cert != served => {
                    // The apiserver must trust the new CA before the new certificate is served.
                    let is_trusted = self.publish(&cert).await.is_ok();
                    if is_trusted && tls.replace(cert.chain.as_bytes(), cert.key.as_bytes()).is_ok() {
                        served = cert;
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "webhook certificate not checked; retrying");
                }
            }
        }
    }

    /// Writes the CA bundle into the webhook configurations that have another one.
    async fn publish(&self, cert: &Cert) -> anyhow::Result<()> {
        let name = &self.configuration;
        let bundle = BASE64_STANDARD.encode(&cert.bundle);
        let is_stale = |config: &WebhookClientConfig| is_stale(config.ca_bundle.as_ref(), cert);
        let validating: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        let found =
            validating.get(name).await.with_context(|| format!("ValidatingWebhookConfiguration {name}"))?;
        let hooks = found.webhooks.unwrap_or_default();
        let stale: Vec<_> =
            hooks.iter().filter(|it| is_stale(&it.client_config)).map(|it| &it.name).collect();
        if !stale.is_empty() {
            let patch = Patch::Strategic(trust(&stale, &bundle));
            validating.patch(name, &PatchParams::default(), &patch).await?;
        }
        // An installation without injection has no mutating webhook.
        let mutating: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let found =
            mutating.get_opt(name).await.with_context(|| format!("MutatingWebhookConfiguration {name}"))?;
        let hooks = found.and_then(|it| it.webhooks).unwrap_or_default();
        let stale: Vec<_> =
            hooks.iter().filter(|it| is_stale(&it.client_config)).map(|it| &it.name).collect();
        if !stale.is_empty() {
            mutating.patch(name, &PatchParams::default(), &Patch::Strategic(trust(&stale, &bundle))).await?;
        }
        Ok(())
    }
}

fn is_stale(bundle: Option<&ByteString>, cert: &Cert) -> bool {
    bundle.is_none_or(|bundle| bundle.0 != cert.bundle.as_bytes())
}

/// A strategic merge patch, which merges the list of webhooks by name.
fn trust(names: &[&String], bundle: &str) -> serde_json::Value {
    let hooks: Vec<_> =
        names.iter().map(|name| json!({"name": name, "clientConfig": {"caBundle": bundle}})).collect();
    json!({"webhooks": hooks})
}
