//! What a stream is up to, as users read it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is so.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DesktopStreamStatus {
    /// The whole in one word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// DevicesReady, Paired, Capturing, Streaming, Ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the pod runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The host-agent that the stream is paired with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_agent: Option<String>,
    /// Where to watch, without the token.
    #[serde(rename = "viewerURL", skip_serializing_if = "Option::is_none")]
    pub viewer_url: Option<String>,
    /// Secret with the viewers' token under `token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub viewer_secret: Option<String>,
    /// The picture's way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture: Option<CaptureStatus>,
    /// Numbers, renewed at a modest rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<Stats>,
    /// Since when nobody watches; set only with an idle timeout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unwatched_since: Option<Time>,
    /// When the idle timeout took the pod away; absent while it may run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_since: Option<Time>,
    /// The last `desktopstream.dev/wake` that was heeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub woken_by: Option<String>,
}

/// A `Condition` list keyed by type, so that two writers don't erase each other's.
fn conditions(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let item = Condition::json_schema(generator);
    schemars::json_schema!({
        "type": "array", "items": item,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
    })
}

/// The whole in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// There is no pod yet, or it has no node.
    Pending,
    /// The pod has a node; there is no picture yet.
    Starting,
    /// There is a picture.
    Streaming,
    /// The pod runs and the picture is missing or not what was asked for; see the conditions.
    Degraded,
    /// Nothing will happen until somebody changes something; see the conditions.
    Failed,
    /// Suspended by `spec.lifecycle.suspended`.
    Suspended,
    /// Suspended by the idle timeout.
    Idle,
    /// The desktop ended by itself.
    Ended,
}

/// How frames travel, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Rung {
    /// Their resource IDs go to the host.
    ResourceId,
    /// Their pixels go to the host-agent.
    Pixels,
    /// They are encoded in the sidecar.
    Local,
}

/// The picture's way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CaptureStatus {
    /// The rung in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rung: Option<Rung>,
    /// Why no better one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The buffers' format.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub format: String,
    /// WIDTHxHEIGHT.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub size: String,
}

/// Numbers of the sidecar, rounded, so that a steady stream has a steady status.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Stats {
    /// Frames per second.
    pub fps: u32,
    /// kbit/s.
    pub bitrate: u32,
    /// Capture to access unit, median, ms.
    pub latency_p50_ms: u32,
    /// Capture to access unit, 99th percentile, ms.
    pub latency_p99_ms: u32,
    /// Bytes to the host per frame.
    pub bytes_per_frame_to_host: u64,
    /// Viewers.
    pub viewers: u32,
    /// When these numbers were taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}
