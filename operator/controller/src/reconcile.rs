//! One stream, brought to where it should be: gather, plan, apply, say.
//!
//! Order of applying: what a pod needs to start (Secrets, claim) before the pod, the ways to it after; what
//! goes away goes first. Each step is safe to repeat, so that a crash in between costs nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt};
use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use super::context::Context;
use super::error::Error;
use super::stores::Guarded;
use super::{apply, events, secrets};
use operator_api::{DesktopStream, DesktopStreamStatus, names};
use operator_plan::facts::Node;
use operator_plan::kubernetes::{self, Objects};
use operator_plan::lifecycle::{self, Life, Outcome};
use operator_plan::pair::{self, Candidate, Pairing};
use operator_plan::status::report::Report;
use operator_plan::status::{self, Obstacle, Seen};
use operator_plan::validate::{Validated, validate};
use operator_plan::workload::{self, Workload};

/// Numbers in a status are renewed no oftener than this.
const STATS_EVERY: Duration = Duration::from_secs(60);
/// A pod that is starting is looked at so often, besides what the watch says.
const STARTING: Duration = Duration::from_secs(3);
/// How long our own last word on a status counts more than the watch's.
const ECHO: Duration = Duration::from_secs(5);
/// What nobody tells us of (a quota raised, a Secret made) is tried again so often.
const OBSTRUCTED: Duration = Duration::from_secs(10);
/// Sidecars' words are remembered up to this.
const LONGEST_ENDPOINT: usize = 256;
/// A pod without its device is replaced no oftener than this.
const DEVICE_MISSED: Duration = Duration::from_secs(300);

/// Reconciles one stream.
pub async fn reconcile(guarded: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Error> {
    let began = Instant::now();
    let stream = match &guarded.0 {
        Ok(stream) => stream,
        Err(invalid) => {
            tracing::warn!(name = guarded.name_any(), error = %invalid.error, "a stream can't be read");
            return Ok(Action::await_change());
        }
    };
    let uid = stream.uid().unwrap_or_default();
    context.metrics.streams.store(context.stores.streams.len() as u64, Relaxed);
    if stream.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let action = match validate(stream) {
        Ok(valid) => Work { context: &context, stream, valid }.run().await?,
        Err(problems) => {
            let before = before(&context, stream);
            let after = status::invalid(&before, stream.metadata.generation, &problems, Timestamp::now());
            write_status(&context, stream, &before, after).await?;
            Action::await_change()
        }
    };
    context.memory.update(&uid, |known| known.failures = 0);
    context.metrics.reconciled(began.elapsed());
    Ok(action)
}

/// When to try again after a failure.
#[expect(clippy::needless_pass_by_value, reason = "the controller's signature")]
pub fn on_error(guarded: Arc<Guarded>, error: &Error, context: Arc<Context>) -> Action {
    let uid = guarded.uid().unwrap_or_default();
    let attempt = context.memory.update(&uid, |known| {
        known.failures = known.failures.saturating_add(1);
        known.failures - 1
    });
    let wait = error.back_off(attempt);
    let name = format!("{}/{}", guarded.namespace().unwrap_or_default(), guarded.name_any());
    tracing::warn!(name, %error, category = error.category(), ?wait, "will try again");
    context.metrics.failed(error.category());
    Action::requeue(wait)
}

/// A reconciliation under way.
struct Work<'w> {
    context: &'w Context,
    stream: &'w DesktopStream,
    valid: Validated,
}

impl Work<'_> {
    async fn run(&self) -> Result<Action, Error> {
        let Self { context, stream, valid } = self;
        context.memory.update(&valid.uid, |known| known.id = valid.id());
        let before = before(context, stream);
        let now = Timestamp::now();
        let pods = self.pods();
        let pod = status::choose_pod(&pods).cloned();
        let report = self.report(pod.as_deref()).await;
        let outcome = lifecycle::lifecycle(
            valid,
            lifecycle::Known {
                created: stream.metadata.creation_timestamp.as_ref().map(|time| time.0),
                wake: stream.annotations().get(names::WAKE).map(String::as_str),
                before: &before,
                viewers: report.as_ref().and_then(|report| report.as_ref().ok()).map(|report| report.viewers),
                now,
            },
        );
        if outcome.life == Life::Expired {
            return self.expire().await;
        }
        let nodes = context.stores.nodes();
        self.learn(pod.as_deref(), report.as_ref());
        let pairing = self.pair(&nodes, pod.as_deref(), &before, &outcome);
        let gid = workload::render_gid(valid, &nodes, &pairing);
        let workload = workload::workload(valid, gid);
        let objects = kubernetes::objects(valid);
        let deviceless = pod.as_ref().is_some_and(|pod| self.lacks_device(pod, &nodes, report.as_ref()));
        let applied =
            self.apply(&objects, &workload, &pairing, (pod.clone(), deviceless), &outcome, now).await?;
        let claim = objects.home.as_ref().and_then(|home| self.claim(&home.name_any()));
        let seen = Seen {
            pod: applied.pod.as_deref(),
            obstacle: applied.obstacle.as_ref(),
            claim: claim.as_deref(),
            nodes: &nodes,
            pairing: &pairing,
            report: report.as_ref().map(|report| report.as_ref().map_err(String::as_str)),
            outcome: &outcome,
            before: &before,
            now,
        };
        let after = self.calm(&before, status::status(valid, seen));
        write_status(context, stream, &before, after).await?;
        Ok(self.again(&applied, &outcome, report.is_some()))
    }

    fn claim(&self, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        apply::find(&self.context.stores.claims, &self.valid.namespace, name)
    }

    /// Pods that bear the stream's label: ours, or others' with our sidecar.
    fn pods(&self) -> Vec<Arc<Pod>> {
        let attached = self.valid.spec.attach.is_some();
        self.context.stores.pods.state_filter(|pod| {
            pod.namespace().as_deref() == Some(&self.valid.namespace)
                && pod.labels().get(names::STREAM) == Some(&self.valid.names.stream)
                && (attached || apply::is_ours(pod, &self.valid))
        })
    }

    /// What the sidecar says, asked at a modest rate.
    async fn report(&self, pod: Option<&Pod>) -> Option<Result<Report, String>> {
        let Self { context, valid, .. } = self;
        let address = pod.filter(|pod| pod.metadata.deletion_timestamp.is_none()).and_then(sidecar_address);
        let Some(address) = address else {
            context.memory.update(&valid.uid, |known| known.report = None);
            return None;
        };
        let known = context.memory.get(&valid.uid);
        let fresh = if matches!(known.report, Some((_, Ok(ref report))) if report.frames.encoded > 0) {
            context.settings.poll
        } else {
            Duration::from_secs(1)
        };
        if let Some((at, report)) = known.report
            && at.elapsed() < fresh
        {
            return Some(report);
        }
        context.metrics.polls.fetch_add(1, Relaxed);
        let report = operator_sidecar_client::ask(&address, known.viewer_token.as_deref()).await;
        context.memory.update(&valid.uid, |known| known.report = Some((Instant::now(), report.clone())));
        Some(report)
    }

    /// Whose VM its node is not, if its sidecar has found that out.
    fn learn(&self, pod: Option<&Pod>, report: Option<&Result<Report, String>>) {
        let node = pod.and_then(|pod| pod.spec.as_ref()?.node_name.as_deref());
        if let (Some(node), Some(Ok(report))) = (node, report)
            && (1..=LONGEST_ENDPOINT).contains(&report.unconfirmed_by.len())
        {
            self.context
                .memory
                .update(&self.valid.uid, |known| known.strangers.learn(node, &report.unconfirmed_by));
        }
    }

    /// Says so once in a while only: another pod may fare no better.
    fn lacks_device(&self, pod: &Pod, nodes: &[Node], report: Option<&Result<Report, String>>) -> bool {
        let Self { context, valid, .. } = self;
        let Some(Ok(report)) = report else { return false };
        kubernetes::lacks_device(valid, pod, nodes, report)
            && context.memory.update(&valid.uid, |known| {
                let again = known.device_missed.is_none_or(|at| at.elapsed() >= DEVICE_MISSED);
                if again {
                    known.device_missed = Some(Instant::now());
                }
                again
            })
    }

    fn pair(
        &self,
        nodes: &[Node],
        pod: Option<&Pod>,
        before: &DesktopStreamStatus,
        outcome: &Outcome,
    ) -> Pairing {
        let Self { context, valid, .. } = self;
        let node = pod.and_then(|pod| pod.spec.as_ref()?.node_name.as_deref());
        let rests = outcome.life != Life::Run;
        let strangers = context.memory.get(&valid.uid).strangers;
        context.memory.choose(&valid.uid, |loads| {
            let candidates = candidates(context, loads);
            let among =
                |nodes: &[Node]| pair::pair(valid, &candidates, nodes, node, before.host_agent.as_deref());
            let known = (!strangers.is_empty()).then(|| among(&strangers.hide(nodes)));
            // A host-agent of another VM still encodes pixels: better than nobody.
            let pairing = known.filter(|it| it.host_agent().is_some()).unwrap_or_else(|| among(nodes));
            (pairing.host_agent().map(ToOwned::to_owned).filter(|_| !rests), pairing)
        })
    }

    async fn expire(&self) -> Result<Action, Error> {
        let Self { context, stream, valid } = self;
        let note = "spec.lifecycle.ttl is over: deleted".to_owned();
        events::say(context, stream, false, "Expired", note).await;
        let api: Api<DesktopStream> = Api::namespaced(context.client.clone(), &valid.namespace);
        context.metrics.writes.fetch_add(1, Relaxed);
        match api.delete(&valid.names.stream, &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(Error::api("delete the expired stream")(error)),
        }
        Ok(Action::await_change())
    }

    /// Numbers alone are written once a minute, but for the first ones of a stream that begins to flow.
    fn calm(&self, before: &DesktopStreamStatus, mut after: DesktopStreamStatus) -> DesktopStreamStatus {
        let written = self.context.memory.get(&self.valid.uid).stats_written;
        let recent = written.is_some_and(|at| at.elapsed() < STATS_EVERY);
        if let (Some(old), Some(new)) = (&before.stats, &mut after.stats) {
            let mut undated = new.clone();
            undated.at.clone_from(&old.at);
            let begins = old.fps == 0 && new.fps > 0;
            if (recent && !begins) || undated == *old {
                new.clone_from(old);
            }
        }
        if after.stats != before.stats {
            self.context.memory.update(&self.valid.uid, |known| known.stats_written = Some(Instant::now()));
        }
        after
    }

    fn again(&self, applied: &Done, outcome: &Outcome, asked: bool) -> Action {
        let mut wait = outcome.look_again;
        let mut at_most = |limit: Duration| wait = Some(wait.map_or(limit, |wait| wait.min(limit)));
        if applied.obstacle.is_some() {
            at_most(OBSTRUCTED);
        }
        if asked {
            let streams = self.context.memory.get(&self.valid.uid).report;
            let steady = matches!(streams, Some((_, Ok(report))) if report.frames.encoded > 0);
            at_most(if steady { self.context.settings.poll } else { STARTING });
        }
        if applied.pod.is_some() {
            // Tokens are renewed in time even when nothing else happens.
            at_most(self.context.settings.token_life / 4);
        }
        wait.map_or_else(Action::await_change, Action::requeue)
    }
}

/// What came of applying.
struct Done {
    /// The pod that there is now.
    pod: Option<Arc<Pod>>,
    /// What keeps things from being as they should.
    obstacle: Option<Obstacle>,
}

impl Work<'_> {
    async fn apply(
        &self,
        objects: &Objects,
        workload: &Workload,
        pairing: &Pairing,
        (pod, deviceless): (Option<Arc<Pod>>, bool),
        outcome: &Outcome,
        now: Timestamp,
    ) -> Result<Done, Error> {
        let Self { context, valid, .. } = self;
        let stores = &context.stores;
        let mut obstacles = Vec::new();
        let Objects { service, ingress, network_policy, home } = objects;
        if let Some(home) = home {
            obstacles.extend(apply::ensure(context, valid, &stores.claims, home).await?.err());
        }
        obstacles.extend(secrets::ensure_viewer(context, valid).await?.err());
        let pod = match outcome.life {
            Life::Run if valid.spec.attach.is_some() => pod,
            Life::Run if obstacles.is_empty() => {
                match self.ensure_pod(workload, pairing, pod, deviceless).await? {
                    Ok(pod) => pod,
                    Err(obstacle) => {
                        obstacles.push(obstacle);
                        None
                    }
                }
            }
            Life::Run => pod,
            Life::Suspended | Life::Idle | Life::Expired => self.rest(pod).await?,
        };
        let placed = pod.as_ref().and_then(|pod| pod.spec.as_ref()?.node_name.as_ref()).is_some();
        if workload.uses_host_agent && placed {
            let now = now.as_second().max(0) as u64;
            obstacles.extend(secrets::ensure_host_agent(context, valid, pairing, now).await?.err());
        }
        obstacles.extend(apply::ensure(context, valid, &stores.services, service).await?.err());
        if let Some(policy) = network_policy {
            obstacles.extend(apply::ensure(context, valid, &stores.policies, policy).await?.err());
        }
        if let Some(ingress) = ingress {
            obstacles.extend(apply::ensure(context, valid, &stores.ingresses, ingress).await?.err());
        }
        let policy = network_policy.as_ref().and_then(|it| it.metadata.name.as_deref());
        let ingress = ingress.as_ref().and_then(|it| it.metadata.name.as_deref());
        apply::sweep(context, valid, &stores.services, service.metadata.name.as_deref()).await?;
        apply::sweep(context, valid, &stores.policies, policy).await?;
        apply::sweep(context, valid, &stores.ingresses, ingress).await?;
        Ok(Done { pod, obstacle: obstacles.into_iter().next() })
    }

    /// The pod that should run; what is there and can't become it makes room first.
    async fn ensure_pod(
        &self,
        workload: &Workload,
        pairing: &Pairing,
        pod: Option<Arc<Pod>>,
        deviceless: bool,
    ) -> Result<Result<Option<Arc<Pod>>, Obstacle>, Error> {
        let Self { context, stream, valid } = self;
        if let Some(pod) = pod {
            if pod.metadata.deletion_timestamp.is_some() {
                return Ok(Ok(Some(pod)));
            }
            let device = || "its node has the device by now that the pod was started without".to_owned();
            let why = kubernetes::replace(&pod, workload).or_else(|| deviceless.then(device));
            let Some(why) = why else { return Ok(Ok(Some(pod))) };
            events::say(context, stream, false, "PodReplaced", why).await;
            apply::delete(context, pod.as_ref()).await?;
            context.memory.update(&valid.uid, |known| known.report = None);
            // The watch tells when it is gone.
            let mut going = (*pod).clone();
            going.metadata.deletion_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now()));
            return Ok(Ok(Some(Arc::new(going))));
        }
        let Some(desired) = kubernetes::pod(valid, workload, pairing, &context.settings.sidecar) else {
            return Ok(Ok(None));
        };
        Ok(apply::apply(context, valid, &desired, false).await?.map(|pod| Some(Arc::new(pod))))
    }

    /// No pod should run. Pods of others are theirs.
    async fn rest(&self, pod: Option<Arc<Pod>>) -> Result<Option<Arc<Pod>>, Error> {
        let Some(pod) = pod else { return Ok(None) };
        if self.valid.spec.attach.is_some() {
            return Ok(Some(pod));
        }
        if pod.metadata.deletion_timestamp.is_none() {
            apply::delete(self.context, pod.as_ref()).await?;
        }
        Ok(None)
    }
}

/// IP and port of a sidecar that runs.
fn sidecar_address(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let sidecar =
        status.init_container_statuses.as_ref()?.iter().find(|it| it.name == names::SIDECAR_CONTAINER)?;
    sidecar.state.as_ref()?.running.as_ref()?;
    let ip: std::net::IpAddr = status.pod_ip.as_ref()?.parse().ok()?;
    Some(std::net::SocketAddr::new(ip, names::VIEWER_PORT).to_string())
}

fn candidates(context: &Context, loads: &HashMap<String, u32>) -> Vec<Candidate> {
    let agents = context.stores.host_agents.state();
    let mut all: Vec<Candidate> = agents
        .iter()
        .filter(|agent| agent.metadata.deletion_timestamp.is_none())
        .map(|agent| Candidate {
            name: agent.name_any(),
            labels: agent.labels().clone(),
            node_selector: agent.spec.node_selector.clone(),
            capacity: agent.spec.capacity,
            load: loads.get(&agent.name_any()).copied().unwrap_or(0),
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// The status until now: what we wrote, until the watch has had time to tell.
fn before(context: &Context, stream: &DesktopStream) -> DesktopStreamStatus {
    let uid = stream.uid().unwrap_or_default();
    match context.memory.get(&uid).status {
        Some((at, status)) if at.elapsed() < ECHO => status,
        _ => stream.status.clone().unwrap_or_default(),
    }
}

/// Writes the status if it says something new, and tells of it.
async fn write_status(
    context: &Context,
    stream: &DesktopStream,
    before: &DesktopStreamStatus,
    after: DesktopStreamStatus,
) -> Result<(), Error> {
    if *before == after {
        return Ok(());
    }
    let (name, namespace) = (stream.name_any(), stream.namespace().unwrap_or_default());
    let api: Api<DesktopStream> = Api::namespaced(context.client.clone(), &namespace);
    let patch = serde_json::json!({
        "apiVersion": format!("{}/{}", operator_api::GROUP, operator_api::VERSION),
        "kind": "DesktopStream",
        // Of this very stream, not of the next one of its name.
        "metadata": {"name": name, "uid": stream.uid()},
        "status": after,
    });
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    context.metrics.writes.fetch_add(1, Relaxed);
    match api.patch_status(&name, &params, &Patch::Apply(&patch)).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(Error::api("write the status")(error)),
    }
    for (warning, reason, note) in events::news(before, &after) {
        events::say(context, stream, warning, &reason, note).await;
    }
    let uid = stream.uid().unwrap_or_default();
    context.memory.update(&uid, |known| known.status = Some((Instant::now(), after)));
    Ok(())
}
