//! Who may do what: one role per component, no verb that isn't used.

use serde_json::{Value, json};

use super::{CONFIGURATION, NODE, OPERATOR, Options, everywhere, labels, ours};
use operator_api::{GROUP, names};

pub(super) fn objects(options: &Options) -> Vec<Value> {
    let mut all = Vec::new();
    for (account, rules) in [(OPERATOR, operator()), (NODE, node())] {
        all.push(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": ours(options, account)}));
        all.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": everywhere(account), "rules": rules,
        }));
        all.push(binding(options, "ClusterRole", account, &everywhere(account)));
    }
    all.push(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": ours(options, OPERATOR), "rules": operator_at_home(),
    }));
    all.push(binding(options, "Role", OPERATOR, &ours(options, OPERATOR)));
    all.extend(own_node_only(options));
    all
}

fn binding(options: &Options, role: &str, account: &str, metadata: &Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": format!("{role}Binding"), "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": account},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": options.namespace}],
    })
}

/// To create by server-side apply takes both `create` and `patch`.
fn operator() -> Value {
    json!([
        rule("desktopstream.dev", &["desktopstreams"], &["list", "watch", "delete"]),
        rule("desktopstream.dev", &["hostagents"], &["list", "watch"]),
        rule("desktopstream.dev", &["desktopstreams/status", "hostagents/status"], &["patch"]),
        rule("desktopstream.dev", &["desktopstreams/finalizers"], &["update"]),
        rule("", &["pods", "services"], &["list", "watch", "create", "patch", "delete"]),
        rule("", &["persistentvolumeclaims"], &["list", "watch", "create", "patch"]),
        rule(
            "networking.k8s.io",
            &["ingresses", "networkpolicies"],
            &["list", "watch", "create", "patch", "delete"]
        ),
        rule("", &["secrets"], &["get", "create", "patch"]),
        rule("", &["nodes"], &["list", "watch"]),
        rule("events.k8s.io", &["events"], &["create", "patch"]),
        {
            "apiGroups": ["admissionregistration.k8s.io"],
            "resources": ["validatingwebhookconfigurations", "mutatingwebhookconfigurations"],
            "resourceNames": [CONFIGURATION], "verbs": ["get", "patch"],
        },
    ])
}

/// In its own namespace: Lease, public key, signing key and certificate, by name once they are made.
fn operator_at_home() -> Value {
    let named = |group: &str, resource: &str, name: &[&str], verbs: &[&str]| {
        let mut rule = rule(group, &[resource], verbs);
        rule["resourceNames"] = json!(name);
        rule
    };
    json!([
        rule("coordination.k8s.io", &["leases"], &["create"]),
        named("coordination.k8s.io", "leases", &[names::LEASE], &["get", "update", "patch"]),
        rule("", &["configmaps"], &["create"]),
        named("", "configmaps", &[names::PUBLIC_KEY_CONFIG_MAP], &["patch"]),
        named("", "secrets", &[names::SIGNING_KEY_SECRET, names::WEBHOOK_CERT_SECRET], &["update", "patch"]),
        named("apps", "deployments", &[OPERATOR], &["get"]),
    ])
}

fn node() -> Value {
    json!([rule("", &["nodes"], &["get", "patch"]), rule("desktopstream.dev", &["hostagents"], &["list"]),])
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

/// RBAC can't say "its own": a node-agent whose node was taken over would patch all nodes. Its token names the node that
/// it runs on, and this compares.
fn own_node_only(options: &Options) -> [Value; 2] {
    let account = format!("system:serviceaccount:{}:{NODE}", options.namespace);
    let extra = "authentication.kubernetes.io/node-name";
    let ours_only = |map: &str, old: &str| {
        format!(
            "variables.{map}.all(k, k.contains(\"{GROUP}/\") || (k in variables.{old} && variables.{old}[k] == variables.{map}[k])) \
             && variables.{old}.all(k, k.contains(\"{GROUP}/\") || k in variables.{map})"
        )
    };
    let variable = |name: &str, object: &str, map: &str| json!({"name": name, "expression": format!("{object}.metadata.?{map}.orValue({{}})")});
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": everywhere(NODE),
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["nodes"], "operations": ["UPDATE"],
            }]},
            "matchConditions": [{
                "name": "is-node-agent", "expression": format!("request.userInfo.username == '{account}'"),
            }],
            "variables": [
                variable("labels", "object", "labels"), variable("oldLabels", "oldObject", "labels"),
                variable("notes", "object", "annotations"), variable("oldNotes", "oldObject", "annotations"),
            ],
            "validations": [
                {
                    "expression": format!(
                        "\"{extra}\" in request.userInfo.extra && request.userInfo.extra[\"{extra}\"] == [request.name]"
                    ),
                    "message": "a node-agent may change its own Node only",
                },
                {
                    "expression": "object.?spec == oldObject.?spec",
                    "message": "a node-agent may not change a Node's spec",
                },
                {"expression": ours_only("labels", "oldLabels"), "message": "a node-agent may change labels of desktopstream.dev only"},
                {"expression": ours_only("notes", "oldNotes"), "message": "a node-agent may change annotations of desktopstream.dev only"},
            ],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": NODE, "labels": labels()},
        "spec": {"policyName": NODE, "validationActions": ["Deny"]},
    });
    [policy, binding]
}
