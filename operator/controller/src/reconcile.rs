//! Reconciles one stream: dereference, validate, build, apply, update the status.
//!
//! Every step can be repeated, so a crash between two of them loses nothing.

mod apply;
mod build;
mod dereference;
mod status;

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::api::DeleteParams;
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt};
use operator_api::DesktopStream;
use operator_api::conditions::{Engine, Subject};
use operator_plan::lifecycle::Life;
use operator_plan::status::Input;
use operator_plan::validate::validate;

use self::apply::Applied;
use self::build::Built;
use self::dereference::Dereferenced;
use super::context::Context;
use super::error::Error;
use super::events::{self, News};
use super::stores::Guarded;

/// Interval of reconciliations while a pod is starting, besides those that the watches trigger.
const STARTING_INTERVAL: Duration = Duration::from_secs(3);
/// Requeue interval when blocked on something that is not watched (a raised quota, a created Secret).
const BLOCKED_INTERVAL: Duration = Duration::from_secs(10);

/// Reconciles one stream.
///
/// # Errors
/// If a request to the apiserver fails in a way that can pass by itself.
pub async fn reconcile(guarded: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Error> {
    let start = Instant::now();
    let stream = match &guarded.0 {
        Ok(stream) => stream,
        Err(invalid) => {
            tracing::warn!(name = guarded.name_any(), error = %invalid.error, "stream not readable");
            return Ok(Action::await_change());
        }
    };
    context.metrics.set_streams(context.stores.streams.len());
    if stream.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let action = Box::pin(reconcile_stream(&context, stream)).await?;
    context.memory.update(&stream.uid().unwrap_or_default(), |known| known.failures = 0);
    context.metrics.reconciled(start.elapsed());
    Ok(action)
}

async fn reconcile_stream(context: &Context, stream: &DesktopStream) -> Result<Action, Error> {
    let now = Timestamp::now();
    let dereferenced = dereference::dereference(context, stream).await;
    let previous = &dereferenced.previous;
    let valid = match validate(stream).and_then(|valid| context.settings.policy.admit(valid)) {
        Ok(valid) => valid,
        Err(problems) => {
            let subject = Subject {
                engine: Engine::Kubernetes,
                name: &stream.name_any(),
                generation: stream.metadata.generation,
            };
            let after = operator_plan::status::invalid(subject, previous, &problems, now);
            status::write(context, stream, previous, after).await?;
            return Ok(Action::await_change());
        }
    };
    let built = build::build(context, stream, &valid, &dereferenced, now);
    if built.outcome.life == Life::Expired {
        return expire(context, stream).await;
    }
    let applied = apply::apply(context, stream, &valid, &dereferenced, &built, now).await?;
    let observation = applied.observe(context, &built, &dereferenced.owner);
    let input = Input {
        engine: Engine::Kubernetes,
        observation: observation.as_ref(),
        obstacle: applied.obstacle.as_ref(),
        nodes: &dereferenced.nodes,
        pairing: &built.pairing,
        report: dereferenced.report(),
        outcome: &built.outcome,
        previous,
        now,
    };
    let after = operator_plan::status::status(&valid, input);
    let after = status::damp(context, &valid.uid, previous, after);
    status::write(context, stream, previous, after).await?;
    Ok(requeue_after(context, &dereferenced, &built, &applied))
}

/// Deletes a stream whose TTL has passed.
async fn expire(context: &Context, stream: &DesktopStream) -> Result<Action, Error> {
    let news = News::normal("Expired", "deleted because spec.lifecycle.ttlSeconds has passed");
    events::publish(context, stream, news).await;
    let namespace = stream.namespace().unwrap_or_default();
    let api: Api<DesktopStream> = Api::namespaced(context.client.clone(), &namespace);
    context.metrics.writes.inc();
    match api.delete(&stream.name_any(), &DeleteParams::default()).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(Error::api("delete the expired stream")(error)),
    }
    Ok(Action::await_change())
}

/// The next reconciliation, besides those that the watches trigger.
fn requeue_after(context: &Context, dereferenced: &Dereferenced, built: &Built, applied: &Applied) -> Action {
    let settings = &context.settings;
    let blocked = applied.obstacle.is_some().then_some(BLOCKED_INTERVAL);
    let poll = dereferenced
        .report
        .as_ref()
        .map(|report| if report.is_streaming() { settings.poll } else { STARTING_INTERVAL });
    // Tokens are renewed even if nothing else happens.
    let renewal = applied.pod.is_some().then_some(settings.token_life / 4);
    let waits = [built.outcome.requeue_after, blocked, poll, renewal];
    waits.into_iter().flatten().min().map_or_else(Action::await_change, Action::requeue)
}

/// Logs a failed reconciliation, and chooses the delay before the next attempt.
#[expect(clippy::needless_pass_by_value, reason = "signature of the controller's error policy")]
pub fn on_error(guarded: Arc<Guarded>, error: &Error, context: Arc<Context>) -> Action {
    let uid = guarded.uid().unwrap_or_default();
    let attempt = context.memory.update(&uid, |known| {
        known.failures = known.failures.saturating_add(1);
        known.failures - 1
    });
    let delay = error.retry_after(attempt);
    let name = format!("{}/{}", guarded.namespace().unwrap_or_default(), guarded.name_any());
    tracing::warn!(name, %error, category = error.category(), ?delay, "reconciliation failed; retrying");
    context.metrics.failed(error.category());
    Action::requeue(delay)
}
