//! Runs the node-agent: looks, hands out, says. Ends when a part of it ends.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::plugin::Dealing;
use super::{cdi, kubelet, publish};
use operator_api::HostAgent;
use operator_discovery::gpus::{self, Found, Roots};
use operator_discovery::reach::Reach;

/// How often devices are looked for.
const DEVICES_EVERY: Duration = Duration::from_secs(5);
/// Facts are written again so often though nothing changed: somebody may have changed the Node.
const AGAIN: Duration = Duration::from_secs(600);

/// How it runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// The Node that it runs on.
    pub node: String,
    /// Where devices are.
    pub roots: Roots,
    /// `/proc` of the node.
    pub proc: PathBuf,
    /// The kubelet's folder for device plugins.
    pub plugin_dir: PathBuf,
    /// How devices are handed out.
    pub dealing: Dealing,
    /// How often host-agents are tried.
    pub reach_every: Duration,
}

/// Runs until told to stop. Without a client it hands out devices and says nothing.
pub async fn run(client: Option<Client>, options: Options) -> anyhow::Result<()> {
    let Options { node, roots, proc, plugin_dir, dealing, reach_every } = options;
    let (found_in, found) = watch::channel(gpus::find(&roots).context("can't look for GPUs in sysfs")?);
    for Found { gpu, healthy } in &*found.borrow() {
        tracing::info!(gpu.name, gpu.driver, gpu.render, gpu.render_gid, healthy, "found a GPU");
    }
    let mut terminate = signal(SignalKind::terminate()).context("can't listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't listen for SIGINT")?;
    let plugins = kubelet::keep_all(plugin_dir, found.clone(), dealing.clone());
    let says = async {
        match client {
            Some(client) => say(&client, &node, found.clone(), &proc, reach_every).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = look(&roots, found_in, dealing.cdi.clone()) => anyhow::bail!("nobody looks for GPUs any more"),
        () = plugins => anyhow::bail!("nobody serves the kubelet any more"),
        () = says => anyhow::bail!("nobody publishes facts any more"),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// Keeps what was found current.
async fn look(roots: &Roots, found: watch::Sender<Vec<Found>>, cdi_dir: Option<PathBuf>) {
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
                            tracing::warn!(%error, folder = %folder.display(), "can't write CDI devices");
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
            Err(error) => tracing::warn!(%error, "can't look for GPUs"),
        }
        tokio::time::sleep(DEVICES_EVERY).await;
    }
}

/// Keeps the Node's facts current.
async fn say(
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
    let mut said = None;
    loop {
        // A HostAgent is made once in a while: its endpoints are tried more often than they are read.
        if listed.is_none_or(|at| at.elapsed() >= every * 3) {
            let all = ListParams::default();
            match tokio::try_join!(agents.list(&all), nodes.get(node)) {
                Ok((list, this)) => {
                    (known, labels) = (list.items, this.metadata.labels.unwrap_or_default());
                    listed = Some(Instant::now());
                }
                Err(error) => tracing::warn!(%error, "can't read HostAgents and the Node"),
            }
        }
        let reached = reach.look(&known, &labels, proc).await;
        let facts = publish::facts(&found.borrow(), reached);
        let due =
            said.as_ref().is_none_or(|(before, at): &(_, Instant)| *before != facts || at.elapsed() >= AGAIN);
        if due {
            match publish::publish(&nodes, node, &facts).await {
                Ok(()) => {
                    tracing::info!(gpus = facts.gpus.len(), host_agents = ?facts.host_agents, "facts published");
                    said = Some((facts, Instant::now()));
                }
                Err(error) => tracing::warn!(%error, "can't write the Node's facts"),
            }
        }
        tokio::time::sleep(every).await;
    }
}
