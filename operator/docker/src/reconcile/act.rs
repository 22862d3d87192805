//! Makes, starts and replaces what a stream needs: network and volumes, then the sidecar with its secrets, then
//! the desktop. Each step is safe to repeat, so that an end in between costs nothing.

use std::collections::BTreeMap;
use std::time::Instant;

use bollard::models::{ContainerCreateBody, EndpointSettings};

use super::{OBSTRUCTED, Work};
use crate::archive;
use crate::engine::EngineError;
use crate::names::{self, Role};
use crate::observe::State;
use crate::render::{self, Objects};
use crate::teardown;
use operator_api::conditions::reasons;
use operator_plan::pair::Pairing;
use operator_plan::status::Obstacle;
use operator_plan::workload::{ENDPOINT_FILE, TOKEN_FILE, Workload};

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Something was changed.
    pub changed: bool,
    /// What keeps things from being as they should.
    pub obstacle: Option<Obstacle>,
}

/// A step that could not be made: the Engine is gone, or says no.
enum Stop {
    Gone(EngineError),
    Obstacle(Obstacle),
    Other(anyhow::Error),
}

impl From<EngineError> for Stop {
    fn from(error: EngineError) -> Self {
        match &error {
            EngineError::Gone { .. } => Self::Gone(error),
            EngineError::Refused { .. } if error.is_full() => {
                Self::Obstacle(Obstacle { reason: reasons::DISK_FULL, text: error.to_string() })
            }
            EngineError::Refused { .. } if error.is_conflict() => {
                Self::Obstacle(Obstacle { reason: reasons::NAME_TAKEN, text: error.to_string() })
            }
            EngineError::Refused { .. } => {
                Self::Obstacle(Obstacle { reason: reasons::CONFIG, text: error.to_string() })
            }
        }
    }
}

impl Work<'_> {
    /// Brings everything about. What could not be done for this spec is not tried again at once: the Engine's
    /// own events, which wake us, would make a loop of it.
    pub(super) async fn act(
        &self,
        objects: Objects,
        workload: &Workload,
        pairing: &Pairing,
    ) -> anyhow::Result<Done> {
        let name = &self.place.stream;
        if let Some((obstacle, generation, until)) = self.context.known(name).obstacle
            && generation == self.record.generation
            && Instant::now() < until
        {
            return Ok(Done { changed: false, obstacle: Some(obstacle) });
        }
        let mut changed = false;
        let obstacle = match Box::pin(self.steps(objects, workload, pairing, &mut changed)).await {
            Ok(()) => None,
            Err(Stop::Gone(error)) => return Err(error.into()),
            Err(Stop::Other(error)) => return Err(error),
            Err(Stop::Obstacle(obstacle)) => Some(obstacle),
        };
        let until = Instant::now() + OBSTRUCTED;
        self.context.learn(name, |known| {
            // A pull ends when it ends.
            let held =
                obstacle.clone().filter(|it| it.reason != reasons::WAITING && it.reason != reasons::IMAGE);
            known.obstacle = held.map(|it| (it, self.record.generation, until));
        });
        Ok(Done { changed, obstacle })
    }

    async fn steps(
        &self,
        objects: Objects,
        workload: &Workload,
        pairing: &Pairing,
        changed: &mut bool,
    ) -> Result<(), Stop> {
        let (engine, view) = (&self.context.engine, &self.world.view);
        let Objects { network, volumes, sidecar, desktop, owned } = objects;
        let mut made = self.world.network.lock().await;
        if made.is_none() {
            let name = network.name.clone();
            engine.create_network(network).await?;
            *changed = true;
            *made = Some(engine.gateway(&name).await?);
        }
        drop(made);
        for volume in volumes {
            if !view.volumes.contains_key(volume.name.as_deref().unwrap_or_default()) {
                engine.create_volume(volume).await?;
                *changed = true;
            }
        }
        let made = self.ensure(Role::Sidecar, sidecar, changed).await?;
        self.give(workload, pairing, made).await?;
        self.start(Role::Sidecar, made, changed).await?;
        if let Some(desktop) = desktop {
            let made = self.ensure(Role::Desktop, desktop, changed).await?;
            if made && !owned.is_empty() {
                let archive = archive::folders(&owned, render::user(&self.valid));
                let archive = archive.map_err(|error| Stop::Other(error.into()))?;
                engine.upload(&self.place.object(Role::Desktop), "/", archive).await?;
            }
            self.start(Role::Desktop, made, changed).await?;
        }
        Ok(())
    }

    /// The container that should be there; one of another spec makes room first. `true` if it was made.
    async fn ensure(&self, role: Role, body: ContainerCreateBody, changed: &mut bool) -> Result<bool, Stop> {
        let engine = &self.context.engine;
        if let Some(container) = self.world.view.container(&self.place, role) {
            let same = container.labels.get(names::SPEC_HASH).map(String::as_str) == render::hash(&body);
            if same && container.state != State::Going {
                return Ok(false);
            }
            tracing::info!(container = container.name, "its spec has changed: made anew");
            teardown::remove(engine, &container.id, role).await?;
            *changed = true;
        }
        let image = body.image.clone().unwrap_or_default();
        let policy = self.policy(role);
        if policy == "Always" {
            self.pulled(&image)?;
        }
        let name = self.place.object(role);
        match engine.create(&name, body).await {
            Ok(()) => {}
            // No such image is the one thing that isn't found here.
            Err(error) if error.is_missing() && policy != "Never" => {
                self.pulled(&image)?;
                return Err(Stop::Obstacle(Obstacle { reason: reasons::IMAGE, text: error.to_string() }));
            }
            Err(error) if error.is_missing() => {
                return Err(Stop::Obstacle(Obstacle { reason: reasons::IMAGE, text: error.to_string() }));
            }
            Err(error) => return Err(error.into()),
        }
        *changed = true;
        Ok(true)
    }

    fn pulled(&self, image: &str) -> Result<(), Stop> {
        match self.context.pulls.want(&self.context.engine, image) {
            None => Ok(()),
            Some(obstacle) => Err(Stop::Obstacle(obstacle)),
        }
    }

    /// When an image is pulled: if it isn't there, unless somebody says otherwise.
    fn policy(&self, role: Role) -> &str {
        let desktop = self.valid.spec.desktop.as_ref().and_then(|it| it.image_pull_policy.as_deref());
        let said = if role == Role::Desktop { desktop } else { self.context.sidecar.pull_policy.as_deref() };
        said.unwrap_or("IfNotPresent")
    }

    /// Sees to it that a container runs, in its network.
    async fn start(&self, role: Role, made: bool, changed: &mut bool) -> Result<(), Stop> {
        let engine = &self.context.engine;
        let name = self.place.object(role);
        let found = self.world.view.container(&self.place, role).filter(|_| !made);
        let network = self.place.object(Role::Network);
        if let Some(container) = found
            && container.state == State::Running
            && !container.networks.contains_key(&network)
        {
            tracing::info!(container = name, "was taken off its network: put back");
            let endpoint = EndpointSettings {
                aliases: Some(vec![role.text().to_owned()]),
                ..EndpointSettings::default()
            };
            engine.connect(&network, &name, endpoint).await?;
            *changed = true;
        }
        match found.map(|container| container.state) {
            Some(State::Running | State::Restarting | State::Going) => return Ok(()),
            Some(State::Paused) => engine.unpause(&name).await?,
            Some(State::Created | State::Exited) | None => engine.start(&name).await?,
        }
        *changed = true;
        Ok(())
    }

    /// Gives the sidecar what it needs: the viewers' token, the host-agent's endpoint and a token for it.
    async fn give(&self, workload: &Workload, pairing: &Pairing, made: bool) -> Result<(), Stop> {
        let (context, name) = (self.context, &self.place.stream);
        let mut files = BTreeMap::new();
        if workload.uses_viewer_token {
            let token = context.folder.ensure_viewer_token(name).map_err(Stop::Other)?;
            files.insert(format!("viewer/{TOKEN_FILE}"), token);
        }
        if workload.uses_host_agent {
            let content = self.host_agent(pairing).await?;
            // Empty where there is none: what was there before must not be taken for it.
            let (endpoint, token) = content.unwrap_or_default();
            files.insert(format!("host-agent/{ENDPOINT_FILE}"), endpoint);
            files.insert(format!("host-agent/{TOKEN_FILE}"), token);
        }
        let container = self.place.object(Role::Sidecar);
        let id = match self.world.view.container(&self.place, Role::Sidecar) {
            Some(found) if !made => found.id.clone(),
            _ => String::new(),
        };
        let given = (id, files);
        if files_are_given(context.known(name).given.as_ref(), &given) {
            return Ok(());
        }
        let archive = archive::files(&given.1).map_err(|error| Stop::Other(error.into()))?;
        context.engine.upload(&container, operator_api::names::SECRETS_DIR, archive).await?;
        context.learn(name, |known| known.given = Some(given));
        Ok(())
    }

    /// The endpoint as the sidecar finds it, and a token that is good for a while yet.
    async fn host_agent(&self, pairing: &Pairing) -> Result<Option<(String, String)>, Stop> {
        let (context, name) = (self.context, &self.place.stream);
        let Pairing::Paired { host_agent, endpoint: Some(endpoint) } = pairing else { return Ok(None) };
        let now = self.now.as_second().max(0).cast_unsigned();
        if let Some((agent, at, token, due)) = context.known(name).token
            && agent == *host_agent
            && at == *endpoint
            && now < due
        {
            return Ok(Some((self.seen_inside(endpoint).await, token)));
        }
        let life = context.token_life.as_secs();
        let signed = context.signer.token(&self.valid.id(), host_agent, now, life);
        let token = signed.map_err(|error| Stop::Other(error.into()))?;
        let kept = (host_agent.clone(), endpoint.clone(), token.clone(), now + life / 2);
        context.learn(name, |known| known.token = Some(kept));
        Ok(Some((self.seen_inside(endpoint).await, token)))
    }

    async fn seen_inside(&self, endpoint: &str) -> String {
        let gateway = self.world.network.lock().await.clone().flatten();
        render::endpoint(endpoint, gateway.as_deref())
    }
}

/// One that was made in this pass has no ID here yet, and gets it all.
fn files_are_given(
    before: Option<&(String, BTreeMap<String, String>)>,
    now: &(String, BTreeMap<String, String>),
) -> bool {
    !now.0.is_empty() && before == Some(now)
}
