//! Command line.

mod node;
pub mod policy;
mod run;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use kube::{Client, Config};
use operator_api::crds;
use operator_controller::calls::{self, Calls};

use crate::{check, install};

/// Runs DesktopStreams on Kubernetes or on a Docker Engine.
///
/// Exit codes: 0 success, 1 failure, 2 invalid command line.
#[derive(Debug, Parser)]
#[command(name = "operator", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log as JSON. RUST_LOG sets the level, for example RUST_LOG=operator=debug
    #[arg(long, global = true, env = "OPERATOR_LOG_JSON")]
    log_json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the controllers and the webhook until SIGINT or SIGTERM
    Run(Box<run::Run>),
    /// Run the node-agent: device plugin, node facts, discovery of host-agents
    Node(Box<node::Node>),
    Docker(Box<operator_docker::cli::Docker>),
    /// Print the CustomResourceDefinitions, for kubectl apply -f -
    #[command(alias = "crd")]
    Crds,
    /// Print the objects of an installation without Helm, for kubectl apply --server-side -f -
    InstallManifests(Box<install::Options>),
    /// Check an installation: API, leader, webhook, nodes. Exit code 1 if a required part fails
    Check(Check),
}

/// Options of `check`.
#[derive(Debug, Args)]
struct Check {
    /// Namespace of the operator
    #[arg(long, env = "POD_NAMESPACE", default_value = "desktopstream")]
    namespace: String,
    /// Name of the webhook configurations
    #[arg(long, env = "OPERATOR_WEBHOOK_CONFIGURATION", default_value = "desktopstream")]
    webhook_configuration: String,
}

impl Cli {
    /// Parses the command line and runs the command.
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
            Self::Check(Check { namespace, webhook_configuration }) => {
                block_on(
                    async move { check::run(&client().await?, &namespace, &webhook_configuration).await },
                )?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Runtime::new().context("cannot start the async runtime")?.block_on(work)
}

async fn client() -> Result<Client> {
    counting_client(&Calls::default()).await
}

async fn counting_client(calls: &Calls) -> Result<Client> {
    let remedy = "cannot reach the apiserver: run in a pod with a service account, or set KUBECONFIG";
    calls::client(Config::infer().await.context(remedy)?, calls).context(remedy)
}
