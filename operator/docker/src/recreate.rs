//! Recreates a user's container with the devices, groups and folder that it lacks, and restores the old one if the new one
//! does not start.
//!
//! ```text
//!  NAME runs ─rename─▶ NAME-desktopstream-before ─create NAME, stop the old, start the new─▶ NAME runs ─▶ remove the old
//!                          └── the new one is refused or does not start: remove it, rename the old one to NAME, start it
//! ```
//! The old container is removed only after the new one has run for a while, and no container is removed by its name. A
//! [`Recreation`] in the state folder lets the next pass, or the next operator, finish what was interrupted.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use bollard::models::ContainerInspectResponse;
use serde::{Deserialize, Serialize};

use crate::attach::{Needs, Replacement, replacement};
use crate::engine::{Engine, EngineError, Refusal};
use crate::names::REPLACES;
use crate::state::StateFolder;
use crate::teardown::GRACE_SECONDS;

/// Suffix of the old container's name meanwhile.
pub const OLD_SUFFIX: &str = "-desktopstream-before";
/// Time that the new container must run to count as started.
const PROBATION: Duration = Duration::from_secs(3);

/// A recreation that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recreation {
    /// Name of the container.
    pub name: String,
    /// ID of the old container.
    pub old_id: String,
    /// The old container ran.
    pub was_running: bool,
}

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
/// If the Engine is unreachable, the old container cannot be restored, or the state folder cannot be written.
/// [`finish_interrupted`] finishes what has begun.
pub async fn recreate(
    engine: &Engine,
    folder: &StateFolder,
    found: &ContainerInspectResponse,
    needs: Needs<'_>,
    runtime_volume: &str,
) -> Result<Recreated> {
    let begun = Recreation {
        name: found.name.as_deref().unwrap_or_default().trim_start_matches('/').to_owned(),
        old_id: found.id.clone().unwrap_or_default(),
        was_running: found.state.as_ref().and_then(|state| state.running) == Some(true),
    };
    let Recreation { name, old_id, .. } = &begun;
    let mut replacement = replacement(found, needs, runtime_volume);
    replacement.body.labels.get_or_insert_default().insert(REPLACES.to_owned(), old_id.clone());
    tracing::info!(container = name, "recreating container");
    folder.set_recreation(Some(&begun))?;
    match engine.rename(old_id, &format!("{name}{OLD_SUFFIX}")).await {
        Ok(()) => {}
        Err(error @ EngineError::Unreachable { .. }) => return Err(error.into()),
        Err(error) => {
            folder.set_recreation(None)?;
            return Ok(Recreated::Restored { cause: error.to_string() });
        }
    }
    let cause = match start_replacement(engine, &begun, replacement).await {
        Ok(Start::Runs) => {
            // The new container mounts the old one's volumes.
            engine.remove(old_id, false).await?;
            folder.set_recreation(None)?;
            return Ok(Recreated::Yes);
        }
        Ok(Start::Ended { exit_code }) => format!("it ended at once, exit code {exit_code}"),
        Err(error @ EngineError::Unreachable { .. }) => return Err(error.into()),
        Err(error) => error.to_string(),
    };
    tracing::warn!(container = name, cause, "recreated container does not start, restoring the old one");
    restore(engine, &begun).await?;
    folder.set_recreation(None)?;
    Ok(Recreated::Restored { cause })
}

enum Start {
    Runs,
    Ended { exit_code: i64 },
}

/// Creates the replacement, and starts it in place of the old container.
async fn start_replacement(
    engine: &Engine,
    Recreation { name, old_id, was_running }: &Recreation,
    Replacement { body, networks }: Replacement,
) -> Result<Start, EngineError> {
    let id = engine.create(name, body).await?;
    for (network, endpoint) in networks {
        engine.connect(&network, &id, endpoint).await?;
    }
    if *was_running {
        engine.stop(old_id, GRACE_SECONDS * 2).await?;
    }
    engine.start(&id).await?;
    probation(engine, &id).await
}

/// Whether a started container runs on.
async fn probation(engine: &Engine, id: &str) -> Result<Start, EngineError> {
    tokio::time::sleep(PROBATION).await;
    let state = engine.inspect(id).await?.state.unwrap_or_default();
    if state.running == Some(true) && state.restarting != Some(true) {
        Ok(Start::Runs)
    } else {
        Ok(Start::Ended { exit_code: state.exit_code.unwrap_or_default() })
    }
}

/// Container that has the name of the old one.
enum Successor {
    /// No container.
    None,
    /// The old container itself.
    Old,
    /// The replacement.
    Replacement { id: String, is_running: bool },
    /// A container of somebody else.
    Foreign,
}

async fn successor(engine: &Engine, begun: &Recreation) -> Result<Successor, EngineError> {
    let found = match engine.inspect(&begun.name).await {
        Ok(found) => found,
        Err(error) if error.is_missing() => return Ok(Successor::None),
        Err(error) => return Err(error),
    };
    let id = found.id.unwrap_or_default();
    let labels: HashMap<_, _> = found.config.and_then(|config| config.labels).unwrap_or_default();
    Ok(if id == begun.old_id {
        Successor::Old
    } else if labels.get(REPLACES) == Some(&begun.old_id) {
        let is_running = found.state.and_then(|state| state.running) == Some(true);
        Successor::Replacement { id, is_running }
    } else {
        Successor::Foreign
    })
}

/// Gives the old container its name back, in place of the replacement, and starts it if it ran.
async fn restore(engine: &Engine, begun: &Recreation) -> Result<(), EngineError> {
    let Recreation { name, old_id, was_running } = begun;
    let is_renamed = match successor(engine, begun).await? {
        Successor::Replacement { id, .. } => {
            engine.remove(&id, false).await?;
            engine.rename(old_id, name).await
        }
        Successor::None => engine.rename(old_id, name).await,
        Successor::Old => Ok(()),
        Successor::Foreign => {
            tracing::warn!(
                container = name,
                "another container has this name; the old one stays as {name}{OLD_SUFFIX}: rename or remove it"
            );
            Ok(())
        }
    };
    match is_renamed {
        // It is being restored to another name, or is gone.
        Err(error) if matches!(error.refusal(), Some(Refusal::Conflict | Refusal::Missing)) => {
            tracing::warn!(container = name, %error, "cannot give the old container its name back");
        }
        renamed => renamed?,
    }
    if !was_running {
        return Ok(());
    }
    match engine.start(old_id).await {
        Err(error @ EngineError::Refused { .. }) => {
            tracing::warn!(container = name, %error, "the restored container does not start");
            Ok(())
        }
        started => started,
    }
}

/// Finishes the recreation that this operator, or a former one with its state folder, has begun: removes the old container
/// if the new one runs, else restores it. True if there was one.
///
/// # Errors
///
/// If the Engine is unreachable or refuses, or if the state folder cannot be used.
pub async fn finish_interrupted(engine: &Engine, folder: &StateFolder) -> Result<bool> {
    let Some(begun) = folder.recreation()? else { return Ok(false) };
    tracing::warn!(container = begun.name, "finishing an interrupted recreation");
    match engine.inspect(&begun.old_id).await {
        Ok(_) => {
            let runs = match successor(engine, &begun).await? {
                Successor::Replacement { id, is_running: true } => {
                    matches!(probation(engine, &id).await?, Start::Runs)
                }
                _ => false,
            };
            if runs {
                engine.remove(&begun.old_id, false).await?;
            } else {
                restore(engine, &begun).await?;
            }
        }
        Err(error) if error.is_missing() => {}
        Err(error) => return Err(error.into()),
    }
    folder.set_recreation(None)?;
    Ok(true)
}
