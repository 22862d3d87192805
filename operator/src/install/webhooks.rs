//! What the apiserver asks us. The operator adds its certificate's authority.

use serde_json::{Value, json};

use super::{CONFIGURATION, Options, WEBHOOK, everywhere};
use operator_api::{GROUP, VERSION, names};

pub(super) fn objects(options: &Options) -> Vec<Value> {
    vec![validating(options), mutating(options)]
}

fn hook(options: &Options, name: &str, path: &str, failure_policy: &str) -> Value {
    json!({
        "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "failurePolicy": failure_policy, "timeoutSeconds": 5,
        "clientConfig": {"service": {"name": WEBHOOK, "namespace": options.namespace, "path": path}},
    })
}

/// Fail-closed, and about our own kind only.
fn validating(options: &Options) -> Value {
    let mut hook = hook(options, "validate.desktopstream.dev", "/validate", "Fail");
    hook["rules"] = json!([{
        "apiGroups": [GROUP], "apiVersions": [VERSION], "resources": ["desktopstreams"],
        "operations": ["CREATE", "UPDATE"], "scope": "Namespaced",
    }]);
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": everywhere(CONFIGURATION), "webhooks": [hook],
    })
}

/// Fail-open: a pod of others is never held up by us. Only pods that ask for it, and never in our own namespace.
fn mutating(options: &Options) -> Value {
    let elsewhere = json!({
        "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [options.namespace, "kube-system"],
    });
    let pods = json!([{
        "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"],
        "scope": "Namespaced",
    }]);
    let mut labelled = hook(options, "pods.inject.desktopstream.dev", "/inject", "Ignore");
    labelled["objectSelector"] = json!({"matchExpressions": [{"key": names::INJECT, "operator": "Exists"}]});
    labelled["namespaceSelector"] = json!({"matchExpressions": [elsewhere]});
    // Pods of workloads that a stream names in spec.attach, in namespaces that allow it.
    let mut owned = hook(options, "workloads.inject.desktopstream.dev", "/inject", "Ignore");
    owned["objectSelector"] = json!({"matchExpressions": [
        {"key": names::INJECT, "operator": "DoesNotExist"}, {"key": names::STREAM, "operator": "DoesNotExist"},
    ]});
    owned["namespaceSelector"] =
        json!({"matchLabels": {names::INJECT: "enabled"}, "matchExpressions": [elsewhere]});
    for hook in [&mut labelled, &mut owned] {
        hook["reinvocationPolicy"] = "IfNeeded".into();
        hook["rules"] = pods.clone();
    }
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": everywhere(CONFIGURATION), "webhooks": [labelled, owned],
    })
}
