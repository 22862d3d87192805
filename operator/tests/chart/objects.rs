//! Rendered objects and their invariants.

use std::collections::BTreeSet;

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
    ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use operator_api::HostAgent;
use serde::Serialize;
use serde::de::{Deserialize as _, DeserializeOwned};
use serde_json::Value;

/// The documents of one rendering.
pub struct Rendered {
    pub objects: Vec<Value>,
}

impl Rendered {
    pub fn read(text: &str) -> Self {
        let documents = serde_yaml_ng::Deserializer::from_str(text);
        let objects = documents.map(|document| Value::deserialize(document).expect("YAML"));
        let objects: Vec<_> = objects.filter(|object| !object.is_null()).collect();
        assert!(objects.len() > 5, "{text}");
        Self { objects }
    }

    pub fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.objects.iter().find(|it| it["kind"] == kind && it["metadata"]["name"] == name)
    }

    /// Asserts that every object is unique, of a known kind and without unknown fields.
    pub fn is_known_to_kubernetes(&self) {
        let mut seen = BTreeSet::new();
        for object in &self.objects {
            let (kind, metadata) = (text(&object["kind"]), &object["metadata"]);
            let key = (kind.clone(), metadata["namespace"].to_string(), metadata["name"].to_string());
            assert!(seen.insert(key.clone()), "twice: {key:?}");
            assert_eq!(metadata["labels"]["app.kubernetes.io/managed-by"], "Helm", "{key:?}");
            match kind.as_str() {
                "ServiceAccount" => assert_known_fields::<ServiceAccount>(object),
                "ClusterRole" => assert_known_fields::<ClusterRole>(object),
                "ClusterRoleBinding" => assert_known_fields::<ClusterRoleBinding>(object),
                "Role" => assert_known_fields::<Role>(object),
                "RoleBinding" => assert_known_fields::<RoleBinding>(object),
                "Deployment" => assert_known_fields::<Deployment>(object),
                "DaemonSet" => assert_known_fields::<DaemonSet>(object),
                "Pod" => assert_known_fields::<Pod>(object),
                "Service" => assert_known_fields::<Service>(object),
                "ConfigMap" => assert_known_fields::<ConfigMap>(object),
                "NetworkPolicy" => assert_known_fields::<NetworkPolicy>(object),
                "PodDisruptionBudget" => assert_known_fields::<PodDisruptionBudget>(object),
                "ValidatingWebhookConfiguration" => {
                    assert_known_fields::<ValidatingWebhookConfiguration>(object);
                }
                "MutatingWebhookConfiguration" => assert_known_fields::<MutatingWebhookConfiguration>(object),
                "ValidatingAdmissionPolicy" => assert_known_fields::<ValidatingAdmissionPolicy>(object),
                "ValidatingAdmissionPolicyBinding" => {
                    assert_known_fields::<ValidatingAdmissionPolicyBinding>(object);
                }
                "HostAgent" => {
                    drop(serde_json::from_value::<HostAgent>(object.clone()).expect("a HostAgent"));
                }
                // Kinds of other projects, which are rendered on request only.
                "ServiceMonitor" => assert!(object["spec"]["endpoints"][0]["port"] == "metrics"),
                "Certificate" => assert!(object["spec"]["issuerRef"]["name"].is_string()),
                other => assert_eq!(other, "", "a kind without a check"),
            }
        }
    }

    /// Asserts that referenced objects exist: accounts, roles, pods and ports of Services, Secrets of certificates.
    pub fn is_connected(&self) {
        let templates: Vec<&Value> =
            self.objects.iter().map(|it| &it["spec"]["template"]).filter(|it| it.is_object()).collect();
        for object in &self.objects {
            match text(&object["kind"]).as_str() {
                "ClusterRoleBinding" | "RoleBinding" => {
                    let role = &object["roleRef"];
                    assert!(self.find(&text(&role["kind"]), &text(&role["name"])).is_some(), "{role}");
                    let subject = &object["subjects"][0];
                    assert_eq!(subject["namespace"], "system");
                    assert!(self.find("ServiceAccount", &text(&subject["name"])).is_some(), "{subject}");
                }
                "Service" => {
                    let selected = templates.iter().find(|it| selects(&object["spec"]["selector"], it));
                    let selected = selected.expect("a Service has pods");
                    for port in object["spec"]["ports"].as_array().expect("ports") {
                        let ports = &selected["spec"]["containers"][0]["ports"];
                        let found = ports.as_array().expect("ports").iter();
                        assert!(found.clone().any(|it| it["name"] == port["targetPort"]), "{port}");
                    }
                }
                "Deployment" | "DaemonSet" => {
                    assert!(selects(&object["spec"]["selector"]["matchLabels"], &object["spec"]["template"]));
                }
                "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => {
                    for hook in object["webhooks"].as_array().expect("hooks") {
                        let service = text(&hook["clientConfig"]["service"]["name"]);
                        assert!(self.find("Service", &service).is_some(), "{service}");
                    }
                }
                "Certificate" => {
                    let secret = &object["spec"]["secretName"];
                    let volumes =
                        templates.iter().filter_map(|it| it["spec"]["volumes"].as_array()).flatten();
                    assert!(volumes.clone().any(|it| it["secret"]["secretName"] == *secret), "{secret}");
                }
                _ => {}
            }
            if let Some(spec) = pod_spec(object) {
                let account = text(&spec["serviceAccountName"]);
                assert!(self.find("ServiceAccount", &account).is_some(), "{account}");
                for container in containers(object) {
                    for mount in container["volumeMounts"].as_array().into_iter().flatten() {
                        let volumes = spec["volumes"].as_array().expect("volumes").iter();
                        assert!(volumes.clone().any(|it| it["name"] == mount["name"]), "{mount}");
                    }
                }
            }
        }
    }

    /// Asserts that no container is privileged. Only the node-agent runs as root and mounts folders of the node, because the
    /// kubelet's folder for device plugins belongs to root; it opens no devices.
    pub fn is_unprivileged(&self) {
        for object in &self.objects {
            let Some(spec) = pod_spec(object) else { continue };
            let name = text(&object["metadata"]["name"]);
            let is_node_agent = object["kind"] == "DaemonSet";
            assert!(spec["hostPID"].is_null() && spec["hostIPC"].is_null(), "{name}");
            assert_eq!(spec["hostNetwork"] == true, is_node_agent, "{name}");
            for volume in spec["volumes"].as_array().into_iter().flatten() {
                assert!(volume["hostPath"].is_null() || is_node_agent, "{name}: {volume}");
                let path = volume["hostPath"]["path"].as_str().unwrap_or_default();
                assert!(!["/", "/dev", "/etc", "/var", "/run", "/var/lib/kubelet"].contains(&path), "{path}");
            }
            for container in containers(object) {
                let security = &container["securityContext"];
                assert!(security["privileged"].is_null(), "{name}");
                assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
                assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
                assert_eq!(security["capabilities"], serde_json::json!({"drop": ["ALL"]}), "{name}");
                assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault", "{name}");
                assert_eq!(security["runAsNonRoot"] == true, !is_node_agent, "{name}");
            }
        }
    }
}

/// Pod spec of an object.
pub fn pod_spec(object: &Value) -> Option<&Value> {
    match object["kind"].as_str()? {
        "Pod" => Some(&object["spec"]),
        "Deployment" | "DaemonSet" => Some(&object["spec"]["template"]["spec"]),
        _ => None,
    }
}

pub fn containers(object: &Value) -> Vec<Value> {
    let all = pod_spec(object).and_then(|spec| spec["containers"].as_array());
    all.cloned().unwrap_or_default()
}

fn selects(selector: &Value, template: &Value) -> bool {
    let labels = &template["metadata"]["labels"];
    selector.as_object().expect("a selector").iter().all(|(key, value)| labels[key] == *value)
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

/// Asserts that reading and writing the object as its kind loses no field.
fn assert_known_fields<K: DeserializeOwned + Serialize>(object: &Value) {
    let typed: K = serde_json::from_value(object.clone())
        .unwrap_or_else(|error| super::panic_with(&[&object.to_string()], &error.to_string()));
    let again = serde_json::to_value(&typed).expect("JSON");
    kept(object, &again, &text(&object["kind"]));
}

fn kept(before: &Value, after: &Value, at: &str) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                let at = format!("{at}.{key}");
                kept(value, after.get(key).unwrap_or(&Value::Null), &at);
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            assert_eq!(before.len(), after.len(), "{at}");
            before.iter().zip(after).for_each(|(before, after)| kept(before, after, at));
        }
        // An empty list is written as null.
        (Value::Array(empty), Value::Null) if empty.is_empty() => {}
        _ => assert_eq!(before, after, "{at}: unknown field, or another type"),
    }
}
