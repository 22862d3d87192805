//! Sees to it that a container of somebody else's has what a sidecar needs of it.

use std::sync::Arc;

use bollard::models::ContainerInspectResponse;

use super::Work;
use crate::attach::{Needs, examine};
use crate::engine::EngineError;
use crate::names::{self, Role};
use crate::observe::Container;
use crate::recreate::recreate;
use crate::render::{Attached, Device, runtime_volume};
use operator_api::Source;
use operator_api::conditions::reasons;
use operator_plan::status::Obstacle;

/// What came of it.
pub(super) enum Attaching {
    /// It has all.
    Fits(Attached),
    /// It was made anew: look again.
    Changed,
    /// It lacks something.
    Lacks(Obstacle),
}

impl Work<'_> {
    pub(super) async fn attach(
        &self,
        theirs: &Container,
        devices: &[Device],
    ) -> Result<Attaching, EngineError> {
        let engine = &self.context.engine;
        let found = match engine.inspect(&theirs.id).await {
            Ok(found) => found,
            Err(error) if error.is_missing() => return Ok(Attaching::Changed),
            Err(error) => return Err(error),
        };
        let needs = Needs { devices, runtime: self.valid.spec.capture.source != Source::TestPattern };
        let looked = examine(&found, needs);
        if looked.lacks.is_empty() {
            return Ok(Attaching::Fits(looked.attached));
        }
        let lacks = looked.lacks.join(", ");
        let lack = |more: &str| {
            let text = format!("container {} lacks {lacks}; {more}", theirs.name);
            Ok(Attaching::Lacks(Obstacle { reason: reasons::CONFIG, text }))
        };
        if theirs.labels.get(names::RECREATE).map(String::as_str) != Some("true") {
            return lack(
                "give it these, or label it desktopstream.dev/recreate=true, and it is made anew with them",
            );
        }
        let name = &self.place.stream;
        if let Some((id, why)) = self.context.known(name).not_anew
            && id == theirs.id
        {
            return lack(&format!("made anew with them it did not start, and was taken back: {why}"));
        }
        let mut volume = runtime_volume(looked.attached.user.as_str(), &self.place);
        volume.name = Some(self.place.object(Role::Runtime));
        engine.create_volume(volume).await?;
        match self.recreate(found, devices.to_vec(), needs.runtime).await {
            Ok(Ok(())) => Ok(Attaching::Changed),
            Err(gone) => Err(gone),
            Ok(Err(why)) => {
                self.context.learn(name, |known| known.not_anew = Some((theirs.id.clone(), why.clone())));
                lack(&format!("made anew with them it did not start, and was taken back: {why}"))
            }
        }
    }
    /// A task of its own: an operator that is told to end in between waits for its end, and leaves nobody's
    /// container half made.
    async fn recreate(
        &self,
        found: ContainerInspectResponse,
        devices: Vec<Device>,
        runtime: bool,
    ) -> Result<Result<(), String>, EngineError> {
        let engine = Arc::clone(&self.context.engine);
        let in_hand = Arc::clone(&self.context.in_hand).lock_owned().await;
        let volume = self.place.object(Role::Runtime);
        let task = tokio::spawn(async move {
            let done = recreate(&engine, &found, Needs { devices: &devices, runtime }, &volume).await;
            drop(in_hand);
            done
        });
        task.await.unwrap_or_else(|error| Ok(Err(format!("the operator's own fault: {error}"))))
    }
}
