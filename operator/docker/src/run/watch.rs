//! Triggers of a pass: changed files, events of the Engine, host-agents that become reachable or unreachable.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::models::EventMessage;
use contract::Endpoint;
use futures_util::StreamExt;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use operator_api::HostAgent;
use operator_discovery::reach::Reach;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::engine::Engine;
use crate::names::{self, Project};

/// Interval at which host-agents are probed.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// Delay before the event stream is opened again.
const RECONNECT_DELAY: Duration = Duration::from_secs(2);

/// Notifies `wake` when a file in these folders changes, until the watcher is dropped. `None` if files cannot be watched;
/// then the periodic pass finds the changes.
pub(super) fn files(folders: &[PathBuf], wake: &Arc<Notify>) -> Option<RecommendedWatcher> {
    let wake = Arc::clone(wake);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reads are access events.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            wake.notify_one();
        }
    });
    let mut watcher = watcher
        .inspect_err(|error| tracing::warn!(%error, "cannot watch files, reading them periodically"))
        .ok()?;
    for folder in folders {
        if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
            tracing::warn!(folder = %folder.display(), %error, "cannot watch folder, reading it periodically");
        }
    }
    Some(watcher)
}

/// Notifies `wake` on events of the project's objects and of containers that ask for a sidecar.
pub(super) async fn events(engine: Arc<Engine>, project: Project, wake: Arc<Notify>) {
    loop {
        if let Ok(mut events) = engine.events().await {
            while let Some(Ok(event)) = events.next().await {
                if concerns(&event, project.as_str()) {
                    wake.notify_one();
                }
            }
        }
        // Events of the gap are lost; a pass reads the whole state.
        wake.notify_one();
        tokio::time::sleep(RECONNECT_DELAY).await;
    }
}

fn concerns(event: &EventMessage, project: &str) -> bool {
    let Some(actor) = &event.actor else { return false };
    let attributes = actor.attributes.as_ref();
    let attribute = |key: &str| attributes.and_then(|all| all.get(key));
    let is_ours = |name: &String| name.strip_prefix(project).is_some_and(|rest| rest.starts_with('_'));
    attribute(names::PROJECT).is_some_and(|it| it == project)
        || attribute(names::ATTACH).is_some()
        // Events of networks and volumes have no labels.
        || attribute("name").or(actor.id.as_ref()).is_some_and(is_ours)
}

/// Probes host-agents and keeps the reachable endpoints.
#[derive(Debug, Clone, Default)]
pub(super) struct Discovery {
    found: Arc<Mutex<Found>>,
    reach: Arc<tokio::sync::Mutex<Reach>>,
}

#[derive(Debug, Default)]
struct Found {
    host_agents: Vec<HostAgent>,
    reached: BTreeMap<String, Vec<Endpoint>>,
}

impl Discovery {
    /// Reachable endpoints by host-agent.
    pub(super) fn reached(&self) -> BTreeMap<String, Vec<Endpoint>> {
        self.found.lock().reached.clone()
    }

    /// Replaces the host-agents to probe.
    pub(super) fn set_host_agents(&self, host_agents: Vec<HostAgent>) {
        self.found.lock().host_agents = host_agents;
    }

    /// Probes all endpoints. True if the result differs from the last one.
    pub(super) async fn probe(&self, host_agents: &[HostAgent], proc: &Path) -> bool {
        let mut reached = self.reach.lock().await.probe(host_agents, &BTreeMap::new(), proc).await;
        // Docker's default seccomp profile denies vsock to the sidecar, so vsock endpoints come last.
        for endpoints in reached.values_mut() {
            endpoints.sort_by_key(|endpoint| matches!(endpoint, Endpoint::Vsock { .. }));
        }
        let mut found = self.found.lock();
        let changed = found.reached != reached;
        found.reached = reached;
        changed
    }

    /// Probes periodically, and notifies `wake` on a change.
    pub(super) async fn probe_periodically(self, proc: PathBuf, wake: Arc<Notify>) {
        loop {
            tokio::time::sleep(PROBE_INTERVAL).await;
            let host_agents = self.found.lock().host_agents.clone();
            if self.probe(&host_agents, &proc).await {
                wake.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::EventActor;

    use super::*;

    #[test]
    fn events_of_other_projects_are_ignored() {
        let event = |attributes: &[(&str, &str)]| EventMessage {
            actor: Some(EventActor {
                id: None,
                attributes: Some(
                    attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
                ),
            }),
            ..EventMessage::default()
        };
        assert!(concerns(&event(&[(names::PROJECT, "p")]), "p"));
        assert!(!concerns(&event(&[(names::PROJECT, "q"), ("name", "q_a_desktop")]), "p"));
        assert!(concerns(&event(&[("name", "p_a_network")]), "p"));
        assert!(!concerns(&event(&[("name", "pq_a_network")]), "p"));
        assert!(concerns(&event(&[(names::ATTACH, "a")]), "p"));
        assert!(!concerns(&EventMessage::default(), "p"));
    }
}
