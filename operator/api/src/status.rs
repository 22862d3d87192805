//! Observed state of a stream.

use contract::FramePath;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

/// Observed state of a DesktopStream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DesktopStreamStatus {
    /// Overall phase: "Pending", "Starting", "Streaming", "Degraded", "Failed", "Suspended", "Idle" or "Ended". Later
    /// versions may add phases. The conditions give the reason.
    #[serde(deserialize_with = "known", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub phase: Option<Phase>,
    /// Conditions of the stream. Types are DevicesReady, Paired, Capturing, Streaming and Ready, in the order in which
    /// they become true.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// Generation of the spec that this status was computed from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Name of the node that the pod runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Name of the pod that is streamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// Name of the HostAgent that the stream is paired with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_agent_name: Option<String>,
    /// URL of the viewer page, without the token.
    #[serde(rename = "viewerURL", skip_serializing_if = "Option::is_none")]
    pub viewer_url: Option<String>,
    /// Name of the Secret with the viewers' tokens under the keys token and, if it has one, view-only-token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub viewer_secret_name: Option<String>,
    /// Frame path and negotiated format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture: Option<CaptureStatus>,
    /// Statistics of the sidecar, rounded, renewed at most once per minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<Stats>,
    /// Time since which the stream has had no viewer. Set only if spec.lifecycle.idleTimeoutSeconds is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unwatched_since: Option<Time>,
    /// Time at which the idle timeout suspended the stream. Unset while the stream may run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_since: Option<Time>,
    /// Last value of the annotation desktopstream.dev/wake that was processed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub woken_by: Option<String>,
}

/// Reads a value that a later version may have written. Unknown values are absent: a status that cannot be read would keep the
/// stream from being reconciled.
fn known<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    let value = Option::<serde_json::Value>::deserialize(deserializer)?;
    Ok(value.and_then(|value| serde_json::from_value(value).ok()))
}

/// Conditions as a list keyed by type, which several writers can apply to.
pub(super) fn conditions(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let item = Condition::json_schema(generator);
    schemars::json_schema!({
        "type": "array", "items": item,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
    })
}

/// Overall phase of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The pod does not exist or has no node.
    Pending,
    /// The pod has a node; viewers get no video yet.
    Starting,
    /// Viewers get video as the spec requires.
    Streaming,
    /// The pod runs, but viewers get no video or not as the spec requires.
    Degraded,
    /// The stream cannot proceed until someone changes the spec or the cluster.
    Failed,
    /// Suspended by `spec.operatingMode`.
    Suspended,
    /// Suspended by the idle timeout.
    Idle,
    /// The desktop ended by itself.
    Ended,
}

/// Frame path and negotiated format.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CaptureStatus {
    /// Frame path in use. "ResourceId" sends resource IDs to the host; "Pixels" sends changed pixels to the host-agent;
    /// "Local" encodes in the sidecar.
    #[serde(deserialize_with = "known", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub frame_path: Option<FramePath>,
    /// Reason why a better frame path is not in use. Empty on the best one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Negotiated buffer type and pixel format.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub format: String,
    /// Frame width in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Frame height in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
}

/// Statistics of the sidecar, rounded so that a steady stream has a steady status.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Stats {
    /// Encoded frames per second.
    pub fps: u32,
    /// Bit rate in kbit/s.
    pub bitrate_kbps: u32,
    /// Median time from capture to access unit in milliseconds.
    pub latency_p50_ms: u32,
    /// 99th percentile of the time from capture to access unit in milliseconds.
    pub latency_p99_ms: u32,
    /// Bytes that cross the VM boundary per frame.
    pub bytes_per_frame_to_host: u64,
    /// Number of connected viewers.
    pub viewers: u32,
    /// Time at which the statistics were taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn status_of_a_later_version_is_read_without_its_new_values() {
        let status = json!({"phase": "Hibernating", "capture": {"framePath": "Teleport", "width": 4}, "nodeName": "n1"});
        let read: DesktopStreamStatus = serde_json::from_value(status).expect("reads");
        assert_eq!((read.phase, read.node_name.as_deref()), (None, Some("n1")));
        assert_eq!(read.capture, Some(CaptureStatus { width: Some(4), ..CaptureStatus::default() }));
        let status = json!({"phase": "Idle", "capture": {"framePath": "ResourceId"}});
        let read: DesktopStreamStatus = serde_json::from_value(status).expect("reads");
        assert_eq!(read.phase, Some(Phase::Idle));
        assert_eq!(read.capture.and_then(|it| it.frame_path), Some(FramePath::ResourceId));
    }
}
