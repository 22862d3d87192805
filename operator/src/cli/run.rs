//! `operator run`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use operator_controller::calls::Calls;
use operator_controller::{Options, Settings};
use operator_plan::duration::positive;
use operator_plan::kubernetes::SidecarImage;
use operator_plan::validate::security::Policy;
use tokio::sync::oneshot;

use super::policy::PolicyArgs;
use crate::installation;

/// Options of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Namespace of the operator, with its signing key and its Lease
    #[arg(long, env = "POD_NAMESPACE", default_value = "desktopstream")]
    namespace: String,
    /// Deployment that becomes the owner of the operator's certificate and Lease
    #[arg(long, env = "OPERATOR_DEPLOYMENT")]
    deployment: Option<String>,
    /// Namespace whose streams are reconciled; all namespaces if not set
    #[arg(long, env = "OPERATOR_WATCH_NAMESPACE")]
    watch_namespace: Option<String>,
    /// Image of the sidecar, whose entrypoint is the sidecar
    #[arg(long, env = "OPERATOR_SIDECAR_IMAGE", default_value = concat!("desktopstream/sidecar:", env!("CARGO_PKG_VERSION")))]
    sidecar_image: String,
    /// Pull policy of the sidecar's image: Always, IfNotPresent or Never
    #[arg(long, env = "OPERATOR_SIDECAR_PULL_POLICY")]
    sidecar_pull_policy: Option<String>,
    /// CPU request of a sidecar
    #[arg(long, env = "OPERATOR_SIDECAR_CPU", default_value = "50m")]
    sidecar_cpu: String,
    /// Memory request of a sidecar
    #[arg(long, env = "OPERATOR_SIDECAR_MEMORY", default_value = "64Mi")]
    sidecar_memory: String,
    /// Memory limit of a sidecar; encoding in the sidecar needs several hundred MiB
    #[arg(long, env = "OPERATOR_SIDECAR_MEMORY_LIMIT", default_value = "1Gi")]
    sidecar_memory_limit: String,
    /// Interval between status requests to a sidecar that streams
    #[arg(long, env = "OPERATOR_POLL", default_value = "15s", value_parser = positive)]
    poll: Duration,
    /// Lifetime of tokens for host-agents; a token is renewed at half of it, and a session ends with it
    #[arg(long, env = "OPERATOR_TOKEN_LIFE", default_value = "8h", value_parser = positive)]
    token_life: Duration,
    /// Number of concurrent reconciliations
    #[arg(long, env = "OPERATOR_CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// Address of /metrics, /healthz and /readyz
    #[arg(long, env = "OPERATOR_METRICS", default_value = "0.0.0.0:8081")]
    metrics: SocketAddr,
    /// Name of this replica in the Lease
    #[arg(long, env = "POD_NAME", default_value = "operator")]
    identity: String,
    /// Address of the webhook; not served if not set
    #[arg(long, env = "OPERATOR_WEBHOOK")]
    webhook: Option<SocketAddr>,
    /// Service in front of the webhook
    #[arg(long, env = "OPERATOR_WEBHOOK_SERVICE", default_value = "desktopstream-webhook")]
    webhook_service: String,
    /// Name of the webhook configurations that get the CA of the webhook's certificate
    #[arg(long, env = "OPERATOR_WEBHOOK_CONFIGURATION", default_value = "desktopstream")]
    webhook_configuration: String,
    /// Folder with tls.crt and tls.key that another program renews; self-signed if not set
    #[arg(long, env = "OPERATOR_WEBHOOK_CERT_DIR")]
    webhook_cert_dir: Option<PathBuf>,
    /// File with the authorities, in PEM, of the apiserver's client certificate for webhooks; not required if not set
    #[arg(long, env = "OPERATOR_WEBHOOK_CLIENT_CA")]
    webhook_client_ca: Option<PathBuf>,
    #[command(flatten)]
    policy: PolicyArgs,
    /// This installation, as NAMESPACE/RELEASE; the operator ends if the cluster has another one
    #[arg(long, env = "OPERATOR_INSTALLATION")]
    installation: Option<String>,
    /// Time after which the Lease expires without renewal
    #[arg(long, env = "OPERATOR_LEASE", default_value = "15s", value_parser = positive)]
    lease: Duration,
}

impl Run {
    pub(super) async fn run(self) -> Result<()> {
        let Self {
            namespace,
            deployment,
            watch_namespace,
            sidecar_image,
            sidecar_pull_policy,
            sidecar_cpu,
            sidecar_memory,
            sidecar_memory_limit,
            poll,
            token_life,
            concurrency,
            metrics,
            identity,
            webhook,
            webhook_service,
            webhook_configuration,
            webhook_cert_dir,
            webhook_client_ca,
            policy,
            installation,
            lease,
        } = self;
        let sidecar = SidecarImage {
            image: sidecar_image,
            pull_policy: sidecar_pull_policy,
            cpu: sidecar_cpu,
            memory: sidecar_memory,
            memory_limit: sidecar_memory_limit,
        };
        let calls = Calls::default();
        let client = super::counting_client(&calls).await?;
        let policy = Policy::from(policy);
        let webhook = webhook.map(|listen| operator_webhook::Options {
            listen,
            namespace: namespace.clone(),
            watch_namespace: watch_namespace.clone(),
            service: webhook_service,
            configuration: webhook_configuration,
            cert_dir: webhook_cert_dir,
            client_ca: webhook_client_ca,
            sidecar: sidecar.clone(),
            policy: policy.clone(),
        });
        let settings = Settings {
            namespace,
            deployment,
            watch_namespace,
            sidecar,
            policy,
            poll,
            token_life,
            concurrency,
        };
        let options = Options { settings, metrics, identity, lease, calls };
        let controllers = Box::pin(operator_controller::run(client.clone(), options));
        let cluster = client.clone();
        let replaced = installation::replaced(&cluster, installation.as_deref());
        let controllers = async {
            tokio::select! {
                ended = controllers => ended,
                error = replaced => Err(error),
            }
        };
        let Some(webhook) = webhook else { return controllers.await };
        // Every replica serves the webhook; only the leader reconciles. After SIGTERM the webhook still answers, until the
        // apiserver calls the other replicas only.
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = operator_webhook::run(client, webhook, async {
            // The sender is never dropped before.
            let _stopped = stopped.await;
        });
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            ended = controllers => {
                ended?;
                drop(stop);
                serving.await
            }
            ended = &mut serving => ended,
        }
    }
}
