//! HTTPS server of the webhook.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::post;
use axum_server::tls_rustls::RustlsConfig;
use kube::Client;
use operator_plan::kubernetes::SidecarImage;

use super::admission::{self, Injector};
use super::certificate::{self, SelfSigned};

/// Maximum size of a review: old and new object of 1.5 MiB each (etcd's limit), and what the apiserver adds.
const MAX_REVIEW: usize = 8 << 20;

/// Options of the webhook.
#[derive(Debug, Clone)]
pub struct Options {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// The operator's namespace, whose pods are never injected.
    pub namespace: String,
    /// Service in front of the webhook.
    pub service: String,
    /// Name of both webhook configurations.
    pub configuration: String,
    /// Folder with `tls.crt` and `tls.key` that another program renews, such as cert-manager. Without it the operator
    /// makes its own certificate.
    pub cert_dir: Option<PathBuf>,
    /// Sidecar to inject.
    pub sidecar: SidecarImage,
}

/// Serves until it fails.
///
/// # Errors
/// If there is no certificate, or the address cannot be bound.
pub async fn run(client: Client, options: Options) -> anyhow::Result<()> {
    // kube can have installed it already, which is an error here and harmless.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let Options { listen, namespace, service, configuration, cert_dir, sidecar } = options;
    let injector = Injector { client: client.clone(), namespace: namespace.clone(), sidecar };
    let router = Router::new()
        .route("/validate", post(admission::validate))
        .route("/inject", post(admission::inject))
        .layer(DefaultBodyLimit::max(MAX_REVIEW))
        .with_state(Arc::new(injector));
    let (config, keeper) = if let Some(folder) = cert_dir {
        let config = certificate::load(&folder).await?;
        (config.clone(), tokio::spawn(certificate::reload(config, folder)))
    } else {
        let own = SelfSigned { client, namespace, service, configuration };
        let cert = own.ensure().await?;
        let config = RustlsConfig::from_pem(cert.chain.clone().into(), cert.key.clone().into()).await?;
        (config.clone(), tokio::spawn(own.keep(config, cert)))
    };
    tracing::info!(%listen, "webhook listening");
    let served = axum_server::bind_rustls(listen, config).serve(router.into_make_service()).await;
    keeper.abort();
    served.with_context(|| format!("cannot serve the webhook on {listen}"))
}
