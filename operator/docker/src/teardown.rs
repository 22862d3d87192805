//! Takes things of a stream away, containers first, as they hold the rest.

use super::engine::{Engine, EngineError};
use super::names::{self, Place, Role};
use super::reconcile::View;

/// How long a desktop may take to end, seconds.
pub const GRACE: i32 = 5;

/// What stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Its home, as it only rests.
    Home,
    /// Its home if its stream said so.
    KeptHome,
    /// Nothing.
    Nothing,
}

/// Takes away all but what is to be kept. `true` if there was anything.
pub async fn teardown(engine: &Engine, view: &View, place: &Place, keep: Keep) -> Result<bool, EngineError> {
    let mut did = false;
    for role in [Role::Desktop, Role::Sidecar] {
        if let Some(container) = view.container(place, role) {
            remove(engine, &container.id, role).await?;
            did = true;
        }
    }
    for role in [Role::Runtime, Role::Secrets, Role::Home] {
        let Some(labels) = view.volumes.get(&place.object(role)) else { continue };
        let kept = role == Role::Home
            && match keep {
                Keep::Home => true,
                Keep::KeptHome => labels.contains_key(names::KEEP),
                Keep::Nothing => false,
            };
        if !kept {
            match engine.remove_volume(&place.object(role)).await {
                Ok(()) => did = true,
                // A container that was attached to still has it.
                Err(error) if error.is_conflict() => tracing::debug!(%error, "stays"),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(did)
}

/// Takes a project's network away. One that is in use stays.
pub async fn remove_network(engine: &Engine, view: &View, project: &str) -> Result<(), EngineError> {
    let name = names::network(project);
    if !view.networks.contains_key(&name) {
        return Ok(());
    }
    match engine.remove_network(&name).await {
        Err(EngineError::Refused { message, .. }) => {
            tracing::debug!(name, message, "stays");
            Ok(())
        }
        done => done,
    }
}

/// Takes one container away; a desktop is asked to end first.
pub async fn remove(engine: &Engine, name: &str, role: Role) -> Result<(), EngineError> {
    if role == Role::Desktop {
        // One that can't be stopped is killed by its removal.
        match engine.stop(name, GRACE).await {
            Err(gone @ EngineError::Gone { .. }) => return Err(gone),
            Err(error) if error.is_missing() => return Ok(()),
            Ok(()) | Err(EngineError::Refused { .. }) => {}
        }
    }
    engine.remove(name, true).await
}
