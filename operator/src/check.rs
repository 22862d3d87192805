//! `operator check`: is this installation sound? What `helm test` runs, and what a person runs first.

use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client};

use operator_api::{DesktopStream, HostAgent, names};
use operator_plan::facts::NodeFacts;

/// How long the leader may take to appear after an installation.
const PATIENCE: Duration = Duration::from_secs(60);

/// One line of the report.
struct Line {
    /// What was looked at.
    what: &'static str,
    /// `Err` says what to do.
    found: Result<String, String>,
    /// Whether the installation is broken without it.
    needed: bool,
}

/// Looks, prints, and fails if a needed part does.
pub async fn run(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let lines = [
        Line { what: "kinds", found: kinds(client).await, needed: true },
        Line { what: "leader", found: leader(client, namespace).await, needed: true },
        Line { what: "webhook", found: webhook(client).await, needed: true },
        Line { what: "nodes", found: nodes(client).await, needed: false },
        Line { what: "host-agents", found: host_agents(client).await, needed: false },
    ];
    let mut broken = 0;
    for Line { what, found, needed } in lines {
        match found {
            Ok(text) => println!("ok    {what}: {text}"),
            Err(text) if needed => {
                broken += 1;
                println!("FAIL  {what}: {text}");
            }
            Err(text) => println!("note  {what}: {text}"),
        }
    }
    anyhow::ensure!(broken == 0, "{broken} parts of the installation fail");
    Ok(())
}

async fn kinds(client: &Client) -> Result<String, String> {
    let api: Api<DesktopStream> = Api::all(client.clone());
    let list = api.list_metadata(&ListParams::default()).await;
    let list = list.map_err(|error| format!("{error}; apply `operator crds`"))?;
    Ok(format!("{} DesktopStreams", list.items.len()))
}

async fn leader(client: &Client, namespace: &str) -> Result<String, String> {
    let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let begin = std::time::Instant::now();
    loop {
        let lease = api.get_opt("desktopstream-operator").await.map_err(|error| error.to_string())?;
        let spec = lease.and_then(|lease| lease.spec).unwrap_or_default();
        let fresh = spec.renew_time.as_ref().is_some_and(|time| {
            Timestamp::now().duration_since(time.0).as_secs()
                < i64::from(spec.lease_duration_seconds.unwrap_or(15))
        });
        match spec.holder_identity {
            Some(holder) if fresh => return Ok(holder),
            _ if begin.elapsed() > PATIENCE => {
                return Err(format!("nobody leads; see the operator's log in namespace {namespace}"));
            }
            _ => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}

async fn webhook(client: &Client) -> Result<String, String> {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let name = std::env::var("OPERATOR_WEBHOOK_CONFIGURATION").unwrap_or_else(|_| "desktopstream".to_owned());
    let begin = std::time::Instant::now();
    loop {
        let Some(found) = api.get_opt(&name).await.map_err(|error| error.to_string())? else {
            return Ok("none is configured".to_owned());
        };
        let hooks = found.webhooks.unwrap_or_default();
        if hooks
            .iter()
            .all(|hook| hook.client_config.ca_bundle.as_ref().is_some_and(|bundle| !bundle.0.is_empty()))
        {
            return Ok(format!("{} hooks, and the apiserver trusts them", hooks.len()));
        }
        if begin.elapsed() > PATIENCE {
            return Err("the apiserver was not told its certificate; see the operator's log".to_owned());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn nodes(client: &Client) -> Result<String, String> {
    let api: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
    let list = api.list_metadata(&ListParams::default()).await.map_err(|error| error.to_string())?;
    let facts: Vec<NodeFacts> = list
        .items
        .iter()
        .filter_map(|node| {
            serde_json::from_str(node.metadata.annotations.as_ref()?.get(names::NODE_FACTS)?).ok()
        })
        .collect();
    let gpus: usize = facts.iter().map(|facts| facts.gpus.len()).sum();
    let all = list.items.len();
    if gpus == 0 {
        return Err(format!(
            "{} of {all} nodes have a node-agent, and none has a GPU: desktops draw on the CPU",
            facts.len()
        ));
    }
    Ok(format!("{} of {all} nodes have a node-agent; {gpus} GPUs", facts.len()))
}

async fn host_agents(client: &Client) -> Result<String, String> {
    let api: Api<HostAgent> = Api::all(client.clone());
    let list = api.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
    let reached = list
        .items
        .iter()
        .filter(|agent| agent.status.as_ref().is_some_and(|status| status.nodes > 0))
        .count();
    if reached == 0 {
        return Err(format!("{} HostAgents, none reached: sidecars encode", list.items.len()));
    }
    Ok(format!("{reached} of {} HostAgents are reached", list.items.len()))
}
