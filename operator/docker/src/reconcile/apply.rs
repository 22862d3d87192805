//! Creates, starts and replaces the objects of a stream, in this order: network, volumes, sidecar, its credentials, desktop.
//! Each step is idempotent, so a pass may be cancelled at any point.

use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use bollard::models::{ContainerCreateBody, EndpointSettings};
use contract::Endpoint;
use operator_api::conditions::{Reason, reasons};
use operator_plan::pair::Pairing;
use operator_plan::status::Obstacle;
use operator_plan::workload::{self, Workload};

use super::attach::Attachment;
use super::decide::Decision;
use super::gather::Gathered;
use super::memory::HeldObstacle;
use super::{OBSTACLE_INTERVAL, Pass};
use crate::archive;
use crate::container::State;
use crate::engine::{EngineError, Refusal};
use crate::names::{self, Role};
use crate::publish::Publish;
use crate::render::{self, Attached, Device, Objects, Settings};
use crate::teardown::{Home, remove_container, teardown};
use crate::view::Network;

/// Result of the step.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// Something was changed.
    pub(super) changed: bool,
    /// Reason why the desired state was not reached.
    pub(super) obstacle: Option<Obstacle>,
}

/// A step that failed.
pub(super) enum ApplyError {
    /// The Engine is unreachable.
    Unreachable(EngineError),
    /// The Engine refuses, or an image is not there yet.
    Blocked(Obstacle),
    /// An error of ours, such as an unwritable state folder.
    Internal(anyhow::Error),
}

impl From<EngineError> for ApplyError {
    fn from(error: EngineError) -> Self {
        match error.refusal() {
            None => Self::Unreachable(error),
            Some(Refusal::OutOfSpace) => Self::blocked(reasons::DISK_FULL, &error),
            Some(Refusal::Conflict) => Self::blocked(reasons::NAME_TAKEN, &error),
            Some(Refusal::Missing | Refusal::Other) => Self::blocked(reasons::CONFIG, &error),
        }
    }
}

impl ApplyError {
    fn blocked(reason: Reason, error: &EngineError) -> Self {
        Self::Blocked(Obstacle { reason, text: error.to_string() })
    }
}

impl Pass<'_> {
    /// Brings the objects to the decided state. Devices that the machine lacks change nothing: what runs, runs on.
    pub(super) async fn apply(
        &self,
        gathered: &Gathered<'_>,
        decision: &Decision,
    ) -> anyhow::Result<Applied> {
        if !decision.runs() {
            return self.tear_down(None).await;
        }
        let attached = if self.valid.spec.attach.is_some() {
            let (Some(container), Some(devices)) = (gathered.attach_request, &decision.devices) else {
                return self.tear_down(None).await;
            };
            match self.attach(container, devices).await? {
                Attachment::Ready(attached) => Some(attached),
                Attachment::Changed => return Ok(Applied { changed: true, obstacle: None }),
                Attachment::Blocked(obstacle) => return self.tear_down(Some(obstacle)).await,
            }
        } else {
            None
        };
        match &decision.devices {
            Some(devices) => self.apply_objects(devices, &decision.pairing, attached.as_ref()).await,
            None => Ok(Applied::default()),
        }
    }

    /// Removes everything but the home volume.
    async fn tear_down(&self, obstacle: Option<Obstacle>) -> anyhow::Result<Applied> {
        let changed = teardown(&self.context.engine, &self.world.view, &self.key, Home::Keep).await?;
        Ok(Applied { changed, obstacle })
    }

    /// Applies the rendered objects. An obstacle is held for an interval: our own attempts cause Engine events, which would
    /// start the next attempt at once.
    async fn apply_objects(
        &self,
        devices: &[Device],
        pairing: &Pairing,
        attached: Option<&Attached>,
    ) -> anyhow::Result<Applied> {
        if let Some(HeldObstacle { obstacle, generation, retry_at }) = self.memory().obstacle
            && generation == self.record.generation
            && Instant::now() < retry_at
        {
            return Ok(Applied { changed: false, obstacle: Some(obstacle) });
        }
        let gid = devices.first().and_then(|device| device.gids.first().copied());
        let workload = workload::workload(&self.valid, gid);
        let socket = self.host_socket(pairing);
        let settings = Settings {
            key: &self.key,
            sidecar: &self.context.sidecar,
            devices,
            publish: &Publish::of(self.stream),
            pairing,
            socket: socket.as_deref(),
            attached,
        };
        let objects = render::objects(&self.valid, &workload, settings);
        let mut apply = Apply { pass: self, workload: &workload, pairing, changed: false };
        let obstacle = match Box::pin(apply.all(objects)).await {
            Ok(()) => None,
            Err(ApplyError::Unreachable(error)) => return Err(error.into()),
            Err(ApplyError::Internal(error)) => return Err(error),
            Err(ApplyError::Blocked(obstacle)) => Some(obstacle),
        };
        // Pulls have a retry delay of their own.
        let held = obstacle.clone().filter(|it| it.reason != reasons::WAITING && it.reason != reasons::IMAGE);
        self.update_memory(|memory| {
            memory.obstacle = held.map(|obstacle| HeldObstacle {
                obstacle,
                generation: self.record.generation,
                retry_at: Instant::now() + OBSTACLE_INTERVAL,
            });
        });
        Ok(Applied { changed: apply.changed, obstacle })
    }
}

impl Pass<'_> {
    /// Identity of the paired host-agent's Unix socket. While the socket is missing, that of the last one: the sidecar that
    /// has it mounted encodes by itself until the host-agent is back, or is no longer paired.
    fn host_socket(&self, pairing: &Pairing) -> Option<String> {
        let Pairing::Paired { endpoint: Some(Endpoint::Unix(path)), .. } = pairing else { return None };
        let found = std::fs::metadata(path).ok();
        let identity =
            found.map(|it| format!("{}:{}:{}.{}", it.dev(), it.ino(), it.ctime(), it.ctime_nsec()));
        let identity = identity.or_else(|| self.memory().socket);
        self.update_memory(|memory| memory.socket.clone_from(&identity));
        identity
    }
}

/// Applies the objects of one stream.
struct Apply<'a> {
    pass: &'a Pass<'a>,
    workload: &'a Workload,
    pairing: &'a Pairing,
    changed: bool,
}

impl Apply<'_> {
    async fn all(&mut self, objects: Objects) -> Result<(), ApplyError> {
        let pass = self.pass;
        let engine = &pass.context.engine;
        let Objects { network, volumes, sidecar, desktop, owned_folders } = objects;
        let mut existing = pass.world.network.lock().await;
        if existing.is_none() {
            let name = network.name.clone();
            engine.create_network(network).await?;
            self.changed = true;
            *existing = Some(Network { gateway: engine.gateway(&name).await? });
        }
        drop(existing);
        for volume in volumes {
            if !pass.world.view.volumes.contains_key(volume.name.as_deref().unwrap_or_default()) {
                engine.create_volume(volume).await?;
                self.changed = true;
            }
        }
        let created = self.ensure_container(Role::Sidecar, sidecar).await?;
        pass.upload_credentials(self.workload, self.pairing, created).await?;
        self.ensure_running(Role::Sidecar, created).await?;
        if let Some(desktop) = desktop {
            let created = self.ensure_container(Role::Desktop, desktop).await?;
            if created && !owned_folders.is_empty() {
                let archive = archive::folders(&owned_folders, render::user(&pass.valid));
                let archive = archive.map_err(|error| ApplyError::Internal(error.into()))?;
                engine.upload(&pass.key.object(Role::Desktop), "/", archive).await?;
            }
            self.ensure_running(Role::Desktop, created).await?;
        }
        Ok(())
    }

    /// Creates a container, in place of one with another spec. True if it was created.
    async fn ensure_container(&mut self, role: Role, body: ContainerCreateBody) -> Result<bool, ApplyError> {
        let pass = self.pass;
        let engine = &pass.context.engine;
        if let Some(container) = pass.world.view.container(&pass.key, role) {
            let hash = container.labels.get(names::SPEC_HASH).map(String::as_str);
            if hash == render::spec_hash(&body) && container.state != State::Removing {
                return Ok(false);
            }
            tracing::info!(container = container.name, "spec changed, replacing container");
            remove_container(engine, &container.id, role).await?;
            self.changed = true;
        }
        let image = body.image.clone().unwrap_or_default();
        let policy = self.pull_policy(role);
        if policy == "Always" {
            self.ensure_pulled(&image)?;
        }
        match engine.create(&pass.key.object(role), body).await {
            Ok(_) => {
                self.changed = true;
                Ok(true)
            }
            // A create request is answered with 404 only if the image is missing.
            Err(error) if error.is_missing() => {
                if policy != "Never" {
                    self.ensure_pulled(&image)?;
                }
                Err(ApplyError::blocked(reasons::IMAGE, &error))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn ensure_pulled(&self, image: &str) -> Result<(), ApplyError> {
        let context = self.pass.context;
        context
            .pulls
            .ensure(&context.engine, image)
            .map_or(Ok(()), |obstacle| Err(ApplyError::Blocked(obstacle)))
    }

    /// Pull policy of a container's image, by default `IfNotPresent`.
    fn pull_policy(&self, role: Role) -> &str {
        let pass = self.pass;
        let desktop = pass.valid.spec.desktop.as_ref().and_then(|it| it.image_pull_policy.as_deref());
        let policy =
            if role == Role::Desktop { desktop } else { pass.context.sidecar.pull_policy.as_deref() };
        policy.unwrap_or("IfNotPresent")
    }

    /// Starts a container that does not run, and reconnects a running one to its network.
    async fn ensure_running(&mut self, role: Role, created: bool) -> Result<(), ApplyError> {
        let pass = self.pass;
        let engine = &pass.context.engine;
        let name = pass.key.object(role);
        let found = pass.world.view.container(&pass.key, role).filter(|_| !created);
        let network = pass.key.object(Role::Network);
        if let Some(container) = found
            && container.state == State::Running
            && !container.networks.contains_key(&network)
        {
            tracing::info!(container = name, network, "reconnecting container to its network");
            let aliases = Some(vec![role.as_str().to_owned()]);
            engine
                .connect(&network, &name, EndpointSettings { aliases, ..EndpointSettings::default() })
                .await?;
            self.changed = true;
        }
        match found.map(|container| container.state) {
            Some(State::Running | State::Restarting | State::Removing) => return Ok(()),
            Some(State::Paused) => engine.unpause(&name).await?,
            Some(State::Created | State::Exited) | None => engine.start(&name).await?,
        }
        self.changed = true;
        Ok(())
    }
}
