//! `operator install-manifests`: the Helm chart as plain objects.
//!
//! `install/manifests.json` is the chart, rendered with the placeholders below; `tests/chart` regenerates it. This module
//! replaces the placeholders and applies the options.

use clap::Args;
use operator_api::{crds, names};
use serde_json::{Value, json};

use crate::cli::policy::PolicyArgs;

/// The rendered chart.
const CHART: &str = include_str!("install/manifests.json");

/// Namespace in [`CHART`].
const NAMESPACE: &str = "placeholder-namespace";
/// Image of operator and node-agent in [`CHART`].
const IMAGE: &str = "placeholder.invalid/operator:placeholder";
/// Image of the sidecar in [`CHART`].
const SIDECAR_IMAGE: &str = "placeholder.invalid/sidecar:placeholder";
/// Folder of device files in [`CHART`].
const DEV: &str = "/placeholder/dev";
/// Folder of sysfs in [`CHART`].
const SYS: &str = "/placeholder/sys";

/// Value of the label `app.kubernetes.io/managed-by`.
const MANAGER: &str = "install-manifests";

/// Options of `install-manifests`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Namespace to install to
    #[arg(long, default_value = "desktopstream")]
    pub namespace: String,
    /// Image of operator and node-agent
    #[arg(long, default_value = concat!("desktopstream/operator:", env!("CARGO_PKG_VERSION")))]
    pub image: String,
    /// Image of the sidecar
    #[arg(long, default_value = concat!("desktopstream/sidecar:", env!("CARGO_PKG_VERSION")))]
    pub sidecar_image: String,
    /// Pull policy of all images: Always, IfNotPresent or Never
    #[arg(long)]
    pub pull_policy: Option<String>,
    /// Number of operators, of which one leads and all serve the webhook
    #[arg(long, default_value_t = 2)]
    pub replicas: u32,
    /// Limits on what streams may ask for
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Additional argument of `operator run`; can be repeated
    #[arg(long = "operator-arg", allow_hyphen_values = true)]
    pub operator_args: Vec<String>,
    /// Additional argument of `operator node`; can be repeated
    #[arg(long = "node-arg", allow_hyphen_values = true)]
    pub node_args: Vec<String>,
    /// The nodes' /dev
    #[arg(long, default_value = "/dev")]
    pub dev: String,
    /// The nodes' /sys
    #[arg(long, default_value = "/sys")]
    pub sys: String,
}

/// Error while manifests are generated.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A CustomResourceDefinition cannot be generated.
    #[error(transparent)]
    Crd(#[from] crds::CrdError),
    /// The manifests cannot be written as YAML.
    #[error("cannot write the manifests as YAML: {0}")]
    Yaml(#[from] serde_yaml_ng::Error),
    /// The embedded manifests or a definition cannot be processed as JSON.
    #[error("cannot process the manifests as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// All objects, in an order in which they can be applied.
///
/// # Errors
/// If the embedded manifests or definitions cannot be processed.
pub fn objects(options: &Options) -> Result<Vec<Value>, InstallError> {
    let mut all = vec![namespace(options)];
    for crd in crds::all().map_err(crds::CrdError::from)? {
        all.push(serde_json::to_value(crd)?);
    }
    let chart: Vec<Value> = serde_json::from_str(CHART)?;
    for mut object in chart.into_iter().filter(|object| is_installed(object, options)) {
        replace_placeholders(&mut object, options);
        apply_options(&mut object, options);
        all.push(object);
    }
    Ok(all)
}

fn replace_placeholders(value: &mut Value, options: &Options) {
    match value {
        Value::String(text) if text.contains("placeholder") => {
            *text = text
                .replace(NAMESPACE, &options.namespace)
                .replace(SIDECAR_IMAGE, &options.sidecar_image)
                .replace(IMAGE, &options.image)
                .replace(DEV, options.dev.trim_end_matches('/'))
                .replace(SYS, options.sys.trim_end_matches('/'));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| replace_placeholders(value, options)),
        Value::Object(map) => map.values_mut().for_each(|value| replace_placeholders(value, options)),
        _ => {}
    }
}

/// All objects as one stream of YAML documents.
///
/// # Errors
/// If the embedded manifests or definitions cannot be processed.
pub fn stream(options: &Options) -> Result<String, InstallError> {
    let mut text = String::new();
    for object in objects(options)? {
        text += "---\n";
        text += &serde_yaml_ng::to_string(&object)?;
    }
    Ok(text)
}

/// The namespace. The node-agent mounts folders of its node, which only the Pod Security Standard `privileged` allows.
fn namespace(options: &Options) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": options.namespace, "labels": {
            names::MANAGED_BY: MANAGER,
            "app.kubernetes.io/name": "desktopstream",
            "pod-security.kubernetes.io/enforce": "privileged",
        }},
    })
}

/// False for objects of `helm test`, and for the disruption budget of a single replica.
fn is_installed(object: &Value, options: &Options) -> bool {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let is_budget = object["kind"] == "PodDisruptionBudget";
    !name.ends_with("-check") && (!is_budget || options.replicas > 1)
}

fn apply_options(object: &mut Value, options: &Options) {
    relabel(&mut object["metadata"]["labels"]);
    let args = match object["kind"].as_str() {
        Some("Deployment") => {
            object["spec"]["replicas"] = options.replicas.into();
            let pull = options.pull_policy.iter().map(|policy| format!("--sidecar-pull-policy={policy}"));
            let limits = policy_arguments(&options.policy);
            pull.chain(limits).chain(options.operator_args.iter().cloned()).collect::<Vec<_>>()
        }
        Some("DaemonSet") => options.node_args.clone(),
        Some("ValidatingAdmissionPolicy") => {
            set_limits(&mut object["spec"]["variables"], &options.policy);
            return;
        }
        _ => return,
    };
    let template = &mut object["spec"]["template"];
    relabel(&mut template["metadata"]["labels"]);
    for container in template["spec"]["containers"].as_array_mut().into_iter().flatten() {
        if let Some(policy) = &options.pull_policy {
            container["imagePullPolicy"] = policy.as_str().into();
        }
        if let Some(list) = container["args"].as_array_mut() {
            for arg in &args {
                set_argument(list, arg);
            }
        }
    }
}

/// Arguments of `operator run` that set the limits on streams.
fn policy_arguments(policy: &PolicyArgs) -> Vec<String> {
    let PolicyArgs { pod_security, card_nodes, annotations, hosts } = policy;
    let mut arguments = vec![
        format!("--pod-security={}", pod_security.name()),
        format!("--card-nodes={card_nodes}"),
        format!("--allowed-host={}", hosts.join(",")),
    ];
    if !annotations.is_empty() {
        arguments.push(format!("--allowed-annotation={}", annotations.join(",")));
    }
    arguments
}

/// Sets the same limits in the policy of the apiserver. JSON of these types is CEL too.
fn set_limits(variables: &mut Value, policy: &PolicyArgs) {
    let PolicyArgs { pod_security, card_nodes, annotations, hosts } = policy;
    let values = [
        ("podSecurity", json!(pod_security.name())),
        ("cardNodes", json!(card_nodes)),
        ("annotations", json!(annotations)),
        ("ingressHosts", json!(hosts)),
    ];
    for variable in variables.as_array_mut().into_iter().flatten() {
        if let Some((_, value)) = values.iter().find(|(name, _)| variable["name"] == *name) {
            variable["expression"] = value.to_string().into();
        }
    }
}

/// Replaces the argument with the same flag, or appends a new one. A flag that can be repeated is always appended.
fn set_argument(args: &mut Vec<Value>, new: &str) {
    let flag = |arg: &str| arg.split('=').next().unwrap_or_default().to_owned();
    let same = |arg: &&mut Value| arg.as_str().is_some_and(|arg| flag(arg) == flag(new));
    match args.iter_mut().find(same).filter(|_| flag(new) != "--driver") {
        Some(old) => *old = new.into(),
        None => args.push(new.into()),
    }
}

/// Replaces the labels by which Helm recognizes its objects.
fn relabel(labels: &mut Value) {
    if let Some(labels) = labels.as_object_mut() {
        labels.remove("helm.sh/chart");
        labels.insert(names::MANAGED_BY.to_owned(), MANAGER.into());
    }
}

#[cfg(test)]
mod tests;
