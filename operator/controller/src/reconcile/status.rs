//! Writes the status of a stream.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::{Api, Resource as _, ResourceExt};
use operator_api::conditions::{self, Engine, READY, Subject, reasons};
use operator_api::{DesktopStream, DesktopStreamStatus, Phase, names};
use serde::de::DeserializeOwned;

use super::dereference;
use crate::context::Context;
use crate::error::Error;
use crate::events;
use crate::memory::TimedStatus;
use crate::stores::Guarded;

/// Minimum interval between writes that only renew statistics.
const STATS_INTERVAL: Duration = Duration::from_secs(60);

/// Keeps the previous statistics if they were written recently, except the first ones of a stream that starts to stream.
pub fn damp(
    context: &Context,
    uid: &str,
    previous: &DesktopStreamStatus,
    mut after: DesktopStreamStatus,
) -> DesktopStreamStatus {
    let written_at = context.memory.get(uid).stats_written_at;
    let is_recent = written_at.is_some_and(|at| at.elapsed() < STATS_INTERVAL);
    keep_stats(previous, &mut after, is_recent);
    if after.stats != previous.stats {
        context.memory.update(uid, |known| known.stats_written_at = Some(Instant::now()));
    }
    after
}

fn keep_stats(previous: &DesktopStreamStatus, after: &mut DesktopStreamStatus, is_recent: bool) {
    let (Some(old), Some(new)) = (&previous.stats, &mut after.stats) else { return };
    let starts = old.fps == 0 && new.fps > 0;
    let mut undated = new.clone();
    undated.at.clone_from(&old.at);
    if (is_recent && !starts) || undated == *old {
        new.clone_from(old);
    }
}

/// Writes the status if it differs from the previous one, and publishes Events about the difference.
///
/// # Errors
/// If the apiserver refuses.
pub async fn write(
    context: &Context,
    stream: &DesktopStream,
    previous: &DesktopStreamStatus,
    after: DesktopStreamStatus,
) -> Result<(), Error> {
    if *previous == after {
        return Ok(());
    }
    let (name, namespace) = (stream.name_any(), stream.namespace().unwrap_or_default());
    let api: Api<DesktopStream> = Api::namespaced(context.client.clone(), &namespace);
    let uid = stream.uid().unwrap_or_default();
    patch(context, &api, &name, &uid, &after).await?;
    for news in events::news(previous, &after) {
        events::publish(context, stream, news).await;
    }
    let written = TimedStatus { at: Instant::now(), status: after };
    context.memory.update(&uid, |known| known.status = Some(written));
    Ok(())
}

/// Reports a failure that persists. A status that cannot be written is logged.
pub async fn write_failing(context: &Context, stream: &DesktopStream, error: &Error) {
    let previous = dereference::previous(context, stream, &stream.uid().unwrap_or_default());
    let name = stream.name_any();
    let subject = super::subject(stream, &name);
    let text = error.to_string();
    let after = operator_plan::status::failing(subject, &previous, &text, Timestamp::now());
    if let Err(error) = write(context, stream, &previous, after).await {
        tracing::debug!(name, %error, "failure not reported in the status");
    }
}

/// Reports a stream that this version cannot read, once for each error.
///
/// # Errors
/// If the apiserver refuses.
pub async fn write_unreadable(context: &Context, guarded: &Guarded, error: &str) -> Result<Action, Error> {
    let uid = guarded.uid().unwrap_or_default();
    if context.memory.get(&uid).unreadable.as_deref() == Some(error) {
        return Ok(Action::await_change());
    }
    let (name, namespace) = (guarded.name_any(), guarded.namespace().unwrap_or_default());
    let subject = Subject { engine: Engine::Kubernetes, name: &name, generation: guarded.meta().generation };
    let text = format!("this version of the operator cannot read the stream: {error}");
    let mut ready = vec![subject.condition(READY, Some(false), reasons::INVALID, &text)];
    conditions::keep_times(&mut ready, &[], Timestamp::now());
    let status = DesktopStreamStatus {
        phase: Some(Phase::Failed),
        conditions: ready,
        observed_generation: subject.generation,
        ..DesktopStreamStatus::default()
    };
    // The answer contains the stream, which cannot be read.
    let resource = ApiResource::erase::<DesktopStream>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &namespace, &resource);
    patch(context, &api, &name, &uid, &status).await?;
    context.memory.update(&uid, |known| known.unreadable = Some(error.to_owned()));
    Ok(Action::await_change())
}

/// Applies a status. A stream that was deleted is no error.
async fn patch<K: Clone + Debug + DeserializeOwned>(
    context: &Context,
    api: &Api<K>,
    name: &str,
    uid: &str,
    status: &DesktopStreamStatus,
) -> Result<(), Error> {
    let patch = serde_json::json!({
        "apiVersion": format!("{}/{}", operator_api::GROUP, operator_api::VERSION),
        "kind": "DesktopStream",
        // The UID keeps the status from being written to a later stream of that name.
        "metadata": {"name": name, "uid": uid},
        "status": status,
    });
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    context.metrics.writes.inc();
    match api.patch_status(name, &params, &Patch::Apply(&patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(Error::api("write the status")(error)),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use operator_api::Stats;

    use super::*;

    fn status(fps: u32, second: i64) -> DesktopStreamStatus {
        let at = Some(Time(Timestamp::from_second(second).expect("a time")));
        let stats = Some(Stats { fps, at, ..Stats::default() });
        DesktopStreamStatus { stats, ..DesktopStreamStatus::default() }
    }

    fn kept(before: u32, after: u32, is_recent: bool) -> bool {
        let (previous, mut after) = (status(before, 1), status(after, 2));
        keep_stats(&previous, &mut after, is_recent);
        after == previous
    }

    #[test]
    fn statistics_are_kept_while_recent_or_equal() {
        assert!(kept(30, 29, true), "recent");
        assert!(kept(30, 30, false), "equal but for their time");
        assert!(!kept(30, 29, false));
        assert!(!kept(0, 29, true), "the first frames");
    }
}
