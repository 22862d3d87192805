//! The operator of one project: passes over all its streams, woken by files, by the Engine's events, by pulls
//! that end and by the clock. It ends when told to; desktops go on.

mod watch;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::StreamExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use super::engine::{Engine, EngineError};
use super::files::{Files, Found};
use super::machine::Machine;
use super::names::{self, Place};
use super::observe::Container;
use super::pulls::Pulls;
use super::reconcile::{Context, Outcome, View, World, reconcile};
use super::recreate;
use super::state::Folder;
use super::teardown::{Keep, remove_network, teardown};
use operator_api::{Attach, DesktopStream, DesktopStreamSpec, HostAgent, WorkloadKind};
use operator_plan::kubernetes::SidecarImage;

/// All is looked at so often, whatever was told: events get lost, and folders that a VM shares have none.
const RESYNC: Duration = Duration::from_secs(10);
/// What comes at once is done at once.
const GATHER: Duration = Duration::from_millis(200);
/// Longest wait for an Engine that is gone.
const LONGEST: Duration = Duration::from_secs(15);
/// How long what must not be left half done may take at the end.
const LAST_WORK: Duration = Duration::from_secs(60);
/// `--once` ends after so many passes, done or not.
const PASSES: u32 = 20;

/// Options.
#[derive(Debug)]
pub struct Options {
    /// Files and folders with streams.
    pub sources: Vec<PathBuf>,
    /// Whose streams these are.
    pub project: String,
    /// Where state is kept.
    pub state: PathBuf,
    /// Where the Engine is, unless DOCKER_HOST says so.
    pub engine: Option<String>,
    /// The sidecar's image.
    pub sidecar: SidecarImage,
    /// How often a running sidecar is asked how it does.
    pub poll: Duration,
    /// How long a token for a host-agent is good.
    pub token_life: Duration,
    /// Streams at once.
    pub concurrency: usize,
    /// GPUs.
    pub machine: Machine,
    /// Where /proc is.
    pub proc: PathBuf,
    /// Host-agents' endpoints, instead of those in files.
    pub host_agents: Vec<String>,
    /// Take away streams of this project that no file has, also those of earlier runs.
    pub prune: bool,
    /// End when all is as it should be.
    pub once: bool,
    /// At the end, take down all but home folders.
    pub take_down: bool,
}

fn by_default(name: &str) -> DesktopStreamSpec {
    DesktopStreamSpec {
        attach: Some(Attach { kind: WorkloadKind::Pod, name: name.to_owned(), container: None }),
        ..DesktopStreamSpec::default()
    }
}

/// The operator.
struct Operator {
    context: Context,
    files: Files,
    found: Found,
    reached: watch::Reached,
    host_agents: Vec<String>,
    prune: bool,
    concurrency: usize,
    /// Streams that a file had since we run.
    had: BTreeSet<String>,
    /// Streams of earlier runs that were spoken of.
    told: BTreeSet<String>,
}

/// Runs it until SIGINT or SIGTERM.
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
        host_agents,
        prune,
        once,
        take_down,
    } = options;
    let folder = Folder::open(&state, &project)?;
    let _held = folder.lock()?;
    let wake = Arc::new(Notify::new());
    let engine = Arc::new(Engine::new(engine));
    let files = Files::new(sources);
    let _watcher = watch::files(&files.folders(), &wake);
    let reached = watch::Reached::default();
    let context = Context {
        engine: Arc::clone(&engine),
        sidecar,
        poll,
        token_life,
        signer: folder.signer()?,
        folder,
        machine,
        pulls: Pulls::new(Arc::clone(&wake)),
        in_hand: Arc::default(),
        memory: Mutex::default(),
        project: project.clone(),
    };
    let in_hand = Arc::clone(&context.in_hand);
    let mut operator = Operator {
        context,
        files,
        found: Found::default(),
        reached: reached.clone(),
        host_agents,
        prune,
        concurrency,
        had: BTreeSet::new(),
        told: BTreeSet::new(),
    };
    operator.read();
    // Who is reached is known before the first desktop is made.
    reached.look(&operator.agents(), &proc).await;
    let mut tasks = tokio::task::JoinSet::new();
    if !once {
        tasks.spawn(watch::events(engine, project, Arc::clone(&wake)));
        tasks.spawn(reached.keep(proc, Arc::clone(&wake)));
    }
    let work = async { if once { operator.once().await } else { operator.forever(&wake).await } };
    let mut terminate = signal(SignalKind::terminate()).context("can't listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't listen for SIGINT")?;
    // A pass may be left at any point: each of its steps is safe to repeat.
    let ended = tokio::select! {
        ended = work => ended,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(_) = tasks.join_next() => Err(anyhow::anyhow!("a watch ended; start the operator again")),
    };
    // Somebody else's container is not left half made.
    let _late = tokio::time::timeout(LAST_WORK, in_hand.lock()).await;
    if take_down {
        operator.take_down().await.context("not all could be taken down")?;
    }
    ended
}

impl Operator {
    async fn forever(&mut self, wake: &Notify) -> Result<()> {
        let mut failures = 0;
        loop {
            self.read();
            let wait = match self.pass().await {
                Ok(outcome) => {
                    if failures > 0 {
                        tracing::info!("the Docker Engine is back");
                    }
                    failures = 0;
                    if outcome.changed { Duration::ZERO } else { outcome.again.min(RESYNC) }
                }
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        tracing::warn!("{error:#}; trying until it goes");
                    }
                    LONGEST.min(Duration::from_millis(500) * 2_u32.pow(failures.min(8)))
                }
            };
            tokio::select! {
                () = wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
            tokio::time::sleep(GATHER).await;
        }
    }

    async fn once(&mut self) -> Result<()> {
        for _ in 0..PASSES {
            let outcome = self.pass().await?;
            if !outcome.changed && self.context.pulls.are_quiet() {
                break;
            }
            tokio::time::sleep(if outcome.changed { GATHER } else { GATHER * 5 }).await;
        }
        let Self { context, found, .. } = self;
        let problems = found.problems.iter().map(|(path, text)| format!("{}: {text}", path.display()));
        let stuck = found.streams.keys().filter_map(|name| {
            let status = context.folder.record(name)?.status;
            let devices =
                status.conditions.iter().find(|it| it.status == "False" && it.reason != "Waiting")?;
            let counts =
                devices.type_ == operator_api::conditions::DEVICES_READY || devices.reason == "InvalidSpec";
            counts.then(|| format!("{name}: {}", devices.message))
        });
        let all: Vec<String> = problems.chain(stuck).collect();
        anyhow::ensure!(all.is_empty(), "{}", all.join("\n"));
        Ok(())
    }

    /// Reads the files, and says what is newly wrong with them.
    fn read(&mut self) {
        let found = self.files.read();
        for (path, text) in &found.problems {
            if self.found.problems.get(path) != Some(text) {
                tracing::warn!(file = %path.display(), "{text}");
            }
        }
        self.found = found;
        self.reached.set(self.agents());
    }

    /// Those of the command line, those of the files, or the one that is usually there.
    fn agents(&self) -> Vec<HostAgent> {
        if self.host_agents.is_empty() && !self.found.host_agents.is_empty() {
            return self.found.host_agents.values().cloned().collect();
        }
        let spec = operator_api::HostAgentSpec {
            endpoints: self.host_agents.clone(),
            capacity: 1000,
            ..operator_api::HostAgentSpec::default()
        };
        vec![HostAgent::new("default", spec)]
    }

    /// One pass over all streams.
    async fn pass(&mut self) -> Result<Outcome> {
        let begin = (Instant::now(), self.context.engine.calls());
        let context = &self.context;
        let label = format!("{}={}", names::PROJECT, context.project);
        let view = View::read(context.engine.list(&label).await?);
        let gpus = context.machine.gpus();
        let node = context.machine.node(gpus.clone(), self.reached.get());
        let attached = self.attached().await?;
        let network = view.networks.get(&names::network(&self.context.project)).cloned();
        let network = tokio::sync::Mutex::new(network);
        let world = World { view, gpus, node, host_agents: self.agents(), network, attached };
        let mut all = Outcome { changed: self.sweep(&world.view).await?, again: Duration::MAX };
        self.had.extend(self.found.streams.keys().cloned());
        let context = &self.context;
        let work = self.found.streams.iter().map(|(name, stream)| {
            let world = &world;
            async move { (name, reconcile(context, world, stream).await) }
        });
        let mut work = futures_util::stream::iter(work).buffer_unordered(self.concurrency);
        while let Some((name, outcome)) = work.next().await {
            match outcome {
                Ok(outcome) => {
                    all.changed |= outcome.changed;
                    all.again = all.again.min(outcome.again);
                }
                Err(error) if matches!(error.downcast_ref(), Some(EngineError::Gone { .. })) => {
                    return Err(error);
                }
                Err(error) => tracing::warn!(stream = name, "{error:#}; will try again"),
            }
        }
        drop(work);
        if world.view.is_empty() && !all.changed {
            remove_network(&context.engine, &world.view, &context.project).await?;
        }
        let calls = context.engine.calls() - begin.1;
        let took = begin.0.elapsed();
        tracing::debug!(streams = self.found.streams.len(), calls, ?took, changed = all.changed, "a pass");
        Ok(all)
    }

    /// Containers of others that ask for a sidecar. One whose stream no file has gets it by the defaults.
    async fn attached(&mut self) -> Result<HashMap<String, Container>> {
        let engine = &self.context.engine;
        let all: Vec<Container> =
            engine.containers(names::ATTACH).await?.iter().map(Container::read).collect();
        let mine = all.into_iter().filter(|it| {
            it.labels.get(names::PROJECT).is_none_or(|project| *project == self.context.project)
        });
        let mine: Vec<Container> = mine.collect();
        if recreate::tidy(engine, &mine).await? {
            anyhow::bail!("containers were put in order; looking again");
        }
        let mut attached = HashMap::new();
        for container in mine {
            let Some(name) = container.labels.get(names::ATTACH).cloned() else { continue };
            let stream = self.found.streams.entry(name.clone());
            stream.or_insert_with(|| DesktopStream::new(&name, by_default(&name)));
            if let Some(other) = attached.insert(name.clone(), container) {
                tracing::warn!(
                    stream = name,
                    container = other.name,
                    "two containers ask for the same stream"
                );
            }
        }
        Ok(attached)
    }

    /// Takes down all of the project's but homes.
    async fn take_down(&self) -> Result<()> {
        let Context { engine, project, .. } = &self.context;
        let view = View::read(engine.list(&format!("{}={project}", names::PROJECT)).await?);
        let mut all = view.streams();
        all.extend(self.context.folder.streams());
        let work = all.iter().map(|name| {
            let (view, place) = (&view, Place::new(project, name));
            async move { teardown(engine, view, &place, Keep::Home).await }
        });
        let done: Vec<_> =
            futures_util::stream::iter(work).buffer_unordered(self.concurrency).collect().await;
        done.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(remove_network(engine, &view, project).await?)
    }

    /// Takes away what no file has any more.
    async fn sweep(&mut self, view: &View) -> Result<bool> {
        let mut there: BTreeSet<String> = view.streams();
        there.extend(self.context.folder.streams());
        let mut did = false;
        for name in there {
            if self.found.streams.contains_key(&name) {
                continue;
            }
            let ours = self.had.contains(&name);
            // A file that can't be read may have it.
            if !(ours || self.prune && self.found.problems.is_empty()) {
                if self.told.insert(name.clone()) {
                    let why = "no file has this stream of an earlier run; --prune takes it away";
                    tracing::warn!(stream = name, "{why}");
                }
                continue;
            }
            let place = Place::new(&self.context.project, &name);
            did |= teardown(&self.context.engine, view, &place, Keep::KeptHome).await?;
            tracing::info!(stream = name, "is in no file any more: taken away");
            self.context.forget(&name);
            self.had.remove(&name);
        }
        Ok(did)
    }
}
