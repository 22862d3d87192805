//! Removes the objects of a stream, containers before the volumes that they hold.

use crate::engine::{Engine, EngineError, Refusal};
use crate::names::{self, Project, Role, StreamKey};
use crate::view::View;

/// Time from a desktop's stop signal to SIGKILL, seconds.
pub const GRACE_SECONDS: i32 = 5;

/// Whether the home volume is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// Keep it: the stream is suspended or idle.
    Keep,
    /// Keep it if the stream has `home.onDelete: Keep`.
    KeepIfLabelled,
    /// Remove it.
    Remove,
}

/// Removes the stream's containers and volumes. True if anything was removed.
pub async fn teardown(
    engine: &Engine,
    view: &View,
    key: &StreamKey,
    home: Home,
) -> Result<bool, EngineError> {
    let mut removed = false;
    for role in [Role::Desktop, Role::Sidecar] {
        if let Some(container) = view.container(key, role) {
            remove_container(engine, &container.id, role).await?;
            removed = true;
        }
    }
    for role in [Role::Runtime, Role::Secrets, Role::Home] {
        let Some(labels) = view.volumes.get(&key.object(role)) else { continue };
        let kept = role == Role::Home
            && match home {
                Home::Keep => true,
                Home::KeepIfLabelled => labels.contains_key(names::KEEP),
                Home::Remove => false,
            };
        if !kept {
            match engine.remove_volume(&key.object(role)).await {
                Ok(()) => removed = true,
                // A user's container that we attached to still mounts it.
                Err(error) if error.refusal() == Some(Refusal::Conflict) => {
                    tracing::debug!(%error, "volume in use");
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(removed)
}

/// Removes a project's network unless it is in use.
pub async fn remove_network(engine: &Engine, view: &View, project: &Project) -> Result<(), EngineError> {
    let name = project.object(Role::Network);
    if !view.networks.contains_key(&name) {
        return Ok(());
    }
    match engine.remove_network(&name).await {
        Err(error @ EngineError::Refused { .. }) => {
            tracing::debug!(name, %error, "network in use");
            Ok(())
        }
        done => done,
    }
}

/// Removes a container. A desktop is stopped first, so that its programs can save their data.
pub async fn remove_container(engine: &Engine, name: &str, role: Role) -> Result<(), EngineError> {
    if role == Role::Desktop {
        match engine.stop(name, GRACE_SECONDS).await {
            Err(error @ EngineError::Unreachable { .. }) => return Err(error),
            Err(error) if error.is_missing() => return Ok(()),
            // The removal below kills a container that does not stop.
            Ok(()) | Err(EngineError::Refused { .. }) => {}
        }
    }
    engine.remove(name, true).await
}
