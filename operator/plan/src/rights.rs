//! Rights that the author of a stream needs: those with which the author could create the stream's objects without the
//! operator. The webhook asks the apiserver for each; the chart's policy asks for the most important ones in CEL.
//!
//! Kubernetes itself lets everyone who creates pods use all Secrets, ConfigMaps, claims and ServiceAccounts of the namespace.
//! Here each named one is asked for, so that a role with `create pods` through streams only does not include them.

use std::collections::BTreeSet;

use operator_api::{DesktopStreamSpec, ServiceType, WorkloadKind};
use serde_json::Value;

/// Maximum number of rights of one stream, each of which costs a request.
pub const MAX: usize = 64;

/// Right in the stream's namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// Verb of the request.
    pub verb: &'static str,
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Plural of the kind.
    pub resource: &'static str,
    /// Name of the object; empty for any.
    pub name: String,
}

impl Right {
    fn new(verb: &'static str, group: &'static str, resource: &'static str, name: &str) -> Self {
        Self { verb, group, resource, name: name.to_owned() }
    }
}

impl std::fmt::Display for Right {
    /// `get secrets/NAME`, `create ingresses.networking.k8s.io`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if !self.name.is_empty() {
            write!(f, "/{}", self.name)?;
        }
        Ok(())
    }
}

/// Rights that the objects of `spec` need.
pub fn rights(spec: &DesktopStreamSpec) -> BTreeSet<Right> {
    let mut all = BTreeSet::new();
    if let Some(desktop) = &spec.desktop {
        all.insert(Right::new("create", "", "pods", ""));
        if desktop.home.is_some() {
            all.insert(Right::new("create", "", "persistentvolumeclaims", ""));
        }
        if let Some(account) = desktop.pod_template.as_ref().and_then(service_account) {
            // The verb by which the built-in role `edit` may act as a ServiceAccount.
            all.insert(Right::new("impersonate", "", "serviceaccounts", account));
        }
    }
    if let Some(attach) = &spec.attach {
        // Injection changes the pods of the workload. A pod with the label requests the sidecar by itself.
        match attach.kind {
            WorkloadKind::Deployment => {
                all.insert(Right::new("patch", "apps", "deployments", &attach.name));
            }
            WorkloadKind::StatefulSet => {
                all.insert(Right::new("patch", "apps", "statefulsets", &attach.name));
            }
            WorkloadKind::Job => {
                all.insert(Right::new("patch", "batch", "jobs", &attach.name));
            }
            WorkloadKind::Pod => {}
        }
    }
    let service = &spec.viewers.service;
    if service.kind != ServiceType::ClusterIP || !service.annotations.is_empty() {
        all.insert(Right::new("create", "", "services", ""));
    }
    if spec.viewers.ingress.is_some() {
        all.insert(Right::new("create", "networking.k8s.io", "ingresses", ""));
    }
    references(&serde_json::to_value(spec).unwrap_or_default(), &mut all);
    all
}

/// True if the change needs the rights of the new spec. Suspending, resuming and lifetimes need none: they start and stop what
/// an author with these rights asked for.
pub fn is_authored(old: &DesktopStreamSpec, new: &DesktopStreamSpec) -> bool {
    let old = DesktopStreamSpec {
        operating_mode: new.operating_mode,
        lifecycle: new.lifecycle.clone(),
        ..old.clone()
    };
    old != *new
}

/// ServiceAccount of a pod template, other than the namespace's `default`.
fn service_account(template: &Value) -> Option<&str> {
    let spec = &template["spec"];
    // The second field is the deprecated name of the first.
    let names = ["serviceAccountName", "serviceAccount"].map(|field| spec[field].as_str());
    names.into_iter().flatten().find(|name| !name.is_empty() && *name != "default")
}

/// Adds the rights to read each Secret, ConfigMap and claim that a value names, and to create claims of ephemeral volumes, by
/// the field names of the Kubernetes API. All volume types are covered, also those of later versions.
fn references(value: &Value, all: &mut BTreeSet<Right>) {
    if value["ephemeral"]["volumeClaimTemplate"].is_object() {
        all.insert(Right::new("create", "", "persistentvolumeclaims", ""));
    }
    let mut read = |resource: &'static str, name: &Value| {
        if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
            all.insert(Right::new("get", "", resource, name));
        }
    };
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match key.as_str() {
                    "secretName" | "tlsSecretName" => read("secrets", value),
                    "secret" | "secretRef" | "secretKeyRef" => read("secrets", &value["name"]),
                    key if key.ends_with("SecretRef") => read("secrets", &value["name"]),
                    "configMap" | "configMapRef" | "configMapKeyRef" => read("configmaps", &value["name"]),
                    "persistentVolumeClaim" => read("persistentvolumeclaims", &value["claimName"]),
                    "imagePullSecrets" => {
                        value.as_array().into_iter().flatten().for_each(|it| read("secrets", &it["name"]));
                    }
                    _ => {}
                }
            }
            map.values().for_each(|value| references(value, all));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, all)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::stream;

    fn named(changes: &Value) -> Vec<String> {
        rights(&stream(&json!({"spec": changes})).spec).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn plain_desktop_needs_the_right_to_create_pods_only() {
        assert_eq!(named(&json!({})), ["create pods"]);
    }

    #[test]
    fn every_object_and_reference_of_a_spec_needs_its_right() {
        let found = named(&json!({
            "desktop": {
                "home": {"size": "1Gi"},
                "imagePullSecrets": [{"name": "pull"}],
                "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "env", "key": "k"}}},
                        {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "env", "key": "k"}}}],
                "volumes": [{"name": "a", "secret": {"secretName": "volume"}},
                            {"name": "b", "configMap": {"name": "volume"}},
                            {"name": "c", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "csi"}}},
                            {"name": "e", "persistentVolumeClaim": {"claimName": "volume"}},
                            {"name": "d", "projected": {"sources": [{"secret": {"name": "part"}}, {"configMap": {"name": "part"}}]}}],
            },
            "viewers": {
                "auth": {"secretName": "viewers"}, "service": {"type": "LoadBalancer"},
                "ingress": {"host": "a.b", "tlsSecretName": "tls"},
            },
        }));
        let expected = [
            "create ingresses.networking.k8s.io",
            "create persistentvolumeclaims",
            "create pods",
            "create services",
            "get configmaps/env",
            "get configmaps/part",
            "get configmaps/volume",
            "get persistentvolumeclaims/volume",
            "get secrets/csi",
            "get secrets/env",
            "get secrets/part",
            "get secrets/pull",
            "get secrets/tls",
            "get secrets/viewers",
            "get secrets/volume",
        ];
        let mut found: Vec<&str> = found.iter().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn template_needs_the_rights_of_its_references_and_its_service_account() {
        let template =
            |spec: Value| named(&json!({"desktop": {"image": null, "podTemplate": {"spec": spec}}}));
        let found = template(json!({
            "serviceAccountName": "deployer",
            "containers": [{"name": "desktop", "envFrom": [{"secretRef": {"name": "all"}}, {"configMapRef": {"name": "all"}}]}],
        }));
        let expected =
            ["create pods", "get configmaps/all", "get secrets/all", "impersonate serviceaccounts/deployer"];
        assert_eq!(found, expected);
        let volume = json!({"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}});
        let found = template(json!({"containers": [], "volumes": [volume]}));
        assert_eq!(found, ["create persistentvolumeclaims", "create pods"]);
        assert_eq!(template(json!({"serviceAccountName": "default", "containers": []})), ["create pods"]);
        let old = template(json!({"serviceAccount": "deployer", "containers": []}));
        assert_eq!(old, ["create pods", "impersonate serviceaccounts/deployer"]);
    }

    #[test]
    fn attach_needs_the_right_to_change_the_workload() {
        let attach = |kind: &str| named(&json!({"desktop": null, "attach": {"kind": kind, "name": "kiosk"}}));
        assert_eq!(attach("Deployment"), ["patch deployments.apps/kiosk"]);
        assert_eq!(attach("Job"), ["patch jobs.batch/kiosk"]);
        assert!(attach("Pod").is_empty());
    }

    #[test]
    fn suspending_and_lifetimes_are_not_authored() {
        let spec = |changes: Value| stream(&json!({"spec": changes})).spec;
        let old = spec(json!({}));
        let stopped = spec(json!({"operatingMode": "Suspended", "lifecycle": {"ttlSeconds": 60}}));
        assert!(!is_authored(&old, &stopped) && !is_authored(&old, &old));
        assert!(is_authored(&old, &spec(json!({"desktop": {"image": "other"}}))));
    }
}
