//! The webhook's HTTPS server, and its certificate's way: Secret → server, and → the configurations that the
//! apiserver reads.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use axum_server::tls_rustls::RustlsConfig;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::{Node as KubeNode, Pod, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::cert::{self, Cert};
use super::inject::{self, Wish};
use super::validate;
use operator_api::{DesktopStream, names};
use operator_plan::kubernetes::{self, SidecarImage};

/// How often the certificate is looked at.
const LOOK: Duration = Duration::from_secs(30);

/// How it runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where.
    pub listen: SocketAddr,
    /// The operator's namespace; pods in it are never injected.
    pub namespace: String,
    /// The Service in front of it.
    pub service: String,
    /// Name of both webhook configurations.
    pub configuration: String,
    /// A folder with tls.crt and tls.key that somebody else keeps, e.g. cert-manager; else we make our own.
    pub cert_dir: Option<PathBuf>,
    /// The sidecar that is injected.
    pub sidecar: SidecarImage,
}

struct Shared {
    client: Client,
    namespace: String,
    sidecar: SidecarImage,
}

/// Serves until it fails.
pub async fn run(client: Client, options: Options) -> anyhow::Result<()> {
    // kube may have chosen it already; then this says so and nothing else.
    let _chosen = rustls::crypto::ring::default_provider().install_default();
    let Options { listen, namespace, service, configuration, cert_dir, sidecar } = options;
    let shared = Shared { client: client.clone(), namespace: namespace.clone(), sidecar };
    let router = Router::new()
        .route("/validate", post(judge))
        .route("/inject", post(mutate))
        // Old and new object of 1.5 MiB each, and what the apiserver adds.
        .layer(axum::extract::DefaultBodyLimit::max(8 << 20))
        .with_state(Arc::new(shared));
    let own = Own { client, namespace, service, configuration };
    let (config, keep) = if let Some(folder) = cert_dir {
        let (cert, key) = (folder.join("tls.crt"), folder.join("tls.key"));
        let config = RustlsConfig::from_pem_file(&cert, &key).await.with_context(|| {
            format!("no certificate for the webhook in {}; see that cert-manager made it", folder.display())
        })?;
        (config.clone(), tokio::spawn(reload(config, cert, key)))
    } else {
        let cert = own.ensure().await?;
        let config = RustlsConfig::from_pem(cert.cert.clone().into(), cert.key.clone().into()).await?;
        (config.clone(), tokio::spawn(own.keep(config, cert)))
    };
    tracing::info!(%listen, "the webhook serves");
    let served = axum_server::bind_rustls(listen, config).serve(router.into_make_service()).await;
    keep.abort();
    served.with_context(|| format!("can't serve the webhook on {listen}"))
}

/// Files that somebody else renews.
async fn reload(config: RustlsConfig, cert: PathBuf, key: PathBuf) {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Err(error) = config.reload_from_pem_file(&cert, &key).await {
            tracing::warn!(%error, "the webhook's new certificate can't be read; the old one stays");
        }
    }
}

/// Our own certificate.
struct Own {
    client: Client,
    namespace: String,
    service: String,
    configuration: String,
}

impl Own {
    /// The one that is there, or a new one. Of two that make one, the second takes the first's.
    async fn ensure(&self) -> anyhow::Result<Cert> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let now = Timestamp::now().as_second().max(0) as u64;
        let found =
            secrets.get_opt(names::WEBHOOK_CERT_SECRET).await.context("can't read the webhook's Secret")?;
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
                secrets.replace(names::WEBHOOK_CERT_SECRET, &PostParams::default(), &secret).await
            }
            None => secrets.create(&PostParams::default(), &secret).await,
        };
        match written {
            Ok(_) => {
                tracing::info!(expires = cert.expires, "made a certificate for the webhook");
                Ok(cert)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let theirs = secrets
                    .get(names::WEBHOOK_CERT_SECRET)
                    .await
                    .context("can't read the webhook's Secret")?;
                Cert::read(&theirs).context("the webhook's Secret is not of our making; delete it")
            }
            Err(error) => Err(error).context("can't write the webhook's Secret"),
        }
    }

    /// Renews it, serves what is there, and sees to it that the apiserver trusts it.
    async fn keep(self, config: RustlsConfig, first: Cert) {
        let mut served = first;
        loop {
            if let Err(error) = self.tell_apiserver(&served).await {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the apiserver doesn't know the webhook's certificate yet"
                );
            }
            tokio::time::sleep(LOOK).await;
            match self.ensure().await {
                Ok(cert) if cert != served => {
                    // The apiserver learns of the new authority first.
                    if self.tell_apiserver(&cert).await.is_ok()
                        && config
                            .reload_from_pem(cert.cert.clone().into(), cert.key.clone().into())
                            .await
                            .is_ok()
                    {
                        served = cert;
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "can't look after the webhook's certificate"
                    );
                }
            }
        }
    }

    async fn tell_apiserver(&self, cert: &Cert) -> anyhow::Result<()> {
        let bundle = BASE64_STANDARD.encode(&cert.bundle);
        let name = &self.configuration;
        let validating: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        let found =
            validating.get(name).await.with_context(|| format!("ValidatingWebhookConfiguration {name}"))?;
        let stale =
            |told: Option<&k8s_openapi::ByteString>| told.is_none_or(|told| told.0 != cert.bundle.as_bytes());
        let hooks = found.webhooks.unwrap_or_default();
        let names: Vec<_> =
            hooks.iter().filter(|it| stale(it.client_config.ca_bundle.as_ref())).map(|it| &it.name).collect();
        if !names.is_empty() {
            validating
                .patch(name, &PatchParams::default(), &Patch::Strategic(trust(&names, &bundle)))
                .await?;
        }
        let mutating: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let found = mutating.get_opt(name).await;
        // Without injection there is none.
        let Some(found) = found.with_context(|| format!("MutatingWebhookConfiguration {name}"))? else {
            return Ok(());
        };
        let hooks = found.webhooks.unwrap_or_default();
        let names: Vec<_> =
            hooks.iter().filter(|it| stale(it.client_config.ca_bundle.as_ref())).map(|it| &it.name).collect();
        if !names.is_empty() {
            mutating.patch(name, &PatchParams::default(), &Patch::Strategic(trust(&names, &bundle))).await?;
        }
        Ok(())
    }
}

/// Lists of webhooks are merged by their names.
fn trust(names: &[&String], bundle: &str) -> serde_json::Value {
    let hooks: Vec<_> =
        names.iter().map(|name| json!({"name": name, "clientConfig": {"caBundle": bundle}})).collect();
    json!({"webhooks": hooks})
}

type Review = Json<AdmissionReview<DynamicObject>>;

async fn judge(Json(review): Review) -> Review {
    let request: Result<AdmissionRequest<DynamicObject>, _> = review.try_into();
    let response = match request {
        Ok(request) => validate::answer(&request),
        Err(error) => AdmissionResponse::invalid(error),
    };
    Json(response.into_review())
}

async fn mutate(State(shared): State<Arc<Shared>>, Json(review): Review) -> Review {
    let request: Result<AdmissionRequest<DynamicObject>, _> = review.try_into();
    let response = match request {
        Ok(request) => shared.inject(&request).await,
        Err(error) => AdmissionResponse::invalid(error),
    };
    Json(response.into_review())
}

impl Shared {
    /// Admits always; with the sidecar if that can be done, else with a warning.
    async fn inject(&self, request: &AdmissionRequest<DynamicObject>) -> AdmissionResponse {
        let mut response = AdmissionResponse::from(request);
        match self.try_inject(request).await {
            Ok(None) => response,
            Ok(Some(patch)) => response.clone().with_patch(patch).unwrap_or(response),
            Err(error) => {
                tracing::warn!(
                    namespace = request.namespace,
                    error = format!("{error:#}"),
                    "a pod goes without its sidecar"
                );
                response.warnings = Some(vec![format!("desktopstream: no sidecar was injected: {error:#}")]);
                response
            }
        }
    }

    async fn try_inject(
        &self,
        request: &AdmissionRequest<DynamicObject>,
    ) -> anyhow::Result<Option<json_patch::Patch>> {
        let namespace = request.namespace.clone().unwrap_or_default();
        let Some(object) = &request.object else { return Ok(None) };
        if namespace == self.namespace || namespace == "kube-system" {
            return Ok(None);
        }
        let pod: Pod =
            serde_json::from_value(serde_json::to_value(object)?).context("the pod can't be read")?;
        let wish = inject::wish(&pod);
        if wish == Wish::Nothing {
            return Ok(None);
        }
        let streams: Api<DesktopStream> = Api::namespaced(self.client.clone(), &namespace);
        let streams = streams.list(&ListParams::default()).await.context("can't read DesktopStreams")?.items;
        let stream = match (inject::choose(&wish, &streams), &wish) {
            (Some(stream), _) => stream,
            (None, Wish::Named(name)) => anyhow::bail!(
                "the label {} names {name:?}, and no DesktopStream with `attach` has that name here",
                names::INJECT
            ),
            (None, _) => return Ok(None),
        };
        let labelled = ListParams::default().labels(names::NODE_RENDER_GID);
        let all: Api<KubeNode> = Api::all(self.client.clone());
        let all: Vec<_> =
            all.list(&labelled).await.context("can't read Nodes")?.iter().map(kubernetes::node).collect();
        let injected = inject::injected(&pod, stream, &all, &self.sidecar).map_err(anyhow::Error::msg)?;
        tracing::info!(namespace, stream = stream.name_any(), pod = pod.name_any(), "injects the sidecar");
        let after = serde_json::to_value(&injected)?;
        // From the pod as we read it: what newer apiservers know and we don't is in neither and stays.
        Ok(Some(json_patch::diff(&serde_json::to_value(&pod)?, &after)))
    }
}
