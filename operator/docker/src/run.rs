//! The operator of one project. It passes over all streams when files change, on events of the Engine, at the end of a pull,
//! and periodically. Containers outlive it.

mod pass;
mod watch;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use contract::StreamName;
use operator_api::conditions::{DEVICES_READY, reasons};
use operator_api::{HostAgent, HostAgentSpec};
use operator_plan::kubernetes::SidecarImage;
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::engine::Engine;
use crate::machine::Machine;
use crate::names::Project;
use crate::own_labels::ImageLabels;
use crate::project_lock::{Holder, ProjectLock, Taken};
use crate::pulls::Pulls;
use crate::reconcile::Context;
use crate::state::StateFolder;
use crate::stream_files::{Desired, StreamFiles};

/// Longest time between passes: events can be lost, and some file systems of VMs have no change notification.
const RESYNC_INTERVAL: Duration = Duration::from_secs(10);
/// Time to collect events that belong together before a pass.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Delay after the first failed pass. It doubles with each further one.
const MIN_BACKOFF: Duration = Duration::from_secs(1);
/// Longest delay after a failed pass.
const MAX_BACKOFF: Duration = Duration::from_secs(15);
/// Time that a running recreation may take after a signal to end.
const RECREATION_TIMEOUT: Duration = Duration::from_secs(60);
/// Time that the removal of the project's mark may take.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
/// Most passes of `--once`.
const MAX_PASSES: u32 = 20;
/// Capacity of a host-agent that is configured on the command line.
const DEFAULT_CAPACITY: u32 = 1000;

/// Options of the operator.
#[derive(Debug)]
pub struct Options {
    /// Files and folders with streams.
    pub sources: Vec<PathBuf>,
    /// Project name.
    pub project: Project,
    /// State folder.
    pub state: PathBuf,
    /// Address of the Engine, by default `DOCKER_HOST`.
    pub engine: Option<String>,
    /// Image and resources of sidecars.
    pub sidecar: SidecarImage,
    /// Interval at which running sidecars are polled.
    pub poll: Duration,
    /// Lifetime of host-agent tokens.
    pub token_life: Duration,
    /// Number of streams to reconcile at the same time.
    pub concurrency: usize,
    /// The Engine's machine.
    pub machine: Machine,
    /// Path of the machine's /proc.
    pub proc: PathBuf,
    /// The host-agent of the command line. Its endpoints, if any, replace the HostAgents in files.
    pub host_agent: HostAgentSpec,
    /// Names of users' containers that may be recreated.
    pub recreatable: BTreeSet<String>,
    /// Remove streams that are in no file, including those of earlier runs.
    pub prune: bool,
    /// Exit when nothing changes any more.
    pub once: bool,
    /// On exit, remove all objects but home volumes.
    pub take_down: bool,
}

/// A running operator.
struct Operator {
    context: Context,
    files: StreamFiles,
    desired: Desired,
    discovery: watch::Discovery,
    host_agent: HostAgentSpec,
    prune: bool,
    concurrency: usize,
    /// Mark of the project's operator on the Engine.
    lock: ProjectLock,
    /// Labels of the images of users' containers.
    image_labels: ImageLabels,
    /// Streams that were in a file since our start.
    seen: BTreeSet<StreamName>,
    /// Streams of earlier runs that were logged.
    logged_orphans: BTreeSet<StreamName>,
    /// Containers whose labels were logged as unusable, by ID.
    logged_labels: BTreeSet<String>,
}

/// Runs the operator until SIGINT or SIGTERM, or with `once` until nothing changes.
///
/// # Errors
///
/// If another operator runs the project, or begins to, the state folder is unusable, or with `once` if the Engine is
/// unreachable or a stream cannot be created.
pub async fn run(options: Options) -> Result<()> {
    let Options {
        sources,
        project,
        state,
        engine,
        sidecar,
        poll,
        token_life,
        concurrency,
        machine,
        proc,
        host_agent,
        recreatable,
        prune,
        once,
        take_down,
    } = options;
    let folder = StateFolder::open(&state, &project)?;
    let _lock = folder.lock()?;
    let wake = Arc::new(Notify::new());
    let engine = Arc::new(Engine::new(engine));
    let files = StreamFiles::new(sources);
    let _watcher = watch::files(&files.folders(), &wake);
    let discovery = watch::Discovery::default();
    let holder = Holder::new(folder.id()?, folder.path(), &machine.name, &proc);
    let context = Context {
        engine: Arc::clone(&engine),
        sidecar,
        poll,
        token_life,
        signer: folder.signer()?,
        folder,
        machine,
        pulls: Pulls::new(Arc::clone(&wake)),
        recreatable,
        recreation: Arc::default(),
        memory: Mutex::new(HashMap::new()),
        project: project.clone(),
    };
    let recreation = Arc::clone(&context.recreation);
    let mut operator = Operator {
        context,
        files,
        desired: Desired::default(),
        discovery: discovery.clone(),
        host_agent,
        prune,
        concurrency,
        lock: ProjectLock::new(project.clone(), holder),
        image_labels: ImageLabels::default(),
        seen: BTreeSet::new(),
        logged_orphans: BTreeSet::new(),
        logged_labels: BTreeSet::new(),
    };
    operator.read_files();
    // The first pass pairs streams with the host-agents that are reachable now.
    discovery.probe(&operator.host_agents(), &proc).await;
    let mut tasks = tokio::task::JoinSet::new();
    if !once {
        tasks.spawn(watch::events(Arc::clone(&engine), project, Arc::clone(&wake)));
        tasks.spawn(discovery.probe_periodically(proc, Arc::clone(&wake)));
    }
    let work = async { if once { operator.run_once().await } else { operator.run_forever(&wake).await } };
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    // A pass may be cancelled at any point: each of its steps is idempotent.
    let ended = tokio::select! {
        ended = work => ended,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(_) = tasks.join_next() => Err(anyhow::anyhow!("a watch task ended; start the operator again")),
    };
    if tokio::time::timeout(RECREATION_TIMEOUT, recreation.lock()).await.is_err() {
        tracing::warn!("a container is still being recreated; the next operator finishes it");
    }
    // The objects of a project that another operator runs are not ours.
    let down = if take_down && operator.lock.is_held() {
        operator.take_down().await.context("cannot remove all objects")
    } else {
        Ok(())
    };
    let release = tokio::time::timeout(RELEASE_TIMEOUT, operator.lock.release(&engine));
    if !matches!(release.await, Ok(Ok(()))) {
        tracing::warn!(
            "cannot remove the mark of this operator; the next one with this state folder takes it over"
        );
    }
    ended.and(down)
}

impl Operator {
    async fn run_forever(&mut self, wake: &Notify) -> Result<()> {
        let mut failures = 0;
        loop {
            self.read_files();
            let wait = match self.pass().await {
                Ok(outcome) => {
                    if failures > 0 {
                        tracing::info!("Docker Engine reachable again");
                    }
                    failures = 0;
                    if outcome.changed { Duration::ZERO } else { outcome.requeue_after.min(RESYNC_INTERVAL) }
                }
                Err(error) if error.is::<Taken>() => return Err(error),
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(error = format!("{error:#}"), "pass failed, retrying");
                    }
                    failures += 1;
                    MAX_BACKOFF.min(MIN_BACKOFF * 2_u32.pow((failures - 1).min(8)))
                }
            };
            tokio::select! {
                () = wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
            tokio::time::sleep(DEBOUNCE).await;
        }
    }

    async fn run_once(&mut self) -> Result<()> {
        for _ in 0..MAX_PASSES {
            let outcome = self.pass().await?;
            if !outcome.changed && self.context.pulls.are_idle() {
                break;
            }
            tokio::time::sleep(if outcome.changed { DEBOUNCE } else { DEBOUNCE * 5 }).await;
        }
        let problems = self.problems();
        anyhow::ensure!(problems.is_empty(), "{}", problems.join("\n"));
        Ok(())
    }

    /// Problems of files, and of streams whose first false condition is about the spec or the devices.
    fn problems(&self) -> Vec<String> {
        let Self { context, desired, .. } = self;
        let files = desired.problems.iter().map(|(path, text)| format!("{}: {text}", path.display()));
        let streams = desired.streams.keys().filter_map(|name| {
            let status = context.folder.record(name)?.status;
            let mut conditions = status.conditions.iter();
            let first = conditions.find(|it| it.status == "False" && it.reason != reasons::WAITING.name)?;
            let counts = first.type_ == DEVICES_READY || first.reason == reasons::INVALID.name;
            counts.then(|| format!("{name}: {}", first.message))
        });
        files.chain(streams).collect()
    }

    /// Reads the files, and logs new problems.
    fn read_files(&mut self) {
        let desired = self.files.read();
        for (path, problem) in &desired.problems {
            if self.desired.problems.get(path) != Some(problem) {
                tracing::warn!(file = %path.display(), problem, "stream file has a problem");
            }
        }
        self.desired = desired;
        self.discovery.set_host_agents(self.host_agents());
    }

    /// Host-agents of the command line, else those of the files, else one with the default endpoints.
    fn host_agents(&self) -> Vec<HostAgent> {
        if self.host_agent.endpoints.is_empty() && !self.desired.host_agents.is_empty() {
            return self.desired.host_agents.values().cloned().collect();
        }
        let spec = HostAgentSpec { capacity: DEFAULT_CAPACITY, ..self.host_agent.clone() };
        vec![HostAgent::new("default", spec)]
    }
}
