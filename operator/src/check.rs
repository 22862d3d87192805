//! `operator check`: checks an installation. `helm test` runs it.

use std::time::{Duration, Instant};

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client};
use operator_api::{DesktopStream, HostAgent, names};
use operator_plan::facts::NodeFacts;

/// Time that a leader, and the webhook's CA, may take to appear after an installation.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval between attempts.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Result of a check.
struct Check {
    name: &'static str,
    /// Finding, or the remedy.
    outcome: Result<String, String>,
    /// True if the installation does not work without this part.
    is_required: bool,
}

/// Runs and prints all checks.
///
/// # Errors
/// If a required check fails.
pub async fn run(client: &Client, namespace: &str, configuration: &str) -> anyhow::Result<()> {
    let checks = [
        Check { name: "kinds", outcome: kinds(client).await, is_required: true },
        Check { name: "leader", outcome: leader(client, namespace).await, is_required: true },
        Check { name: "webhook", outcome: webhook(client, configuration).await, is_required: true },
        Check { name: "nodes", outcome: nodes(client).await, is_required: false },
        Check { name: "host-agents", outcome: host_agents(client).await, is_required: false },
    ];
    let mut failed = 0;
    for Check { name, outcome, is_required } in checks {
        match outcome {
            Ok(text) => println!("ok    {name}: {text}"),
            Err(text) if is_required => {
                failed += 1;
                println!("FAIL  {name}: {text}");
            }
            Err(text) => println!("note  {name}: {text}"),
        }
    }
    anyhow::ensure!(failed == 0, "{failed} checks failed");
    Ok(())
}

async fn kinds(client: &Client) -> Result<String, String> {
    let api: Api<DesktopStream> = Api::all(client.clone());
    let list = api.list_metadata(&ListParams::default()).await;
    let list = list.map_err(|error| format!("{error}; apply the output of operator crds"))?;
    Ok(format!("{} DesktopStreams", list.items.len()))
}

async fn leader(client: &Client, namespace: &str) -> Result<String, String> {
    let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let start = Instant::now();
    loop {
        let lease = api.get_opt(names::LEASE).await.map_err(|error| error.to_string())?;
        let spec = lease.and_then(|lease| lease.spec).unwrap_or_default();
        let duration = i64::from(spec.lease_duration_seconds.unwrap_or(15));
        let is_valid = spec
            .renew_time
            .as_ref()
            .is_some_and(|time| Timestamp::now().duration_since(time.0).as_secs() < duration);
        match spec.holder_identity {
            Some(holder) if is_valid => return Ok(holder),
            _ if start.elapsed() > INSTALL_TIMEOUT => {
                return Err(format!(
                    "no replica holds the Lease; see the operator's log in namespace {namespace}"
                ));
            }
            _ => tokio::time::sleep(RETRY_INTERVAL).await,
        }
    }
}

async fn webhook(client: &Client, configuration: &str) -> Result<String, String> {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let start = Instant::now();
    loop {
        let Some(found) = api.get_opt(configuration).await.map_err(|error| error.to_string())? else {
            return Ok("not configured".to_owned());
        };
        let hooks = found.webhooks.unwrap_or_default();
        let has_ca =
            hooks.iter().all(|hook| hook.client_config.ca_bundle.as_ref().is_some_and(|it| !it.0.is_empty()));
        if has_ca {
            return Ok(format!("{} hooks with a CA", hooks.len()));
        }
        if start.elapsed() > INSTALL_TIMEOUT {
            return Err("the configuration has no CA; see the operator's log".to_owned());
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

async fn nodes(client: &Client) -> Result<String, String> {
    let api: Api<Node> = Api::all(client.clone());
    let list = api.list_metadata(&ListParams::default()).await.map_err(|error| error.to_string())?;
    let facts: Vec<NodeFacts> = list
        .items
        .iter()
        .filter_map(|node| {
            serde_json::from_str(node.metadata.annotations.as_ref()?.get(names::NODE_FACTS)?).ok()
        })
        .collect();
    let gpus: usize = facts.iter().map(|facts| facts.gpus.len()).sum();
    let agents = format!("{} of {} nodes have a node-agent", facts.len(), list.items.len());
    if gpus == 0 {
        return Err(format!("{agents}, and none has a GPU: desktops render on the CPU"));
    }
    Ok(format!("{agents}; {gpus} GPUs"))
}

async fn host_agents(client: &Client) -> Result<String, String> {
    let api: Api<HostAgent> = Api::all(client.clone());
    let list = api.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
    let is_reached = |agent: &&HostAgent| agent.status.as_ref().is_some_and(|status| status.nodes > 0);
    let reached = list.items.iter().filter(is_reached).count();
    let all = list.items.len();
    if reached == 0 {
        return Err(format!("no node reaches one of {all} HostAgents: sidecars encode"));
    }
    Ok(format!("nodes reach {reached} of {all} HostAgents"))
}
