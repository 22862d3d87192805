//! The desktop that the operator runs, or the workload that it attaches to.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    EnvVar, LocalObjectReference, ResourceRequirements, SecurityContext, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Container that runs the compositor. It runs unprivileged as uid 1000. XDG_RUNTIME_DIR is /run/desktop, which the
/// sidecar shares.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Desktop {
    /// Container image of the desktop. Exactly one of image and podTemplate must be set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,
    /// When the image is pulled: "Always", "IfNotPresent" or "Never". Defaults to the default of Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pull_policy")]
    pub image_pull_policy: Option<String>,
    /// Secrets in the stream's namespace that images are pulled with. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "pull_secrets")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Entrypoint of the container. Defaults to the entrypoint of the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub command: Vec<String>,
    /// Arguments of the entrypoint. Defaults to the command of the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub args: Vec<String>,
    /// Environment variables of the container. XDG_RUNTIME_DIR must not be set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "named_objects")]
    pub env: Vec<EnvVar>,
    /// CPU and memory requests and limits. GPUs are requested by spec.gpu.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "object")]
    pub resources: Option<ResourceRequirements>,
    /// Security context of the container. Fields that are not set default to values that the Pod Security Standard
    /// "restricted" accepts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "object")]
    pub security_context: Option<SecurityContext>,
    /// Additional volumes of the pod. Names must not start with desktopstream-. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "named_objects")]
    pub volumes: Vec<Volume>,
    /// Mounts of volumes in the container. The path /run/desktop must not be mounted. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "mounts")]
    pub volume_mounts: Vec<VolumeMount>,
    /// Labels that the pod's node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pod tolerates. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "objects")]
    pub tolerations: Vec<Toleration>,
    /// Persistent home volume. The home directory is lost with the pod if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<Home>,
    /// Pod template with a container named desktop, for pods that the other fields cannot express. The operator adds the
    /// sidecar, the shared runtime directory and the GPU. Must not be set together with the fields of a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pod_template")]
    pub pod_template: Option<serde_json::Value>,
}

/// Persistent home volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Home {
    /// Size of the volume, for example 10Gi. Can be increased if the storage class allows expansion; cannot be decreased.
    #[schemars(schema_with = "quantity")]
    pub size: Quantity,
    /// Name of the StorageClass. Defaults to the cluster's default class. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// Path at which the volume is mounted in the container; also the value of HOME unless env sets it.
    #[serde(default = "home_path")]
    #[schemars(regex(pattern = "^/[^:]+$"), length(max = 1024))]
    pub mount_path: String,
    /// Deletion policy of the volume. "Delete" deletes the PersistentVolumeClaim with the DesktopStream; "Keep" keeps it
    /// for later DesktopStreams of the same name, which use it and do not delete it.
    #[serde(default)]
    pub on_delete: OnDelete,
}

fn home_path() -> String {
    "/home/desktop".to_owned()
}

/// Deletion policy of a home volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnDelete {
    /// The claim is deleted.
    #[default]
    Delete,
    /// The claim is kept; a later DesktopStream of the same name uses it.
    Keep,
}

/// Existing workload whose new pods get the sidecar from the admission webhook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attach {
    /// Kind of the workload: "Deployment", "StatefulSet", "Job", or "Pod" for pods with the label
    /// desktopstream.dev/inject and the stream's name as its value.
    pub kind: WorkloadKind,
    /// Name of the workload, in the stream's namespace. Ignored for kind "Pod".
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Name of the container that runs the desktop. Defaults to the first container of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,
}

/// Kind of workload that `attach` can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WorkloadKind {
    /// Kind of apps/v1.
    Deployment,
    /// Kind of apps/v1.
    StatefulSet,
    /// Kind of batch/v1. The Job completes: the sidecar is a native sidecar container.
    Job,
    /// Pods with the label `desktopstream.dev/inject: NAME`.
    Pod,
}

/// An object of the Kubernetes API, unchecked: a full schema would be ten times as large as the rest. The webhook and
/// the apiserver check it when the pod is created.
fn object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn objects(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array", "maxItems": 64, "x-kubernetes-list-type": "atomic",
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    })
}

fn pull_secrets(_: &mut SchemaGenerator) -> Schema {
    keyed_objects("name", 16)
}

fn named_objects(_: &mut SchemaGenerator) -> Schema {
    keyed_objects("name", 256)
}

fn mounts(_: &mut SchemaGenerator) -> Schema {
    keyed_objects("mountPath", 64)
}

fn keyed_objects(key: &str, max: u32) -> Schema {
    json_schema!({
        "type": "array", "maxItems": max,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key],
        "items": {
            "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {key: {"type": "string", "minLength": 1, "maxLength": 1024}},
            "required": [key],
        },
    })
}

/// Grammar of `k8s.io/apimachinery/pkg/api/resource.Quantity`, without a sign.
fn quantity(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string", "maxLength": 32,
        "pattern": r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]+)?$",
    })
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
