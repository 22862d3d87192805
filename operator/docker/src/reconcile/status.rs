//! Computes and writes a stream's status, and logs its transitions.

use contract::StreamName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use operator_api::conditions::{self, Engine, READY, Subject, reasons};
use operator_api::{AuthKind, DesktopStreamStatus, Phase};
use operator_plan::status::{self as plan, Input, Obstacle, ReportError};
use operator_plan::validate::Invalid;
use operator_sidecar_client::RequestError;

use super::decide::Decision;
use super::gather::Gathered;
use super::{Context, Pass};
use crate::container::Container;
use crate::observation;
use crate::state::Record;

/// Engine whose commands the remedies name.
const ENGINE: Engine = Engine::Docker;

impl Pass<'_> {
    pub(super) fn update_status(
        &self,
        gathered: &Gathered<'_>,
        decision: &Decision,
        obstacle: Option<&Obstacle>,
    ) -> anyhow::Result<()> {
        let (stream, node) = (&self.key.stream, &self.world.node);
        let observation = if decision.devices.is_none() {
            Some(observation::unplaced(stream.as_str(), "the machine has too few GPUs"))
        } else {
            let not_created = || obstacle.map(|_| observation::not_created(stream.as_str(), &node.name));
            observation::observe(&node.name, gathered.desktop.as_ref(), gathered.sidecar.as_ref())
                .or_else(not_created)
        };
        let failure = gathered.report.as_ref().and_then(|it| it.as_ref().err());
        let error = failure.map(ToString::to_string);
        let report = match &error {
            Some(_) if failure.is_some_and(RequestError::is_unauthorized) => {
                Some(Err(ReportError::TokenRefused))
            }
            Some(error) => Some(Err(ReportError::Silent(error))),
            None => gathered.status().map(Ok),
        };
        let input = Input {
            engine: ENGINE,
            observation: observation.as_ref().filter(|_| decision.runs()),
            obstacle,
            nodes: std::slice::from_ref(node),
            pairing: &decision.pairing,
            report,
            outcome: &decision.lifecycle,
            previous: &self.record.status,
            now: self.now,
        };
        let mut status = plan::status(&self.valid, input);
        let sidecar = gathered.sidecar.as_ref();
        status.viewer_url = sidecar.and_then(Container::local_url).map(|url| format!("{url}/"));
        let uses_token = self.valid.spec.viewers.auth.kind == AuthKind::Token;
        let token_file = || self.context.folder.viewer_token_file(stream).display().to_string();
        status.viewer_secret_name = uses_token.then(token_file);
        let is_streaming = status.phase == Some(Phase::Streaming);
        write(self.context, stream, &self.record, status)?;
        if is_streaming && let Some(sidecar) = sidecar {
            self.announce(sidecar);
        }
        Ok(())
    }
}

/// Writes the status of an invalid spec.
pub(super) fn write_invalid(
    context: &Context,
    stream: &StreamName,
    record: &Record,
    invalid: &Invalid,
    now: Timestamp,
) -> anyhow::Result<()> {
    let subject = Subject { engine: ENGINE, name: stream.as_str(), generation: Some(record.generation) };
    let status = plan::invalid(subject, &record.status, invalid, now);
    write(context, stream, record, status)
}

/// Writes the status of a stream that is in no file: its containers run on, unreconciled. No effect if it has no record.
pub fn write_orphaned(context: &Context, stream: &StreamName, now: Timestamp) -> anyhow::Result<()> {
    let Some(record) = context.folder.record(stream) else { return Ok(()) };
    let subject = Subject { engine: ENGINE, name: stream.as_str(), generation: Some(record.generation) };
    let text = "the stream is in no file, and its containers are not reconciled";
    let orphaned = subject.condition(READY, Some(false), reasons::ORPHANED, text);
    let previous = &record.status.conditions;
    let mut conditions: Vec<Condition> = previous.iter().filter(|it| it.type_ != READY).cloned().collect();
    conditions.push(orphaned);
    conditions::keep_times(&mut conditions, previous, now);
    let status = DesktopStreamStatus { phase: Some(Phase::Degraded), conditions, ..record.status.clone() };
    write(context, stream, &record, status)
}

/// Writes the record with a status if it differs from the file, and logs a change of phase or of Ready's reason.
pub(super) fn write(
    context: &Context,
    stream: &StreamName,
    record: &Record,
    status: DesktopStreamStatus,
) -> anyhow::Result<()> {
    let (old, new) = (ready(&record.status), ready(&status));
    let reason = |ready: Option<&Condition>| ready.map(|it| it.reason.clone());
    if record.status.phase != status.phase || reason(old) != reason(new) {
        let phase = status.phase.map_or_else(String::new, |phase| format!("{phase:?}"));
        let message = new.map(|it| it.message.as_str()).unwrap_or_default();
        let reason = reason(new).unwrap_or_default();
        tracing::info!(%stream, phase, reason, message, "status changed");
    }
    let record = Record { status, ..record.clone() };
    if context.folder.record(stream).as_ref() != Some(&record) {
        context.folder.write_record(stream, &record)?;
    }
    Ok(())
}

fn ready(status: &DesktopStreamStatus) -> Option<&Condition> {
    status.conditions.iter().find(|it| it.type_ == READY)
}
