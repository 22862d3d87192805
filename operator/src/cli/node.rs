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
    /// Number of shares of each GPU; a desktop and its sidecar use two
    #[arg(long, env = "OPERATOR_SHARES", default_value_t = 32, value_parser = clap::value_parser!(u32).range(2..=1000))]
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
    /// Allocate devices only, without an apiserver
    #[arg(long)]
    no_cluster: bool,
}

impl Node {
    pub(super) async fn run(self) -> Result<()> {
        let Self { name, dev, sys, proc, drivers, shares, plugin_dir, cdi_dir, reach_every, no_cluster } =
            self;
        let client = if no_cluster { None } else { Some(super::client().await?) };
        let options = Options {
            node: name,
            roots: Roots { dev, sys, more_drivers: drivers },
            proc,
            plugin_dir,
            allocation: Allocation { shares, cdi: cdi_dir },
            reach_every,
        };
        operator_node_agent::run(client, options).await
    }
}
