//! Runs the controllers. The process ends when a part of it fails, to be restarted. A replica that loses the Lease waits for
//! it again, because its webhook still serves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt;
use kube::runtime::Controller;
use kube::runtime::controller::Config;
use kube::{Client, ResourceExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::calls::Calls;
use super::context::{Context, Settings};
use super::lease::Candidate;
use super::metrics::{self, Metrics};
use super::stores::{Guarded, Stores, Tasks};
use super::{host_agents, keys, ownership, reconcile};

/// Interval at which the memory of deleted streams is dropped.
const FORGET_INTERVAL: Duration = Duration::from_secs(5);

/// Options of the controllers.
#[derive(Debug, Clone)]
pub struct Options {
    /// Settings of reconciliations.
    pub settings: Settings,
    /// Address of `/metrics`, `/healthz` and `/readyz`.
    pub metrics: SocketAddr,
    /// Name of this replica.
    pub identity: String,
    /// Duration of the Lease without renewal.
    pub lease: Duration,
    /// Requests of the client.
    pub calls: Calls,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// If a part of the controllers fails.
pub async fn run(client: Client, options: Options) -> anyhow::Result<()> {
    let Options { settings, metrics: address, identity, lease, calls } = options;
    let metrics = Arc::new(Metrics::new(&calls));
    let mut tasks = Tasks::new();
    tasks.spawn({
        let metrics = Arc::clone(&metrics);
        async move {
            let ended = metrics::serve(address, metrics).await;
            tracing::error!(?ended, %address, "metrics not served; choose another --metrics");
            "metrics"
        }
    });
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let random = getrandom::u32().map_err(|error| anyhow::anyhow!("cannot get random bytes: {error}"))?;
    let candidate = Candidate::new(&client, &settings.namespace, format!("{identity}_{random:08x}"), lease);
    let leading = async {
        loop {
            let acquired = candidate.acquire().await;
            tracing::info!(identity, "acquired lease");
            lead(&client, &settings, &metrics, &candidate, acquired).await?;
            tracing::warn!(identity, "lost lease");
        }
    };
    let result = tokio::select! {
        result = leading => result,
        Some(ended) = tasks.join_next() => Err(anyhow::anyhow!("{} ended", ended.unwrap_or("a task"))),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    candidate.release().await;
    result
}

/// Works until the Lease is lost. Any other end is an error.
async fn lead(
    client: &Client,
    settings: &Settings,
    metrics: &Arc<Metrics>,
    candidate: &Candidate,
    acquired: tokio::time::Instant,
) -> anyhow::Result<()> {
    let mut tasks = Tasks::new();
    metrics.set_leader(true);
    let result = tokio::select! {
        result = work(client.clone(), settings.clone(), Arc::clone(metrics), &mut tasks) => result,
        () = candidate.hold(acquired) => Ok(()),
    };
    metrics.set_leader(false);
    tasks.shutdown().await;
    result
}

/// Work of the leader. Returns only if a part failed.
async fn work(
    client: Client,
    settings: Settings,
    metrics: Arc<Metrics>,
    tasks: &mut Tasks,
) -> anyhow::Result<()> {
    let keys = keys::ensure(&client, &settings.namespace).await?;
    if let Some(deployment) = settings.deployment.clone() {
        let (client, namespace) = (client.clone(), settings.namespace.clone());
        tasks.spawn(async move {
            ownership::keep(client, namespace, deployment).await;
            "ownership"
        });
    }
    let (queue, queued) = mpsc::unbounded_channel();
    let filling = Stores::start(&client, settings.watch_namespace.as_deref(), &queue, tasks);
    let stores = tokio::select! {
        stores = filling.filled() => stores?,
        Some(ended) = tasks.join_next() => anyhow::bail!("{} ended", ended.unwrap_or("a task")),
    };
    metrics.set_working();
    tracing::info!(streams = stores.streams.len(), "listed all objects");
    let (concurrency, streams) = (settings.concurrency, stores.streams.clone());
    let context = Arc::new(Context::new(client, settings, stores, keys, metrics, queue));
    restore_pairings(&context);
    tasks.spawn({
        let context = Arc::clone(&context);
        async move {
            host_agents::watch(context).await;
            "host-agents"
        }
    });
    tasks.spawn({
        let context = Arc::clone(&context);
        async move {
            let count = || {
                context.metrics.polls.inc();
            };
            context.poller.run(count).await;
            "sidecars"
        }
    });
    tasks.spawn(forget_deleted(Arc::clone(&context)));
    // Streams are reconciled through the queue only, because it filters the changes that matter.
    let nothing = futures_util::stream::pending::<Result<Guarded, kube::runtime::watcher::Error>>();
    let controller = Controller::for_stream(nothing, streams)
        .with_config(Config::default().concurrency(concurrency))
        .reconcile_on(UnboundedReceiverStream::new(queued))
        .run(reconcile::reconcile, reconcile::on_error, context)
        .for_each(|done| async move {
            if let Err(error) = done {
                tracing::debug!(%error, "reconciliation failed");
            }
        });
    tokio::select! {
        () = controller => anyhow::bail!("the controller ended"),
        Some(ended) = tasks.join_next() => anyhow::bail!("{} ended", ended.unwrap_or("a task")),
    }
}

/// Counts the pairings of a previous leader as load, before the first choice is made.
fn restore_pairings(context: &Context) {
    for guarded in context.stores.streams.state() {
        let Ok(stream) = &guarded.0 else { continue };
        let paired = stream.status.as_ref().and_then(|status| status.host_agent_name.clone());
        let uid = stream.uid().unwrap_or_default();
        context.memory.update(&uid, |known| known.host_agent = paired);
    }
}

/// Drops the memory of deleted streams, so that they no longer count as load.
async fn forget_deleted(context: Arc<Context>) -> &'static str {
    loop {
        tokio::time::sleep(FORGET_INTERVAL).await;
        let streams = context.stores.streams.state();
        let existing: std::collections::HashSet<String> =
            streams.iter().filter_map(|stream| stream.uid()).collect();
        context.memory.retain(|uid| existing.contains(uid));
        context.poller.retain(|uid| existing.contains(uid));
        context.metrics.set_streams(existing.len());
    }
}
