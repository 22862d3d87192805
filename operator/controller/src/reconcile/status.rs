//! Writes the status of a stream.

use std::time::{Duration, Instant};

use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use operator_api::{DesktopStream, DesktopStreamStatus, names};

use crate::context::Context;
use crate::error::Error;
use crate::events;
use crate::memory::TimedStatus;

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
    let patch = serde_json::json!({
        "apiVersion": format!("{}/{}", operator_api::GROUP, operator_api::VERSION),
        "kind": "DesktopStream",
        // The UID keeps the status from being written to a later stream of that name.
        "metadata": {"name": name, "uid": stream.uid()},
        "status": after,
    });
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    context.metrics.writes.inc();
    match api.patch_status(&name, &params, &Patch::Apply(&patch)).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(Error::api("write the status")(error)),
    }
    for news in events::news(previous, &after) {
        events::publish(context, stream, news).await;
    }
    let written = TimedStatus { at: Instant::now(), status: after };
    context.memory.update(&stream.uid().unwrap_or_default(), |known| known.status = Some(written));
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
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
