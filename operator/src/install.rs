//! `operator install-manifests`: an installation as plain objects, for who doesn't take the Helm chart. The rights are the
//! chart's; docs/kubernetes.md says why each is needed.

mod rights;
mod webhooks;
mod workloads;

use clap::Args;
use serde_json::{Value, json};

use operator_api::{crds, names};

/// Options of `install-manifests`: what is installed, and where.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The namespace to install to
    #[arg(long, default_value = "desktopstream")]
    pub namespace: String,
    /// Image of operator and node-agent
    #[arg(long, default_value = concat!("desktopstream/operator:", env!("CARGO_PKG_VERSION")))]
    pub image: String,
    /// Image of the sidecar
    #[arg(long, default_value = concat!("desktopstream/sidecar:", env!("CARGO_PKG_VERSION")))]
    pub sidecar_image: String,
    /// When images are pulled: Always, IfNotPresent, Never
    #[arg(long)]
    pub pull_policy: Option<String>,
    /// How many operators; one leads
    #[arg(long, default_value_t = 1)]
    pub replicas: u32,
    /// One more argument of `operator run`; may be given again
    #[arg(long = "operator-arg", allow_hyphen_values = true)]
    pub operator_args: Vec<String>,
    /// One more argument of `operator node`; may be given again
    #[arg(long = "node-arg", allow_hyphen_values = true)]
    pub node_args: Vec<String>,
    /// The nodes' /dev
    #[arg(long, default_value = "/dev")]
    pub dev: String,
    /// The nodes' /sys
    #[arg(long, default_value = "/sys")]
    pub sys: String,
}

/// Service account, Deployment and role of the operator.
const OPERATOR: &str = "desktopstream-operator";
/// Service account, DaemonSet and role of the node-agent.
const NODE: &str = "desktopstream-node";
/// The webhook's Service.
const WEBHOOK: &str = "desktopstream-webhook";
/// Both webhook configurations.
const CONFIGURATION: &str = "desktopstream";

/// All objects, in an order in which they can be applied.
pub fn objects(options: &Options) -> Result<Vec<Value>, crds::CrdError> {
    let mut all = vec![namespace(options)];
    for crd in crds::all()? {
        // Printing it as YAML goes by the same way.
        all.push(serde_json::to_value(crd).unwrap_or_default());
    }
    all.extend(rights::objects(options));
    all.extend(workloads::objects(options));
    all.extend(webhooks::objects(options));
    Ok(all)
}

/// All as one stream of YAML documents.
pub fn stream(options: &Options) -> Result<String, crds::CrdError> {
    let mut text = String::new();
    for object in objects(options)? {
        text += "---\n";
        text += &serde_yaml_ng::to_string(&object)?;
    }
    Ok(text)
}

/// The node-agent mounts folders of its node, which only `privileged` allows.
fn namespace(options: &Options) -> Value {
    let mut labels = labels();
    labels["pod-security.kubernetes.io/enforce"] = "privileged".into();
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": options.namespace, "labels": labels},
    })
}

fn labels() -> Value {
    json!({names::MANAGED_BY: "install-manifests", "app.kubernetes.io/name": "desktopstream"})
}

/// Metadata of an object in our namespace.
fn ours(options: &Options, name: &str) -> Value {
    json!({"name": name, "namespace": options.namespace, "labels": labels()})
}

/// Metadata of an object of the whole cluster.
fn everywhere(name: &str) -> Value {
    json!({"name": name, "labels": labels()})
}

#[cfg(test)]
mod tests;
