//! One pass over all streams of the project.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use anyhow::Result;
use contract::StreamName;
use futures_util::StreamExt;
use k8s_openapi::jiff::Timestamp;
use operator_api::{Attach, DesktopStream, DesktopStreamSpec, WorkloadKind};

use super::Operator;
use crate::container::Container;
use crate::engine::{Engine, EngineError};
use crate::names::{self, Project, Role, StreamKey};
use crate::project_lock::LockError;
use crate::reconcile::{Context, Outcome, World, reconcile, write_orphaned};
use crate::recreate;
use crate::teardown::{Home, remove_network, teardown};
use crate::view::View;

impl Operator {
    /// Reconciles all streams and removes those that are in no file.
    ///
    /// # Errors
    ///
    /// If the Engine is unreachable, or if another operator runs the project. Errors of single streams are logged.
    pub(super) async fn pass(&mut self) -> Result<Outcome> {
        let started = Instant::now();
        let calls_before = self.context.engine.calls();
        let view = project_view(&self.context.engine, &self.context.project).await?;
        // Nothing is changed before.
        self.lock.hold(&self.context.engine, &view.volumes).await.map_err(|error| match error {
            LockError::Taken(taken) => anyhow::Error::new(taken),
            LockError::Engine(error) => error.into(),
        })?;
        if recreate::finish_interrupted(&self.context.engine, &self.context.folder).await? {
            return Ok(Outcome { changed: true, requeue_after: Duration::ZERO });
        }
        let containers = self.attach_candidates().await?;
        let attach_requests = self.attach_requests(containers);
        let gpus = self.context.machine.gpus();
        let node = self.context.machine.node(gpus.clone(), self.discovery.reached());
        let network = view.networks.get(&self.context.project.object(Role::Network)).cloned();
        let network = tokio::sync::Mutex::new(network);
        let world = World { view, gpus, node, host_agents: self.host_agents(), network, attach_requests };
        let changed = self.remove_deleted(&world.view).await?;
        self.seen.extend(self.desired.streams.keys().cloned());
        let outcome = self.reconcile_all(&world, changed).await?;
        let context = &self.context;
        if world.view.is_empty() && !outcome.changed {
            remove_network(&context.engine, &world.view, &context.project).await?;
        }
        tracing::debug!(
            streams = self.desired.streams.len(),
            calls = context.engine.calls() - calls_before,
            took = ?started.elapsed(),
            changed = outcome.changed,
            "pass finished"
        );
        Ok(outcome)
    }

    async fn reconcile_all(&self, world: &World, changed: bool) -> Result<Outcome> {
        let mut total = Outcome { changed, requeue_after: Duration::MAX };
        let context = &self.context;
        let work = self
            .desired
            .streams
            .iter()
            .map(|(name, stream)| async move { (name, reconcile(context, world, name, stream).await) });
        let mut work = futures_util::stream::iter(work).buffer_unordered(self.concurrency);
        while let Some((stream, result)) = work.next().await {
            match result {
                Ok(outcome) => {
                    total.changed |= outcome.changed;
                    total.requeue_after = total.requeue_after.min(outcome.requeue_after);
                }
                Err(error) if matches!(error.downcast_ref(), Some(EngineError::Unreachable { .. })) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!(%stream, error = format!("{error:#}"), "reconciliation failed, retrying");
                }
            }
        }
        Ok(total)
    }

    /// Users' containers with an attach label of their own that no other project claims.
    async fn attach_candidates(&mut self) -> Result<Vec<Container>, EngineError> {
        let Context { engine, project, .. } = &self.context;
        let containers = engine.containers(names::ATTACH).await?;
        let mut containers: Vec<Container> = containers.iter().map(Container::from).collect();
        self.image_labels.strip(engine, &mut containers).await?;
        containers.retain(|it| {
            let claimed_by = it.labels.get(names::PROJECT);
            it.labels.contains_key(names::ATTACH) && claimed_by.is_none_or(|it| it == project.as_str())
        });
        Ok(containers)
    }

    /// Containers that ask for a sidecar, by stream. A stream that is in no file gets the default settings.
    fn attach_requests(&mut self, containers: Vec<Container>) -> HashMap<StreamName, Container> {
        let mut requests = HashMap::new();
        self.logged_labels.retain(|id| containers.iter().any(|it| it.id == *id));
        for container in containers {
            let text = container.labels.get(names::ATTACH).map_or("", String::as_str);
            let stream = match text.parse::<StreamName>() {
                Ok(_) if container.name.ends_with(recreate::OLD_SUFFIX) => {
                    self.log_label(&container, "left by a recreation; rename or remove it");
                    continue;
                }
                Ok(stream) => stream,
                Err(error) => {
                    self.log_label(&container, &format!("label {}: {error}", names::ATTACH));
                    continue;
                }
            };
            let desired = self.desired.streams.entry(stream.clone());
            desired.or_insert_with(|| default_attached_stream(stream.as_str()));
            if let Some(other) = requests.insert(stream.clone(), container) {
                tracing::warn!(%stream, container = other.name, "several containers ask for the same stream");
            }
        }
        requests
    }

    /// Logs once why a container gets no sidecar.
    fn log_label(&mut self, container: &Container, reason: &str) {
        if self.logged_labels.insert(container.id.clone()) {
            tracing::warn!(container = container.name, reason, "container gets no sidecar");
        }
    }

    /// Removes all objects of the project but home volumes.
    pub(super) async fn take_down(&self) -> Result<()> {
        let Context { engine, project, folder, .. } = &self.context;
        let view = project_view(engine, project).await?;
        let mut streams = view.streams();
        streams.extend(folder.streams());
        let work = streams.iter().map(|stream| {
            let (view, key) = (&view, StreamKey::new(project, stream));
            async move { teardown(engine, view, &key, Home::Keep).await }
        });
        let done: Vec<_> =
            futures_util::stream::iter(work).buffer_unordered(self.concurrency).collect().await;
        done.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(remove_network(engine, &view, project).await?)
    }

    /// Removes streams that are in no file. Those of earlier runs are removed with `--prune` only, and only if all files
    /// were read: a broken one may contain them, and a folder may not be mounted yet. Until then their status says so.
    async fn remove_deleted(&mut self, view: &View) -> Result<bool> {
        let mut existing: BTreeSet<StreamName> = view.streams();
        existing.extend(self.context.folder.streams());
        let may_prune = self.prune && self.desired.problems.is_empty();
        let mut removed = false;
        for stream in existing {
            if self.desired.streams.contains_key(&stream) {
                continue;
            }
            if !self.seen.contains(&stream) && !may_prune {
                if self.logged_orphans.insert(stream.clone()) {
                    tracing::warn!(%stream, "stream of an earlier run is in no file; --prune deletes it");
                }
                write_orphaned(&self.context, &stream, Timestamp::now())?;
                continue;
            }
            let key = StreamKey::new(&self.context.project, &stream);
            removed |= teardown(&self.context.engine, view, &key, Home::KeepIfLabelled).await?;
            tracing::info!(%stream, "removed stream that is in no file");
            self.context.forget(&stream);
            self.seen.remove(&stream);
        }
        Ok(removed)
    }
}

async fn project_view(engine: &Engine, project: &Project) -> Result<View, EngineError> {
    Ok(View::from(engine.list(&project.filter()).await?))
}

fn default_attached_stream(name: &str) -> DesktopStream {
    let attach = Attach { kind: WorkloadKind::Pod, name: name.to_owned(), container: None };
    DesktopStream::new(name, DesktopStreamSpec { attach: Some(attach), ..DesktopStreamSpec::default() })
}
