//! What runs: a desktop of ours, or pods that exist.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    EnvVar, LocalObjectReference, ResourceRequirements, SecurityContext, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The container that runs the compositor. It runs as uid 1000 without privileges; its runtime folder
/// `/run/desktop` is shared with the sidecar.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Desktop {
    /// Its image. Give this or `podTemplate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,
    /// When the image is pulled; Kubernetes' default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pull_policy")]
    pub image_pull_policy: Option<String>,
    /// Secrets to pull images with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Instead of the image's entrypoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub command: Vec<String>,
    /// Arguments to the entrypoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub args: Vec<String>,
    /// Environment. `XDG_RUNTIME_DIR` is ours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), schema_with = "named_objects")]
    pub env: Vec<EnvVar>,
    /// CPU and memory. The GPU is asked for by `spec.gpu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "object")]
    pub resources: Option<ResourceRequirements>,
    /// Over ours, which is what the Pod Security Standard `restricted` asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "object")]
    pub security_context: Option<SecurityContext>,
    /// More volumes of the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), schema_with = "named_objects")]
    pub volumes: Vec<Volume>,
    /// Where the desktop sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), schema_with = "named_objects")]
    pub volume_mounts: Vec<VolumeMount>,
    /// Labels that the pod's node must have, besides ours.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pod bears.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), schema_with = "objects")]
    pub tolerations: Vec<Toleration>,
    /// A home folder that outlives the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<Home>,
    /// A whole pod template instead of the above: its container `desktop` is the desktop. We add the
    /// sidecar, the shared folder and the GPU. What is in it is Kubernetes' own, checked when the pod is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pod_template")]
    pub pod_template: Option<serde_json::Value>,
}

/// A persistent home folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Home {
    /// How big. May grow where the storage class lets it, never shrink.
    #[schemars(schema_with = "quantity")]
    pub size: Quantity,
    /// Its storage class; the cluster's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// Where the desktop sees it.
    #[serde(default = "home_path")]
    #[schemars(regex(pattern = "^/[^:]+$"), length(max = 1024))]
    pub mount_path: String,
    /// What becomes of it when the DesktopStream is deleted.
    #[serde(default)]
    pub on_delete: OnDelete,
}

fn home_path() -> String {
    "/home/desktop".to_owned()
}

/// What becomes of a home folder when its DesktopStream is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnDelete {
    /// It is deleted, too.
    #[default]
    Delete,
    /// The claim stays; a DesktopStream of the same name finds it again.
    Keep,
}

/// A workload that exists, whose new pods get the sidecar from the webhook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attach {
    /// Kind of the workload.
    pub kind: WorkloadKind,
    /// Its name, in this namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The container that runs the desktop; the first one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,
}

/// Kinds that `attach` can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WorkloadKind {
    /// apps/v1.
    Deployment,
    /// apps/v1.
    StatefulSet,
    /// batch/v1; it ends, because the sidecar is a native one.
    Job,
    /// Pods labelled `desktopstream.dev/inject: NAME`, whoever makes them.
    Pod,
}

/// Kubernetes' own types in full would make the schema ten times as long as all of ours; the apiserver
/// checks them when the pod is made, the webhook before.
fn object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn objects(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array", "maxItems": 64,
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    })
}

fn named_objects(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array", "maxItems": 256,
        "items": {
            "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 1024}},
            "required": ["name"],
        },
    })
}

fn quantity(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": 32, "pattern": r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$"})
}

fn pull_policy(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Always", "IfNotPresent", "Never"]})
}

fn pod_template(generator: &mut SchemaGenerator) -> Schema {
    let containers = named_objects(generator);
    json_schema!({
        "type": "object", "x-kubernetes-preserve-unknown-fields": true, "required": ["spec"],
        "properties": {"spec": {
            "type": "object", "x-kubernetes-preserve-unknown-fields": true, "required": ["containers"],
            "properties": {"containers": containers},
        }},
    })
}
