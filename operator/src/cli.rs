//! The command line.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use kube::{Client, Config};

use operator_api::crds;
use operator_controller::calls::{self, Calls};
use operator_controller::{Options, Settings};
use operator_discovery::gpus::Roots;
use operator_node_agent::kubelet::FOLDER;
use operator_node_agent::plugin::Dealing;
use operator_plan::duration::positive;
use operator_plan::kubernetes::SidecarImage;

use crate::install;

/// Runs DesktopStreams, on Kubernetes or on a Docker Engine.
///
/// Exit codes: 0 it went well, 1 it failed, 2 the command line makes no sense.
#[derive(Debug, Parser)]
#[command(name = "operator", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log as JSON. What is logged is said by RUST_LOG, e.g. RUST_LOG=operator=debug
    #[arg(long, global = true, env = "OPERATOR_LOG_JSON")]
    log_json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the controllers until SIGINT or SIGTERM
    Run(Box<Run>),
    /// Run the node-agent: device plugin, node facts, discovery of host-agents
    Node(Box<Node>),
    Docker(Box<operator_docker::cli::Docker>),
    /// Print the CustomResourceDefinitions, for `kubectl apply -f -`
    #[command(alias = "crd")]
    Crds,
    /// Print all that an installation without Helm is made of, for `kubectl apply --server-side -f -`
    InstallManifests(Box<install::Options>),
    /// Look at an installation from inside: API, leader, webhook, nodes; exit code 1 if a part fails
    Check(Check),
}

/// Options of `check`.
#[derive(Debug, Args)]
struct Check {
    /// The operator's own namespace
    #[arg(long, env = "POD_NAMESPACE", default_value = "desktopstream")]
    namespace: String,
}

/// Options of `run`.
#[derive(Debug, Args)]
struct Run {
    /// The operator's own namespace: its signing key and its Lease are there
    #[arg(long, env = "POD_NAMESPACE", default_value = "desktopstream")]
    namespace: String,
    /// The Deployment that this is a pod of: the operator's key, certificate and Lease go when it goes
    #[arg(long, env = "OPERATOR_DEPLOYMENT")]
    deployment: Option<String>,
    /// Serve the streams of this namespace only
    #[arg(long, env = "OPERATOR_WATCH_NAMESPACE")]
    watch_namespace: Option<String>,
    /// The sidecar's image; its entrypoint is the sidecar
    #[arg(long, env = "OPERATOR_SIDECAR_IMAGE", default_value = "desktopstream/sidecar")]
    sidecar_image: String,
    /// When the sidecar's image is pulled: Always, IfNotPresent, Never
    #[arg(long, env = "OPERATOR_SIDECAR_PULL_POLICY")]
    sidecar_pull_policy: Option<String>,
    /// CPU that a sidecar asks for
    #[arg(long, env = "OPERATOR_SIDECAR_CPU", default_value = "50m")]
    sidecar_cpu: String,
    /// Memory that a sidecar asks for
    #[arg(long, env = "OPERATOR_SIDECAR_MEMORY", default_value = "64Mi")]
    sidecar_memory: String,
    /// Memory that a sidecar may use: encoding in the sidecar needs some
    #[arg(long, env = "OPERATOR_SIDECAR_MEMORY_LIMIT", default_value = "1Gi")]
    sidecar_memory_limit: String,
    /// How often a running sidecar is asked how it does
    #[arg(long, env = "OPERATOR_POLL", default_value = "15s", value_parser = positive)]
    poll: Duration,
    /// How long a token for a host-agent is good; renewed at half of it
    #[arg(long, env = "OPERATOR_TOKEN_LIFE", default_value = "1h", value_parser = positive)]
    token_life: Duration,
    /// Reconciliations at once
    #[arg(long, env = "OPERATOR_CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// Where /metrics, /healthz and /readyz are
    #[arg(long, env = "OPERATOR_METRICS", default_value = "0.0.0.0:8081")]
    metrics: SocketAddr,
    /// Who this is among operators
    #[arg(long, env = "POD_NAME", default_value = "operator")]
    identity: String,
    /// Serve the webhook there
    #[arg(long, env = "OPERATOR_WEBHOOK")]
    webhook: Option<SocketAddr>,
    /// The Service in front of the webhook
    #[arg(long, env = "OPERATOR_WEBHOOK_SERVICE", default_value = "desktopstream-webhook")]
    webhook_service: String,
    /// Name of the webhook configurations that are told our certificate's authority
    #[arg(long, env = "OPERATOR_WEBHOOK_CONFIGURATION", default_value = "desktopstream")]
    webhook_configuration: String,
    /// Folder with tls.crt and tls.key that somebody else renews; without it we make our own certificate
    #[arg(long, env = "OPERATOR_WEBHOOK_CERT_DIR")]
    webhook_cert_dir: Option<PathBuf>,
    /// How long the Lease is good without renewal
    #[arg(long, env = "OPERATOR_LEASE", default_value = "15s", value_parser = positive)]
    lease: Duration,
}

/// Options of `node`.
#[derive(Debug, Args)]
struct Node {
    /// The Node that this runs on
    #[arg(long = "node", env = "NODE_NAME")]
    name: String,
    /// The node's /dev
    #[arg(long, env = "OPERATOR_DEV", default_value = "/dev")]
    dev: PathBuf,
    /// The node's /sys
    #[arg(long, env = "OPERATOR_SYS", default_value = "/sys")]
    sys: PathBuf,
    /// The node's /proc, for its default gateway
    #[arg(long, env = "OPERATOR_PROC", default_value = "/proc")]
    proc: PathBuf,
    /// A driver that counts as a GPU's besides those that we know; may be given again
    #[arg(long = "driver", env = "OPERATOR_DRIVERS", value_delimiter = ',')]
    drivers: Vec<String>,
    /// Shares of each GPU; a desktop with its sidecar takes two
    #[arg(long, env = "OPERATOR_SHARES", default_value_t = 32, value_parser = clap::value_parser!(u32).range(2..=1000))]
    shares: u32,
    /// The kubelet's folder for device plugins
    #[arg(long, env = "OPERATOR_PLUGIN_DIR", default_value = FOLDER)]
    plugin_dir: PathBuf,
    /// Write CDI devices to this folder, and hand those out
    #[arg(long, env = "OPERATOR_CDI_DIR")]
    cdi_dir: Option<PathBuf>,
    /// How often host-agents are tried
    #[arg(long, env = "OPERATOR_REACH_EVERY", default_value = "10s", value_parser = positive)]
    reach_every: Duration,
    /// Hand out devices only: no apiserver, no facts
    #[arg(long)]
    no_cluster: bool,
}

impl Cli {
    /// Parses the command line and does what it says.
    pub fn parse_and_run() -> ExitCode {
        let Self { command, log_json } = Self::parse();
        log(log_json);
        match command.run() {
            Ok(code) => code,
            Err(error) => {
                eprintln!("operator: {error:#}");
                ExitCode::FAILURE
            }
        }
    }
}

fn log(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        builder.json().init();
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).init();
    }
}

impl Command {
    fn run(self) -> Result<ExitCode> {
        match self {
            Self::Crds => print!("{}", crds::stream()?),
            Self::InstallManifests(options) => print!("{}", install::stream(&options)?),
            Self::Run(options) => block_on(options.run())?,
            Self::Node(options) => block_on(options.run())?,
            Self::Docker(options) => return block_on(options.run()).map(ExitCode::from),
            Self::Check(Check { namespace }) => {
                block_on(async move { crate::check::run(&client().await?, &namespace).await })?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Runtime::new().context("can't start the runtime")?.block_on(work)
}

async fn client() -> Result<Client> {
    client_counted(&Arc::default()).await
}

async fn client_counted(calls: &Arc<Calls>) -> Result<Client> {
    let remedy = "no way to the apiserver; run in a pod with a service account, or set KUBECONFIG";
    calls::client(Config::infer().await.context(remedy)?, calls).context(remedy)
}

impl Run {
    async fn run(self) -> Result<()> {
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
            lease,
        } = self;
        let sidecar = SidecarImage {
            image: sidecar_image,
            pull_policy: sidecar_pull_policy,
            cpu: sidecar_cpu,
            memory: sidecar_memory,
            memory_limit: sidecar_memory_limit,
        };
        let calls = Arc::default();
        let client = client_counted(&calls).await?;
        let hooks = webhook.map(|listen| operator_webhook::Options {
            listen,
            namespace: namespace.clone(),
            service: webhook_service,
            configuration: webhook_configuration,
            cert_dir: webhook_cert_dir,
            sidecar: sidecar.clone(),
        });
        let settings =
            Settings { namespace, deployment, watch_namespace, sidecar, poll, token_life, concurrency };
        let controls =
            operator_controller::run(client.clone(), Options { settings, metrics, identity, lease, calls });
        // Every replica serves the webhook, one leads.
        match hooks {
            Some(hooks) => tokio::select! {
                ended = controls => ended,
                ended = operator_webhook::run(client, hooks) => ended,
            },
            None => controls.await,
        }
    }
}

impl Node {
    async fn run(self) -> Result<()> {
        let Self { name, dev, sys, proc, drivers, shares, plugin_dir, cdi_dir, reach_every, no_cluster } =
            self;
        let client = if no_cluster { None } else { Some(client().await?) };
        let options = operator_node_agent::Options {
            node: name,
            roots: Roots { dev, sys, more_drivers: drivers },
            proc,
            plugin_dir,
            dealing: Dealing { shares, cdi: cdi_dir },
            reach_every,
        };
        operator_node_agent::run(client, options).await
    }
}
