//! Controller of HostAgents: probes their admin listeners and writes their statuses.

use std::sync::Arc;
use std::time::Duration;

use contract::HostAgentStatus as Report;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use operator_api::conditions::{self, Engine, Subject, reasons};
use operator_api::{EncoderStatus, HostAgent, HostAgentStatus, Transport, names};
use operator_plan::facts::Node;
use operator_plan::host_agent;

use super::context::Context;
use super::events::{self, News};

/// Interval between probes of a host-agent.
const PROBE_INTERVAL: Duration = Duration::from_secs(15);
/// Minimum interval between writes that only renew `lastSeen`.
const LAST_SEEN_INTERVAL: SignedDuration = SignedDuration::from_mins(5);

/// Observed facts that a status is computed from.
struct Input<'i> {
    agent: &'i HostAgent,
    nodes: &'i [Node],
    /// Answer of the admin listener; `None` if it was not asked or did not answer.
    report: Option<&'i Report>,
    /// Streams that are paired with the host-agent.
    streams: u32,
    now: Timestamp,
}

/// Probes all HostAgents periodically. Never returns.
pub async fn watch(context: Arc<Context>) {
    loop {
        let nodes = context.stores.nodes();
        for agent in context.stores.host_agents.state() {
            if agent.metadata.deletion_timestamp.is_none() {
                probe(&context, &agent, &nodes).await;
            }
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

async fn probe(context: &Context, agent: &HostAgent, nodes: &[Node]) {
    let name = agent.name_any();
    let report = match &agent.spec.admin {
        Some(admin) => operator_sidecar_client::host_agent_status(admin)
            .await
            .map_err(|error| tracing::debug!(name, %error, "host-agent status not available"))
            .ok(),
        None => None,
    };
    let before = agent.status.clone().unwrap_or_default();
    let streams = context.memory.load(&name);
    let after = status(&Input { agent, nodes, report: report.as_ref(), streams, now: Timestamp::now() });
    if after == before {
        return;
    }
    let api: Api<HostAgent> = Api::all(context.client.clone());
    let patch = serde_json::json!({
        "apiVersion": format!("{}/{}", operator_api::GROUP, operator_api::VERSION), "kind": "HostAgent",
        "metadata": {"name": name}, "status": after,
    });
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    context.metrics.writes.inc();
    if let Err(error) = api.patch_status(&name, &params, &Patch::Apply(&patch)).await {
        tracing::warn!(name, %error, "HostAgent status not written; retrying");
        return;
    }
    let is_ready = |status: &HostAgentStatus| conditions::is(&status.conditions, conditions::READY);
    if is_ready(&before) != is_ready(&after)
        && let Some(ready) = after.conditions.iter().find(|it| it.type_ == conditions::READY)
    {
        let news = News {
            is_warning: ready.status != "True",
            reason: ready.reason.clone(),
            note: ready.message.clone(),
        };
        events::publish_about(context, &agent.object_ref(&()), news).await;
    }
}

/// Status of a HostAgent.
fn status(input: &Input<'_>) -> HostAgentStatus {
    let Input { agent, nodes, report, streams, now } = *input;
    let name = agent.name_any();
    let before = agent.status.clone().unwrap_or_default();
    let generation = agent.metadata.generation;
    let reached =
        nodes.iter().filter(|node| node.endpoint(&name, &agent.spec, Transport::Auto).is_some()).count()
            as u32;
    let subject = Subject { engine: Engine::Kubernetes, name: &name, generation };
    let (reason, text) = if reached > 0 {
        (reasons::REACHABLE, format!("{reached} nodes reach it"))
    } else {
        let tried = if let Err(problem) = host_agent::validate(&agent.spec) {
            format!(": {problem}")
        } else if host_agent::tries_only_vsock(&agent.spec) {
            " by vsock; the gateway is not tried without spec.fingerprint".to_owned()
        } else {
            String::new()
        };
        (reasons::HOST_AGENT_UNREACHABLE, format!("none of {} nodes reaches it{tried}", nodes.len()))
    };
    let reachable = subject.condition(conditions::REACHABLE, Some(reached > 0), reason, &text);
    let ready = match report.filter(|report| !report.name.is_empty() && report.name != name) {
        Some(report) => {
            let text = format!("its name is {:?}: start it with --name {name}", report.name);
            subject.condition(conditions::READY, Some(false), reasons::TOKEN_REFUSED, &text)
        }
        None => subject.condition(conditions::READY, Some(reached > 0), reason, &text),
    };
    let mut conditions = vec![reachable, ready];
    conditions::keep_times(&mut conditions, &before.conditions, now);
    let is_recent =
        before.last_seen.as_ref().is_some_and(|seen| now.duration_since(seen.0) < LAST_SEEN_INTERVAL);
    let is_seen = reached > 0 || report.is_some();
    HostAgentStatus {
        conditions,
        observed_generation: generation,
        version: report.map(|report| report.version.clone()).or(before.version),
        encoders: report.map_or(before.encoders, |report| {
            let working = report.encoders.iter().filter(|encoder| encoder.ok);
            working.map(|it| EncoderStatus { name: it.name.clone(), hardware: it.hardware }).collect()
        }),
        vms: report.map_or(before.vms, |report| report.vms.iter().map(|vm| vm.name.clone()).collect()),
        sessions: report.map(|report| report.sessions.len() as u32).or(before.sessions),
        streams,
        nodes: reached,
        last_seen: if is_seen && !is_recent { Some(Time(now)) } else { before.last_seen },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use operator_plan::testing::node;

    fn agent(status: HostAgentStatus) -> HostAgent {
        let mut agent: HostAgent =
            serde_json::from_value(serde_json::json!({"metadata": {"name": "mac"}, "spec": {}}))
                .expect("an agent");
        agent.status = Some(status);
        agent
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a time")
    }

    fn next(before: HostAgentStatus, nodes: &[Node], report: Option<&Report>, now: i64) -> HostAgentStatus {
        let agent = agent(before);
        status(&Input { agent: &agent, nodes, report, streams: 2, now: at(now) })
    }

    #[test]
    fn status_of_a_steady_host_agent_changes_only_every_five_minutes() {
        let nodes = [node("n1", 105, &[("mac", "vsock://2:1")]), node("n2", 105, &[])];
        let first = next(HostAgentStatus::default(), &nodes, None, 1000);
        assert_eq!((first.nodes, first.streams), (1, 2));
        assert_eq!(conditions::is(&first.conditions, conditions::READY), Some(true));
        assert_eq!(next(first.clone(), &nodes, None, 1015), first);
        let later = next(first.clone(), &nodes, None, 1301);
        assert_ne!(later.last_seen, first.last_seen);
    }

    #[test]
    fn host_agent_that_no_node_reaches_is_not_reachable() {
        let status = next(HostAgentStatus::default(), &[], None, 1400);
        assert_eq!(conditions::is(&status.conditions, conditions::REACHABLE), Some(false));
        assert!(status.conditions[0].message.contains("start host-agent"), "{:?}", status.conditions[0]);
        assert!(status.conditions[0].message.contains("spec.fingerprint"), "{:?}", status.conditions[0]);
    }

    #[test]
    fn host_agent_whose_endpoints_are_refused_names_the_remedy() {
        let mut agent = agent(HostAgentStatus::default());
        agent.spec.endpoints = vec!["tcp://gateway:1".to_owned()];
        let nodes = [node("n1", 105, &[("mac", "tcp://10.0.0.1:1")])];
        let status = status(&Input { agent: &agent, nodes: &nodes, report: None, streams: 0, now: at(1) });
        assert_eq!(conditions::is(&status.conditions, conditions::REACHABLE), Some(false));
        assert!(status.conditions[0].message.contains("plaintext to true"), "{:?}", status.conditions[0]);
    }

    #[test]
    fn host_agent_with_another_name_is_not_ready() {
        let report: Report = serde_json::from_str(
            r#"{"name":"default","version":"1","sessions":[{}],"encoders":[{"name":"x264enc","ok":true},{"name":"vtenc","ok":false}]}"#,
        )
        .expect("reads");
        let nodes = [node("n1", 105, &[("mac", "vsock://2:1")])];
        let status = next(HostAgentStatus::default(), &nodes, Some(&report), 0);
        assert_eq!(conditions::is(&status.conditions, conditions::READY), Some(false));
        assert!(status.conditions[1].message.contains("--name mac"));
        assert_eq!((status.encoders.len(), status.sessions), (1, Some(1)));
    }
}
