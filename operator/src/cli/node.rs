//! `operator node`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use operator_discovery::gpus::Roots;
use operator_node_agent::Options;
use operator_node_agent::kubelet::FOLDER;
use operator_node_agent::plugin::Allocation;
use operator_plan::duration::positive;

use crate::installation;

/// Options of `node`.
#[derive(Debug, Args)]
pub struct Node {
    /// Name of the Node
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
    /// Additional kernel driver whose devices count as GPUs; can be repeated
    #[arg(long = "driver", env = "OPERATOR_DRIVERS", value_delimiter = ',')]
    drivers: Vec<String>,
    /// Number of shares of each GPU, even; a desktop and its sidecar use two
    #[arg(long, env = "OPERATOR_SHARES", default_value_t = 32, value_parser = shares)]
    shares: u32,
    /// The kubelet's folder for device plugins
    #[arg(long, env = "OPERATOR_PLUGIN_DIR", default_value = FOLDER)]
    plugin_dir: PathBuf,
    /// Folder for CDI specifications; if set, containers get CDI devices in place of device files
    #[arg(long, env = "OPERATOR_CDI_DIR")]
    cdi_dir: Option<PathBuf>,
    /// Interval at which host-agents are probed
    #[arg(long, env = "OPERATOR_REACH_EVERY", default_value = "10s", value_parser = positive)]
    reach_every: Duration,
    /// This installation, as NAMESPACE/RELEASE; the node-agent ends if the cluster has another one
    #[arg(long, env = "OPERATOR_INSTALLATION")]
    installation: Option<String>,
    /// Allocate devices only, without an apiserver
    #[arg(long)]
    no_cluster: bool,
}

impl Node {
    pub(super) async fn run(self) -> Result<()> {
        let Self {
            name,
            dev,
            sys,
            proc,
            drivers,
            shares,
            plugin_dir,
            cdi_dir,
            reach_every,
            installation,
            no_cluster,
        } = self;
        let client = if no_cluster { None } else { Some(super::client().await?) };
        let options = Options {
            node: name,
            roots: Roots { dev, sys, more_drivers: drivers },
            proc,
            plugin_dir,
            allocation: Allocation { shares, cdi: cdi_dir },
            reach_every,
        };
        let Some(cluster) = client.clone() else { return operator_node_agent::run(client, options).await };
        tokio::select! {
            ended = operator_node_agent::run(client, options) => ended,
            error = installation::replaced(&cluster, installation.as_deref()) => Err(error),
        }
    }
}

fn shares(text: &str) -> Result<u32, String> {
    let number: Option<u32> = text.parse().ok();
    number
        .filter(|shares| (2..=1000).contains(shares) && shares % 2 == 0)
        .ok_or_else(|| "must be even and between 2 and 1000".to_owned())
}
