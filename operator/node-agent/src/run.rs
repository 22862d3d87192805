//! Runs the node-agent. Ends when a part of it ends, to be restarted.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::plugin::Allocation;
use super::{cdi, kubelet, publish};
use operator_api::HostAgent;
use operator_discovery::gpus::{self, Found, Roots};
use operator_discovery::reach::Reach;

/// Interval at which GPUs are searched.
const SCAN_INTERVAL: Duration = Duration::from_secs(5);
/// Interval at which unchanged facts are written again, in case another writer changed the Node.
const REPUBLISH_INTERVAL: Duration = Duration::from_secs(600);

/// Options of the node-agent.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the Node.
    pub node: String,
    /// Directories to search for GPUs.
    pub roots: Roots,
    /// The node's `/proc`.
    pub proc: PathBuf,
    /// The kubelet's folder for device plugins.
    pub plugin_dir: PathBuf,
    /// How devices are allocated.
    pub allocation: Allocation,
    /// Interval at which host-agents are probed.
    pub reach_every: Duration,
}

/// Runs until SIGTERM or SIGINT. Without a client it allocates devices but publishes nothing.
///
/// # Errors
/// If sysfs cannot be read, or a part of the node-agent ends.
pub async fn run(client: Option<Client>, options: Options) -> anyhow::Result<()> {
    let Options { node, roots, proc, plugin_dir, allocation, reach_every } = options;
    let (found_in, found) = watch::channel(gpus::find(&roots).context("cannot search sysfs for GPUs")?);
    for Found { gpu, healthy } in &*found.borrow() {
        tracing::info!(gpu.name, gpu.driver, gpu.render, gpu.render_gid, healthy, "found GPU");
    }
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let plugins = kubelet::keep_all(plugin_dir, found.clone(), allocation.clone());
    let publishing = async {
        match client {
            Some(client) => publish_facts(&client, &node, found.clone(), &proc, reach_every).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = scan(&roots, found_in, allocation.cdi.clone()) => anyhow::bail!("the search for GPUs ended"),
        () = plugins => anyhow::bail!("the device plugins ended"),
        () = publishing => anyhow::bail!("publishing facts ended"),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// Searches for GPUs periodically, and sends changes.
async fn scan(roots: &Roots, found: watch::Sender<Vec<Found>>, cdi_dir: Option<PathBuf>) {
    let mut written = None;
    loop {
        match gpus::find(roots) {
            Ok(now) => {
                if let Some(folder) = &cdi_dir
                    && written.as_ref() != Some(&now)
                {
                    match cdi::write(folder, &now) {
                        Ok(()) => written = Some(now.clone()),
                        Err(error) => {
                            tracing::warn!(%error, folder = %folder.display(), "CDI devices not written");
                        }
                    }
                }
                found.send_if_modified(|before| {
                    let changed = *before != now;
                    if changed {
                        tracing::info!(gpus = now.len(), "GPUs changed");
                        *before = now;
                    }
                    changed
                });
            }
            Err(error) => tracing::warn!(%error, "GPUs not searched; retrying"),
        }
        tokio::time::sleep(SCAN_INTERVAL).await;
    }
}

/// Publishes the node's facts periodically.
async fn publish_facts(
    client: &Client,
    node: &str,
    found: watch::Receiver<Vec<Found>>,
    proc: &std::path::Path,
    every: Duration,
) {
    let (agents, nodes): (Api<HostAgent>, Api<Node>) = (Api::all(client.clone()), Api::all(client.clone()));
    let mut reach = Reach::default();
    let mut known: Vec<HostAgent> = Vec::new();
    let mut labels: BTreeMap<String, String> = BTreeMap::new();
    let mut listed: Option<Instant> = None;
    let mut published = None;
    loop {
        // HostAgents change rarely, so their endpoints are probed more often than they are read.
        if listed.is_none_or(|at| at.elapsed() >= every * 3) {
            let all = ListParams::default();
            match tokio::try_join!(agents.list(&all), nodes.get(node)) {
                Ok((list, this)) => {
                    (known, labels) = (list.items, this.metadata.labels.unwrap_or_default());
                    listed = Some(Instant::now());
                }
                Err(error) => tracing::warn!(%error, "HostAgents and Node not read; retrying"),
            }
        }
        let reached = reach.probe(&known, &labels, proc).await;
        let facts = publish::facts(&found.borrow(), reached);
        let due = published
            .as_ref()
            .is_none_or(|(before, at): &(_, Instant)| *before != facts || at.elapsed() >= REPUBLISH_INTERVAL);
        if due {
            match publish::publish(&nodes, node, &facts).await {
                Ok(()) => {
                    tracing::info!(gpus = facts.gpus.len(), host_agents = ?facts.host_agents, "published node facts");
                    published = Some((facts, Instant::now()));
                }
                Err(error) => tracing::warn!(%error, "node facts not written; retrying"),
            }
        }
        tokio::time::sleep(every).await;
    }
}
