//! What wakes the operator: files, the Engine's events, and host-agents that come and go.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::models::EventMessage;
use futures_util::StreamExt;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use crate::engine::Engine;
use crate::names;
use operator_api::HostAgent;
use operator_discovery::reach::Reach;

/// How often host-agents are tried.
const REACH_EVERY: Duration = Duration::from_secs(10);
/// How often a lost connection is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// Wakes at changes in these folders, as long as it is kept. Without it, the clock does.
pub fn files(folders: &[PathBuf], wake: &Arc<Notify>) -> Option<RecommendedWatcher> {
    let wake = Arc::clone(wake);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading them is no change: it would wake us again and again.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            wake.notify_one();
        }
    });
    let mut watcher = watcher
        .inspect_err(|error| tracing::warn!(%error, "can't watch files: looking now and then"))
        .ok()?;
    for folder in folders {
        if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
            tracing::warn!(folder = %folder.display(), %error, "can't be watched: looking now and then");
        }
    }
    Some(watcher)
}

/// Wakes at what happens to things of this project, or to containers that want to be attached to.
pub async fn events(engine: Arc<Engine>, project: String, wake: Arc<Notify>) {
    loop {
        if let Ok(mut events) = engine.events().await {
            while let Some(Ok(event)) = events.next().await {
                if concerns(&event, &project) {
                    wake.notify_one();
                }
            }
        }
        // Whatever happened meanwhile, a look at all of it finds it.
        wake.notify_one();
        tokio::time::sleep(AGAIN).await;
    }
}

fn concerns(event: &EventMessage, project: &str) -> bool {
    let Some(actor) = &event.actor else { return false };
    let attributes = actor.attributes.as_ref();
    let has = |key: &str| attributes.and_then(|all| all.get(key));
    let ours = |name: &String| name.strip_prefix(project).is_some_and(|rest| rest.starts_with('_'));
    has(names::PROJECT).is_some_and(|it| it == project)
        || has(names::ATTACH).is_some()
        // Networks' and volumes' events have no labels.
        || has("name").or(actor.id.as_ref()).is_some_and(ours)
}

/// Host-agents that are reached.
#[derive(Debug, Clone, Default)]
pub struct Reached(Arc<Mutex<Found>>, Arc<tokio::sync::Mutex<Reach>>);

#[derive(Debug, Default)]
struct Found {
    agents: Vec<HostAgent>,
    reached: BTreeMap<String, Vec<String>>,
}

impl Reached {
    fn lock(&self) -> MutexGuard<'_, Found> {
        // Every change is one assignment: whoever panicked left whole values.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By name, where.
    pub fn get(&self) -> BTreeMap<String, Vec<String>> {
        self.lock().reached.clone()
    }

    /// Those to try.
    pub fn set(&self, agents: Vec<HostAgent>) {
        self.lock().agents = agents;
    }

    /// Tries them. `true` if anything is new.
    pub async fn look(&self, agents: &[HostAgent], proc: &std::path::Path) -> bool {
        let mut reached = self.1.lock().await.look(agents, &BTreeMap::new(), proc).await;
        // Docker's seccomp profile refuses containers what it lets us: vsock is the last resort there.
        for endpoints in reached.values_mut() {
            endpoints.sort_by_key(|endpoint| endpoint.starts_with("vsock:"));
        }
        let mut found = self.lock();
        let new = found.reached != reached;
        found.reached = reached;
        new
    }

    /// Tries them again and again.
    pub async fn keep(self, proc: PathBuf, wake: Arc<Notify>) {
        loop {
            tokio::time::sleep(REACH_EVERY).await;
            let agents = self.lock().agents.clone();
            if self.look(&agents, &proc).await {
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
    fn what_happens_to_others_wakes_nobody() {
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
