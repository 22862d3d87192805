//! What runs: the operator's Deployment, the node-agent's DaemonSet.

use serde_json::{Value, json};

use super::{CONFIGURATION, NODE, OPERATOR, Options, WEBHOOK, labels, ours};
use operator_node_agent::kubelet::FOLDER;

/// Where the operator serves its webhook.
const WEBHOOK_PORT: u16 = 9443;
/// Where it serves /metrics, /healthz and /readyz.
const METRICS_PORT: u16 = 8081;
/// Nobody, in images without users.
const UID: i64 = 65532;

pub(super) fn objects(options: &Options) -> Vec<Value> {
    vec![operator(options), webhook_service(options), node(options)]
}

fn selector(component: &str) -> Value {
    json!({"app.kubernetes.io/name": "desktopstream", "app.kubernetes.io/component": component})
}

fn pod_labels(component: &str) -> Value {
    let mut labels = labels();
    labels["app.kubernetes.io/component"] = component.into();
    labels
}

fn field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
}

fn container(options: &Options, name: &str, args: &[String]) -> Value {
    let mut container = json!({"name": name, "image": options.image, "command": ["operator"], "args": args});
    if let Some(policy) = &options.pull_policy {
        container["imagePullPolicy"] = policy.as_str().into();
    }
    container
}

fn operator(options: &Options) -> Value {
    let mut args = vec![
        "run".to_owned(),
        format!("--deployment={OPERATOR}"),
        format!("--metrics=0.0.0.0:{METRICS_PORT}"),
        format!("--webhook=0.0.0.0:{WEBHOOK_PORT}"),
        format!("--webhook-service={WEBHOOK}"),
        format!("--webhook-configuration={CONFIGURATION}"),
        format!("--sidecar-image={}", options.sidecar_image),
    ];
    args.extend(options.pull_policy.iter().map(|policy| format!("--sidecar-pull-policy={policy}")));
    args.extend(options.operator_args.iter().cloned());
    let mut container = container(options, "operator", &args);
    container["env"] =
        json!([field("POD_NAMESPACE", "metadata.namespace"), field("POD_NAME", "metadata.name")]);
    container["ports"] = json!([
        {"name": "metrics", "containerPort": METRICS_PORT}, {"name": "webhook", "containerPort": WEBHOOK_PORT},
    ]);
    container["livenessProbe"] =
        json!({"httpGet": {"path": "/healthz", "port": "metrics"}, "periodSeconds": 10});
    container["readinessProbe"] =
        json!({"httpGet": {"path": "/readyz", "port": "metrics"}, "periodSeconds": 5});
    container["resources"] =
        json!({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}});
    container["securityContext"] = json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": ours(options, OPERATOR),
        "spec": {
            "replicas": options.replicas,
            "selector": {"matchLabels": selector("operator")},
            "template": {
                "metadata": {"labels": pod_labels("operator")},
                "spec": {
                    "serviceAccountName": OPERATOR,
                    "securityContext": {"runAsNonRoot": true, "runAsUser": UID, "runAsGroup": UID},
                    "containers": [container],
                },
            },
        },
    })
}

fn webhook_service(options: &Options) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": ours(options, WEBHOOK),
        "spec": {
            "selector": selector("operator"),
            "ports": [{"name": "webhook", "port": 443, "targetPort": "webhook"}],
        },
    })
}

/// On the node's own network: its default gateway is, most often, the host.
fn node(options: &Options) -> Value {
    let mut args = vec![
        "node".to_owned(),
        format!("--dev={}", options.dev),
        format!("--sys={}", options.sys),
        format!("--plugin-dir={FOLDER}"),
    ];
    args.extend(options.node_args.iter().cloned());
    let mut container = container(options, "node", &args);
    container["env"] = json!([field("NODE_NAME", "spec.nodeName")]);
    container["resources"] =
        json!({"requests": {"cpu": "10m", "memory": "24Mi"}, "limits": {"memory": "128Mi"}});
    // Root, as the kubelet's folder is root's; without a capability or a device, as it opens none.
    container["securityContext"] = json!({
        "runAsUser": 0, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    });
    let read_only = |name: &str, path: &str| json!({"name": name, "mountPath": path, "readOnly": true});
    container["volumeMounts"] = json!([
        {"name": "plugins", "mountPath": FOLDER}, read_only("dev", &options.dev), read_only("sys", &options.sys),
    ]);
    let host =
        |name: &str, path: &str| json!({"name": name, "hostPath": {"path": path, "type": "Directory"}});
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": ours(options, NODE),
        "spec": {
            "selector": {"matchLabels": selector("node")},
            "template": {
                "metadata": {"labels": pod_labels("node")},
                "spec": {
                    "serviceAccountName": NODE, "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet",
                    "priorityClassName": "system-node-critical",
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [container],
                    "volumes": [host("plugins", FOLDER), host("dev", &options.dev), host("sys", &options.sys)],
                },
            },
        },
    })
}
