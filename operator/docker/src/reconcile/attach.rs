//! Prepares a user's container for the sidecar, and recreates it if an option of the operator allows.

use std::sync::Arc;

use bollard::models::ContainerInspectResponse;
use operator_api::Source;
use operator_api::conditions::reasons;
use operator_plan::status::Obstacle;

use super::Pass;
use super::memory::FailedRecreation;
use crate::attach::{Needs, examine};
use crate::container::Container;
use crate::names::Role;
use crate::recreate::{Recreated, recreate};
use crate::render::{Attached, Device, runtime_volume};

/// Outcome of the preparation.
pub(super) enum Attachment {
    /// The container has everything.
    Ready(Attached),
    /// The container was recreated or is gone; the next pass examines it.
    Changed,
    /// The container lacks something.
    Blocked(Obstacle),
}

impl Pass<'_> {
    pub(super) async fn attach(
        &self,
        container: &Container,
        devices: &[Device],
    ) -> anyhow::Result<Attachment> {
        let engine = &self.context.engine;
        let found = match engine.inspect(&container.id).await {
            Ok(found) => found,
            Err(error) if error.is_missing() => return Ok(Attachment::Changed),
            Err(error) => return Err(error.into()),
        };
        let needs = Needs { devices, runtime_dir: self.valid.spec.capture.source != Source::TestPattern };
        let examined = examine(&found, needs);
        if examined.missing.is_empty() {
            return Ok(Attachment::Ready(examined.attached));
        }
        let missing = examined.missing.join(", ");
        let blocked = |remedy: &str| {
            let text = format!("container {} lacks {missing}; {remedy}", container.name);
            Ok(Attachment::Blocked(Obstacle { reason: reasons::CONFIG, text }))
        };
        // Stopping it would remove it: then it could not be restored.
        if found.host_config.as_ref().and_then(|host| host.auto_remove) == Some(true) {
            return blocked("start it again with them; it cannot be recreated, as it was started with --rm");
        }
        if !self.context.recreatable.contains(&container.name) {
            let option = format!("--recreate {}", container.name);
            return blocked(&format!(
                "add them, or start the operator with {option} to have it recreated with them"
            ));
        }
        let failed = |cause: &str| format!("recreated with them, it did not start and was restored: {cause}");
        if let Some(FailedRecreation { container_id, cause }) = self.memory().failed_recreation
            && container_id == container.id
        {
            return blocked(&failed(&cause));
        }
        let mut volume = runtime_volume(examined.attached.user.as_str(), &self.key);
        volume.name = Some(self.key.object(Role::Runtime));
        engine.create_volume(volume).await?;
        match self.recreate(found, devices.to_vec(), needs.runtime_dir).await? {
            Recreated::Yes => Ok(Attachment::Changed),
            Recreated::Restored { cause } => {
                let message = failed(&cause);
                let container_id = container.id.clone();
                self.update_memory(|memory| {
                    memory.failed_recreation = Some(FailedRecreation { container_id, cause });
                });
                blocked(&message)
            }
        }
    }

    /// Recreates in a task of its own, which finishes even if this pass is cancelled. The operator waits for
    /// `context.recreation` before it exits.
    async fn recreate(
        &self,
        found: ContainerInspectResponse,
        devices: Vec<Device>,
        runtime_dir: bool,
    ) -> anyhow::Result<Recreated> {
        let engine = Arc::clone(&self.context.engine);
        let folder = self.context.folder.clone();
        let guard = Arc::clone(&self.context.recreation).lock_owned().await;
        let volume = self.key.object(Role::Runtime);
        let task = tokio::spawn(async move {
            let needs = Needs { devices: &devices, runtime_dir };
            let recreated = recreate(&engine, &folder, &found, needs, &volume).await;
            drop(guard);
            recreated
        });
        task.await.unwrap_or_else(|error| {
            Ok(Recreated::Restored { cause: format!("internal error in the operator: {error}") })
        })
    }
}
