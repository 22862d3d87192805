//! Recreates a user's container with the devices, groups and folder that it lacks, and restores the old one if the new one
//! does not start.
//!
//! ```text
//!  NAME runs ─stop─▶ NAME-desktopstream-before ─create, start─▶ NAME runs ─▶ the old container is removed
//!                        └── the new one does not start: remove it, rename the old one to NAME, start it
//! ```
//! An operator that is killed in between leaves the renamed container; the next one calls [`finish_interrupted`].

use std::time::Duration;

use bollard::models::ContainerInspectResponse;

use crate::attach::{Needs, Replacement, replacement};
use crate::container::{Container, State};
use crate::engine::{Engine, EngineError};
use crate::teardown::GRACE_SECONDS;

/// Suffix of the old container's name meanwhile.
pub const OLD_SUFFIX: &str = "-desktopstream-before";
/// Time that the new container must run to count as started.
const PROBATION: Duration = Duration::from_secs(3);

/// Outcome of a recreation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recreated {
    /// The new container runs, the old one is removed.
    Yes,
    /// The new container did not start, and the old one is back.
    Restored {
        /// Reason why the new container did not start.
        cause: String,
    },
}

/// Recreates the container. `runtime_volume` is mounted at its `XDG_RUNTIME_DIR` if it has no mount there.
///
/// # Errors
///
/// If the Engine is unreachable, or if the old container cannot be stopped, renamed or restored.
pub async fn recreate(
    engine: &Engine,
    found: &ContainerInspectResponse,
    needs: Needs<'_>,
    runtime_volume: &str,
) -> Result<Recreated, EngineError> {
    let name = found.name.as_deref().unwrap_or_default().trim_start_matches('/').to_owned();
    let id = found.id.clone().unwrap_or_default();
    let was_running = found.state.as_ref().and_then(|state| state.running) == Some(true);
    let replacement = replacement(found, needs, runtime_volume);
    tracing::info!(container = name, "recreating container");
    if was_running {
        engine.stop(&id, GRACE_SECONDS * 2).await?;
    }
    engine.rename(&id, &format!("{name}{OLD_SUFFIX}")).await?;
    let cause = match start_replacement(engine, &name, replacement).await {
        Ok(Start::Runs) => {
            // The new container mounts the old one's volumes.
            engine.remove(&id, false).await?;
            return Ok(Recreated::Yes);
        }
        Ok(Start::Ended { exit_code }) => format!("it ended at once, exit code {exit_code}"),
        Err(error @ EngineError::Unreachable { .. }) => return Err(error),
        Err(error) => error.to_string(),
    };
    tracing::warn!(container = name, cause, "recreated container does not start, restoring the old one");
    restore(engine, &id, &name, was_running).await?;
    Ok(Recreated::Restored { cause })
}

enum Start {
    Runs,
    Ended { exit_code: i64 },
}

async fn start_replacement(
    engine: &Engine,
    name: &str,
    Replacement { body, networks }: Replacement,
) -> Result<Start, EngineError> {
    engine.create(name, body).await?;
    for (network, endpoint) in networks {
        engine.connect(&network, name, endpoint).await?;
    }
    engine.start(name).await?;
    tokio::time::sleep(PROBATION).await;
    let state = engine.inspect(name).await?.state.unwrap_or_default();
    if state.running == Some(true) && state.restarting != Some(true) {
        Ok(Start::Runs)
    } else {
        Ok(Start::Ended { exit_code: state.exit_code.unwrap_or_default() })
    }
}

async fn restore(engine: &Engine, old_id: &str, name: &str, start: bool) -> Result<(), EngineError> {
    engine.remove(name, false).await?;
    engine.rename(old_id, name).await?;
    if start { engine.start(old_id).await } else { Ok(()) }
}

/// Finishes recreations that a killed operator left: removes the old container if the new one runs, else restores it.
/// True if there were any.
pub async fn finish_interrupted(engine: &Engine, containers: &[Container]) -> Result<bool, EngineError> {
    let mut finished = false;
    for old in containers {
        let Some(name) = old.name.strip_suffix(OLD_SUFFIX) else { continue };
        let new = containers.iter().find(|it| it.name == name);
        tracing::warn!(container = name, "finishing an interrupted recreation");
        if new.is_some_and(|new| new.state == State::Running) {
            engine.remove(&old.id, false).await?;
        } else {
            restore(engine, &old.id, name, true).await?;
        }
        finished = true;
    }
    Ok(finished)
}
