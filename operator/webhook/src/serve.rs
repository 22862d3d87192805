//! Wires the webhook: certificate, caches, handlers, server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::routing::post;
use kube::Client;
use operator_plan::kubernetes::SidecarImage;
use operator_plan::validate::security::Policy;
use tokio::net::TcpListener;

use super::admission::{self, Injector, Validator};
use super::cache::Cache;
use super::certificate::{self, SelfSigned};
use super::server::{self, Limits};
use super::tls::Tls;

/// Options of the webhook.
#[derive(Debug, Clone)]
pub struct Options {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// The operator's namespace, whose pods are never injected.
    pub namespace: String,
    /// Namespace whose streams are injected; all namespaces if `None`.
    pub watch_namespace: Option<String>,
    /// Service in front of the webhook.
    pub service: String,
    /// Name of both webhook configurations.
    pub configuration: String,
    /// Folder with `tls.crt` and `tls.key` that another program renews, such as cert-manager. Without it the operator
    /// makes its own certificate.
    pub cert_dir: Option<PathBuf>,
    /// File with the authorities of client certificates, in PEM. Without it, clients need none.
    pub client_ca: Option<PathBuf>,
    /// Sidecar to inject.
    pub sidecar: SidecarImage,
    /// The administrator's limits on streams.
    pub policy: Policy,
}

/// Serves until `shutdown` completes, and finishes the open requests.
///
/// # Errors
/// If there is no certificate, or the address cannot be bound.
pub async fn run(client: Client, options: Options, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    // kube can have installed it already, which is an error here and harmless.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let Options { listen, namespace, configuration, service, sidecar, policy, .. } = options;
    let (cache, mut watches) = Cache::start(&client, options.watch_namespace.as_deref());
    let validator = Validator { client: client.clone(), policy: policy.clone() };
    let injector = Injector { cache, namespace: namespace.clone(), sidecar, policy };
    let router = Router::new()
        .route("/validate", post(admission::validate).with_state(Arc::new(validator)))
        .route("/inject", post(admission::inject).with_state(Arc::new(injector)));
    let client_ca = match &options.client_ca {
        Some(file) => Some(std::fs::read(file).with_context(|| {
            format!("cannot read the client CA {}; check --webhook-client-ca", file.display())
        })?),
        None => None,
    };
    let (tls, keeper) = if let Some(folder) = options.cert_dir {
        let tls = certificate::load(&folder, client_ca.as_deref())?;
        (tls.clone(), tokio::spawn(certificate::reload(tls, folder)))
    } else {
        let own = SelfSigned { client, namespace, service, configuration };
        let cert = own.ensure().await?;
        let tls = Tls::new(cert.chain.as_bytes(), cert.key.as_bytes(), client_ca.as_deref())?;
        (tls.clone(), tokio::spawn(own.keep(tls, cert)))
    };
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("cannot serve the webhook on {listen}"))?;
    tracing::info!(%listen, "webhook listening");
    let result = tokio::select! {
        () = server::serve(listener, tls, router, Limits::default(), shutdown) => Ok(()),
        Some(ended) = watches.join_next() => {
            Err(anyhow::anyhow!("the watch of {} ended", ended.unwrap_or("an object")))
        }
    };
    keeper.abort();
    result
}
