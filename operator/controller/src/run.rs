//! Starts everything and ends when something ends that shouldn't: a restart is better than a zombie. Who loses the Lease
//! waits for it again: its webhook goes on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt;
use kube::Client;
use kube::runtime::Controller;
use kube::runtime::controller::Config;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::calls::Calls;
use super::context::{Context, Settings};
use super::lease::Claim;
use super::metrics::{self, Metrics};
use super::stores::{Guarded, Stores};
use super::{anchor, host_agents, keys, reconcile};

/// How the operator runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the controllers are told.
    pub settings: Settings,
    /// Where `/metrics`, `/healthz` and `/readyz` are.
    pub metrics: SocketAddr,
    /// Who we are among operators.
    pub identity: String,
    /// How long a Lease is good.
    pub lease: Duration,
    /// What the client counts.
    pub calls: Arc<Calls>,
}

/// Runs until told to stop.
pub async fn run(client: Client, options: Options) -> anyhow::Result<()> {
    let Options { settings, metrics: address, identity, lease, calls } = options;
    let counts = Arc::new(Metrics::with(calls));
    let mut tasks = JoinSet::new();
    tasks.spawn({
        let counts = Arc::clone(&counts);
        async move {
            let ended = metrics::serve(address, counts).await;
            tracing::error!(?ended, %address, "metrics are not served; choose another --metrics");
            "metrics"
        }
    });
    let mut terminate = signal(SignalKind::terminate()).context("can't listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't listen for SIGINT")?;
    let claim = Claim::new(&client, &settings.namespace, format!("{identity}_{:08x}", random()?), lease);
    let leading = async {
        loop {
            claim.acquire().await;
            tracing::info!(identity, "leads");
            lead(&client, &settings, &counts, &claim).await?;
            tracing::warn!(identity, "lost the Lease; waits for it with the others");
        }
    };
    let result = tokio::select! {
        result = leading => result,
        Some(ended) = tasks.join_next() => Err(anyhow::anyhow!("{} ended", ended.unwrap_or("a task"))),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    claim.release().await;
    result
}

/// Leads until the Lease is lost. Whatever else ends is an error.
async fn lead(
    client: &Client,
    settings: &Settings,
    counts: &Arc<Metrics>,
    claim: &Claim,
) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    counts.leader.store(true, Relaxed);
    let result = tokio::select! {
        result = work(client.clone(), settings.clone(), Arc::clone(counts), &mut tasks) => result,
        () = claim.hold() => Ok(()),
    };
    counts.leader.store(false, Relaxed);
    counts.working.store(false, Relaxed);
    tasks.shutdown().await;
    result
}

/// The leader's work; returns only when something broke.
async fn work(
    client: Client,
    settings: Settings,
    counts: Arc<Metrics>,
    tasks: &mut JoinSet<&'static str>,
) -> anyhow::Result<()> {
    let signer = keys::ensure(&client, &settings.namespace).await?;
    if let Some(deployment) = settings.deployment.clone() {
        let (client, namespace) = (client.clone(), settings.namespace.clone());
        tasks.spawn(async move {
            anchor::hold(client, namespace, deployment).await;
            "anchor"
        });
    }
    let (queue, queued) = mpsc::unbounded_channel();
    let stores = Stores::start(&client, settings.watch_namespace.as_deref(), &queue, tasks);
    tokio::select! {
        ready = stores.ready() => ready?,
        Some(ended) = tasks.join_next() => anyhow::bail!("{} ended", ended.unwrap_or("a task")),
    }
    counts.working.store(true, Relaxed);
    tracing::info!(streams = stores.streams.len(), "knows what is there");
    let concurrency = settings.concurrency;
    let memory = super::memory::Memory::default();
    for guarded in stores.streams.state() {
        // Who had a host-agent before we came has it now: newcomers count it.
        if let Ok(stream) = &guarded.0 {
            let held = stream.status.as_ref().and_then(|status| status.host_agent.clone());
            memory
                .update(stream.metadata.uid.as_deref().unwrap_or_default(), |known| known.host_agent = held);
        }
    }
    let streams = stores.streams.clone();
    let context = Arc::new(Context::new(client, settings, stores, memory, signer, counts));
    tasks.spawn({
        let context = Arc::clone(&context);
        async move {
            host_agents::watch(context).await;
            "host-agents"
        }
    });
    tasks.spawn(forget(Arc::clone(&context)));
    // Streams come by the queue alone: it knows which changes matter.
    let nothing = futures_util::stream::pending::<Result<Guarded, kube::runtime::watcher::Error>>();
    let controller = Controller::for_stream(nothing, streams)
        .with_config(Config::default().concurrency(concurrency))
        .reconcile_on(UnboundedReceiverStream::new(queued))
        .run(reconcile::reconcile, reconcile::on_error, context)
        .for_each(|done| async move {
            if let Err(error) = done {
                tracing::debug!(%error, "a reconciliation did not go through");
            }
        });
    tokio::select! {
        () = controller => anyhow::bail!("the controller ended"),
        Some(ended) = tasks.join_next() => anyhow::bail!("{} ended", ended.unwrap_or("a task")),
    }
}

/// Forgets streams that are gone, so that their host-agents have room again.
async fn forget(context: Arc<Context>) -> &'static str {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let exist: std::collections::HashSet<String> = context
            .stores
            .streams
            .state()
            .iter()
            .filter_map(|stream| kube::ResourceExt::uid(&**stream))
            .collect();
        context.memory.keep(|uid| exist.contains(uid));
        context.metrics.streams.store(exist.len() as u64, Relaxed);
    }
}

fn random() -> anyhow::Result<u32> {
    getrandom::u32().map_err(|error| anyhow::anyhow!("can't get random bytes: {error}"))
}
