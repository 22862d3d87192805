//! What becomes of HostAgents: who reaches them, how many streams they have, what they say of themselves.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::Deserialize;

use super::context::Context;
use super::events;
use operator_api::conditions::{self, condition, reasons};
use operator_api::{EncoderStatus, HostAgent, HostAgentStatus, Transport, names};
use operator_plan::facts::Node;

/// How often each is looked at.
const EVERY: Duration = Duration::from_secs(15);
/// `lastSeen` alone is written no oftener than this.
const SEEN_EVERY: SignedDuration = SignedDuration::from_mins(5);

/// The part of host-agent's `/status` that we read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    version: String,
    name: String,
    encoders: Vec<Encoder>,
    vms: Vec<Vm>,
    sessions: Vec<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Encoder {
    name: String,
    #[serde(default)]
    hardware: bool,
    #[serde(default)]
    ok: bool,
}

#[derive(Debug, Deserialize)]
struct Vm {
    name: String,
}

/// Looks at all of them, again and again.
pub async fn watch(context: Arc<Context>) {
    loop {
        let nodes = context.stores.nodes();
        for agent in context.stores.host_agents.state() {
            if agent.metadata.deletion_timestamp.is_none() {
                look(&context, &agent, &nodes).await;
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn look(context: &Context, agent: &HostAgent, nodes: &[Node]) {
    let said = match &agent.spec.admin {
        Some(admin) => Some(ask(admin).await),
        None => None,
    };
    let before = agent.status.clone().unwrap_or_default();
    let streams = context.memory.load(&agent.name_any());
    let after = status(
        agent,
        nodes,
        said.as_ref().map(|said| said.as_ref().map_err(String::as_str)),
        streams,
        Timestamp::now(),
    );
    if after == before {
        return;
    }
    let api: Api<HostAgent> = Api::all(context.client.clone());
    let patch = serde_json::json!({
        "apiVersion": format!("{}/{}", operator_api::GROUP, operator_api::VERSION), "kind": "HostAgent",
        "metadata": {"name": agent.name_any()}, "status": after,
    });
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    context.metrics.writes.fetch_add(1, Relaxed);
    if let Err(error) = api.patch_status(&agent.name_any(), &params, &Patch::Apply(&patch)).await {
        tracing::warn!(name = agent.name_any(), %error, "can't write a HostAgent's status; will try again");
        return;
    }
    let held = |status: &HostAgentStatus| conditions::is(&status.conditions, conditions::READY);
    if held(&before) != held(&after)
        && let Some(ready) = after.conditions.iter().find(|it| it.type_ == conditions::READY)
    {
        let about = agent.object_ref(&());
        events::say_of(context, &about, ready.status != "True", &ready.reason, ready.message.clone()).await;
    }
}

async fn ask(admin: &str) -> Result<Said, String> {
    let body = operator_sidecar_client::get(&format!("{}/status", admin.trim_end_matches('/')), None).await?;
    serde_json::from_slice(&body).map_err(|error| format!("its status makes no sense: {error}"))
}

/// The status, from what is known.
fn status(
    agent: &HostAgent,
    nodes: &[Node],
    said: Option<Result<&Said, &str>>,
    streams: u32,
    now: Timestamp,
) -> HostAgentStatus {
    let name = agent.name_any();
    let before = agent.status.clone().unwrap_or_default();
    let generation = agent.metadata.generation;
    let reached = nodes.iter().filter(|node| node.endpoint(&name, Transport::Auto).is_some()).count() as u32;
    let heard = said.and_then(Result::ok);
    let reachable = if reached > 0 {
        condition(
            conditions::REACHABLE,
            Some(true),
            reasons::OK,
            &format!("{reached} nodes reach it"),
            generation,
        )
    } else {
        let text = format!("none of {} nodes reaches it", nodes.len());
        condition(conditions::REACHABLE, Some(false), reasons::HOST_AGENT_UNREACHABLE, &text, generation)
    };
    let other_name = heard.filter(|said| !said.name.is_empty() && said.name != name);
    let ready = if let Some(said) = other_name {
        let text = format!("it calls itself {:?}: start it with --name {name}", said.name);
        condition(conditions::READY, Some(false), reasons::TOKEN_REFUSED, &text, generation)
    } else {
        condition(
            conditions::READY,
            Some(reached > 0),
            if reached > 0 { reasons::OK } else { reasons::HOST_AGENT_UNREACHABLE },
            &reachable.message,
            generation,
        )
    };
    let mut conditions = vec![reachable, ready];
    conditions::keep_times(&mut conditions, &before.conditions, now);
    let fresh = before.last_seen.as_ref().is_some_and(|seen| now.duration_since(seen.0) < SEEN_EVERY);
    let seen = reached > 0 || heard.is_some();
    HostAgentStatus {
        conditions,
        observed_generation: generation,
        version: heard.map(|said| said.version.clone()).or(before.version),
        encoders: heard.map_or(before.encoders, |said| {
            let good = said.encoders.iter().filter(|encoder| encoder.ok);
            good.map(|it| EncoderStatus { name: it.name.clone(), hardware: it.hardware }).collect()
        }),
        vms: heard.map_or(before.vms, |said| said.vms.iter().map(|vm| vm.name.clone()).collect()),
        sessions: heard.map(|said| said.sessions.len() as u32).or(before.sessions),
        streams,
        nodes: reached,
        last_seen: if seen && !fresh { Some(Time(now)) } else { before.last_seen },
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

    #[test]
    fn a_steady_host_agent_has_a_steady_status() {
        let nodes = [node("n1", 105, &[("mac", "vsock://2:1")]), node("n2", 105, &[])];
        let at = |seconds| Timestamp::from_second(seconds).expect("a time");
        let first = status(&agent(HostAgentStatus::default()), &nodes, None, 2, at(1000));
        assert_eq!((first.nodes, first.streams), (1, 2));
        assert_eq!(conditions::is(&first.conditions, conditions::READY), Some(true));
        assert_eq!(status(&agent(first.clone()), &nodes, None, 2, at(1015)), first);
        let later = status(&agent(first.clone()), &nodes, None, 2, at(1301));
        assert_ne!(later.last_seen, first.last_seen);
        let gone = status(&agent(first), &[], None, 2, at(1400));
        assert_eq!(conditions::is(&gone.conditions, conditions::REACHABLE), Some(false));
        assert!(gone.conditions[0].message.contains("start host-agent"));
    }

    #[test]
    fn one_under_another_name_is_told_how_to_start() {
        let said: Said = serde_json::from_str(
            r#"{"name":"default","version":"1","sessions":[{}],"encoders":[{"name":"x264enc","ok":true},{"name":"vtenc","ok":false}]}"#,
        )
        .expect("reads");
        let nodes = [node("n1", 105, &[("mac", "vsock://2:1")])];
        let status =
            status(&agent(HostAgentStatus::default()), &nodes, Some(Ok(&said)), 0, Timestamp::UNIX_EPOCH);
        assert_eq!(conditions::is(&status.conditions, conditions::READY), Some(false));
        assert!(status.conditions[1].message.contains("--name mac"));
        assert_eq!((status.encoders.len(), status.sessions), (1, Some(1)));
    }
}
