//! Reconciles one stream: dereference, validate, build, apply, update the status.
//!
//! Every step can be repeated, so a crash between two of them loses nothing.

mod apply;
mod build;
mod dereference;
mod status;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Preconditions};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use operator_api::DesktopStream;
use operator_api::conditions::{Engine, Subject, reasons};
use operator_plan::lifecycle::Life;
use operator_plan::status::{Input, ReportError};
use operator_plan::validate::validate;

use self::apply::Applied;
use self::build::Built;
use super::context::Context;
use super::error::Error;
use super::events::{self, News};
use super::poller::{Answer, Target, is_streaming};
use super::stores::Guarded;

/// Requeue interval while a sidecar answers without video: a desktop that is starting becomes one that draws nothing.
const STARTING_INTERVAL: Duration = Duration::from_secs(3);
/// Requeue interval while a pod has a node and its sidecar does not run: its Secrets may have been deleted.
const WAITING_INTERVAL: Duration = Duration::from_secs(30);
/// Requeue interval when blocked on something that is not watched (a raised quota, a Secret of another owner).
const BLOCKED_INTERVAL: Duration = Duration::from_secs(10);
/// Requeue interval while objects of a deleted stream of the same name are being deleted.
const REMAINDER_INTERVAL: Duration = Duration::from_secs(1);
/// Requeue interval while a sidecar refuses the operator's token, or lacks its device.
const UNSOUND_INTERVAL: Duration = Duration::from_secs(10);
/// Number of consecutive failures from which the status reports them: about 15 seconds of retries.
const REPORTED_FAILURES: u32 = 5;

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
            return status::write_unreadable(&context, &guarded, &invalid.error).await;
        }
    };
    context.metrics.set_streams(context.stores.streams.len());
    if stream.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let uid = stream.uid().unwrap_or_default();
    match Box::pin(reconcile_stream(&context, stream)).await {
        Ok(action) => {
            context.memory.update(&uid, |known| {
                known.failures = 0;
                known.unreadable = None;
            });
            context.metrics.reconciled(start.elapsed());
            Ok(action)
        }
        Err(error) => {
            // `on_error` counts this failure.
            if context.memory.get(&uid).failures + 1 >= REPORTED_FAILURES {
                status::write_failing(&context, stream, &error).await;
            }
            Err(error)
        }
    }
}

async fn reconcile_stream(context: &Context, stream: &DesktopStream) -> Result<Action, Error> {
    let now = Timestamp::now();
    let dereferenced = dereference::dereference(context, stream);
    let previous = &dereferenced.previous;
    let valid = match validate(stream).and_then(|valid| context.settings.policy.admit(valid)) {
        Ok(valid) => valid,
        Err(problems) => {
            let name = stream.name_any();
            let after = operator_plan::status::invalid(subject(stream, &name), previous, &problems, now);
            status::write(context, stream, previous, after).await?;
            return Ok(Action::await_change());
        }
    };
    let built = build::build(context, stream, &valid, &dereferenced, now);
    if built.outcome.life == Life::Expired {
        return expire(context, stream).await;
    }
    let applied = apply::apply(context, stream, &valid, &dereferenced, &built, now).await?;
    let sidecar = applied.pod.as_deref().and_then(dereference::sidecar_address);
    let answer = if let Some(address) = sidecar {
        poll(context, stream, address)
    } else {
        context.poller.forget(&valid.uid);
        None
    };
    let requeue = requeue_after(context, &built, &applied, sidecar, answer.as_ref());
    // The poller queues the stream when the sidecar has answered. Until then, what an earlier operator wrote holds.
    if sidecar.is_some() && answer.is_none() && previous.capture.is_some() {
        return Ok(requeue);
    }
    let observation = applied.observe(context, &built, &dereferenced.owner);
    let error = answer.as_ref().and_then(|answer| answer.as_ref().err()).map(ToString::to_string);
    let report = answer.as_ref().map(|answer| match answer {
        Ok(report) => Ok(report),
        Err(error) if error.is_unauthorized() => Err(ReportError::TokenRefused),
        Err(_) => Err(ReportError::Silent(error.as_deref().unwrap_or_default())),
    });
    let input = Input {
        engine: Engine::Kubernetes,
        observation: observation.as_ref(),
        obstacle: applied.obstacle.as_ref(),
        nodes: &dereferenced.nodes,
        pairing: &built.pairing,
        report,
        outcome: &built.outcome,
        previous,
        now,
    };
    let after = operator_plan::status::status(&valid, input);
    let after = status::damp(context, &valid.uid, previous, after);
    status::write(context, stream, previous, after).await?;
    Ok(requeue)
}

fn subject<'n>(stream: &DesktopStream, name: &'n str) -> Subject<'n> {
    Subject { engine: Engine::Kubernetes, name, generation: stream.metadata.generation }
}

/// Has the stream's sidecar polled; returns its last answer.
fn poll(context: &Context, stream: &DesktopStream, address: SocketAddr) -> Option<Answer> {
    let uid = stream.uid().unwrap_or_default();
    let reference = ObjectRef::new(&stream.name_any()).within(&stream.namespace().unwrap_or_default());
    context.poller.watch(&uid, Target { stream: reference, address });
    context.poller.answer(&uid, address)
}

/// Deletes a stream whose TTL has passed, as it was judged: a stream that has changed since, or another one of that name,
/// is judged again.
async fn expire(context: &Context, stream: &DesktopStream) -> Result<Action, Error> {
    let namespace = stream.namespace().unwrap_or_default();
    let api: Api<DesktopStream> = Api::namespaced(context.client.clone(), &namespace);
    let preconditions = Preconditions { uid: stream.uid(), resource_version: stream.resource_version() };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    context.metrics.writes.inc();
    match api.delete(&stream.name_any(), &params).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Action::await_change()),
        Err(error) => return Err(Error::api("delete the expired stream")(error)),
    }
    let news = News::normal("Expired", "deleted because spec.lifecycle.ttlSeconds has passed");
    events::publish(context, stream, news).await;
    Ok(Action::await_change())
}

/// The next reconciliation, besides those that the watches and the poller trigger.
fn requeue_after(
    context: &Context,
    built: &Built,
    applied: &Applied,
    sidecar: Option<SocketAddr>,
    answer: Option<&Answer>,
) -> Action {
    let blocked = applied.obstacle.as_ref().map(|obstacle| match obstacle.reason {
        reasons::WAITING => REMAINDER_INTERVAL,
        _ => BLOCKED_INTERVAL,
    });
    let pod = applied.pod.as_ref();
    let has_node = |pod: &&Arc<Pod>| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let waiting = pod.filter(has_node).filter(|_| sidecar.is_none()).map(|_| WAITING_INTERVAL);
    let answered = match answer {
        Some(Ok(report)) if report.render_node == Some(false) && built.workload.device.is_some() => {
            Some(UNSOUND_INTERVAL)
        }
        Some(Ok(_)) if answer.is_some_and(|answer| !is_streaming(answer)) => Some(STARTING_INTERVAL),
        Some(Err(error)) if error.is_unauthorized() => Some(UNSOUND_INTERVAL),
        _ => None,
    };
    // Tokens are renewed even if nothing else happens.
    let renewal = pod.map(|_| context.settings.token_life / 4);
    let waits = [built.outcome.requeue_after, blocked, waiting, answered, renewal];
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

#[cfg(test)]
mod tests;
