//! Makes a container of somebody else's anew, and takes it all back where the new one doesn't start.
//!
//! ```text
//!  NAME runs ─stop─▶ NAME-before ─make, start─▶ NAME runs ─▶ NAME-before is removed
//!                        └── the new one doesn't start: it is removed, the old one is NAME again
//! ```
//! An operator that ends in between finds `NAME-before` when it comes back: [`tidy`].

use std::time::Duration;

use bollard::models::ContainerInspectResponse;

use super::attach::{Anew, Needs, anew};
use super::engine::{Engine, EngineError};
use super::observe::{Container, State};
use super::teardown::GRACE;

/// What the old one is called meanwhile.
pub const BEFORE: &str = "-desktopstream-before";
/// How long the new one must run to count as started.
const PROOF: Duration = Duration::from_secs(3);

/// Does it. The inner error is why it was taken back.
pub async fn recreate(
    engine: &Engine,
    found: &ContainerInspectResponse,
    needs: Needs<'_>,
    runtime: &str,
) -> Result<Result<(), String>, EngineError> {
    let name = found.name.as_deref().unwrap_or_default().trim_start_matches('/').to_owned();
    let id = found.id.clone().unwrap_or_default();
    let ran = found.state.as_ref().and_then(|state| state.running) == Some(true);
    let Anew { body, networks } = anew(found, needs, runtime);
    tracing::info!(container = name, "is made anew with what it lacks");
    if ran {
        engine.stop(&id, GRACE * 2).await?;
    }
    engine.rename(&id, &format!("{name}{BEFORE}")).await?;
    let made = async {
        engine.create(&name, body).await?;
        for (network, endpoint) in networks {
            engine.connect(&network, &name, endpoint).await?;
        }
        engine.start(&name).await?;
        tokio::time::sleep(PROOF).await;
        let state = engine.inspect(&name).await?.state.unwrap_or_default();
        let runs = state.running == Some(true) && state.restarting != Some(true);
        Ok::<_, EngineError>(if runs {
            Ok(())
        } else {
            Err(format!("it ended at once, exit code {}", state.exit_code.unwrap_or_default()))
        })
    };
    let why = match made.await {
        Ok(Ok(())) => {
            // Its volumes are the new one's now.
            engine.remove(&id, false).await?;
            return Ok(Ok(()));
        }
        Ok(Err(why)) => why,
        Err(gone @ EngineError::Gone { .. }) => return Err(gone),
        Err(error) => error.to_string(),
    };
    tracing::warn!(container = name, why, "the new one does not start: the old one is taken back");
    take_back(engine, &id, &name, ran).await?;
    Ok(Err(why))
}

async fn take_back(engine: &Engine, old: &str, name: &str, start: bool) -> Result<(), EngineError> {
    engine.remove(name, false).await?;
    engine.rename(old, name).await?;
    if start { engine.start(old).await } else { Ok(()) }
}

/// Ends what an operator left in between: where the new one runs, the old one goes, else it is taken back.
/// `true` if there was anything.
pub async fn tidy(engine: &Engine, containers: &[Container]) -> Result<bool, EngineError> {
    let mut did = false;
    for old in containers {
        let Some(name) = old.name.strip_suffix(BEFORE) else { continue };
        let new = containers.iter().find(|it| it.name == name);
        tracing::warn!(container = name, "was being made anew when an operator ended");
        if new.is_some_and(|new| new.state == State::Running) {
            engine.remove(&old.id, false).await?;
        } else {
            take_back(engine, &old.id, name, true).await?;
        }
        did = true;
    }
    Ok(did)
}
