//! `DesktopStream`: one desktop's video, from compositor to viewers.

#![expect(clippy::duplicated_attributes, reason = "printcolumns have the same keys")]

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Attach, Capture, Desktop, DesktopStreamStatus, Encode, Gpu, HostAgentRef, Lifecycle, Viewers};

/// What is wanted.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "desktopstream.dev",
    version = "v1alpha1",
    kind = "DesktopStream",
    namespaced,
    status = "DesktopStreamStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "A desktop in a pod, streamed to browsers.",
    shortname = "dstream",
    shortname = "dst",
    category = "streaming",
    printcolumn(name = "PHASE", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "RUNG", type_ = "string", json_path = ".status.capture.rung"),
    printcolumn(name = "FPS", type_ = "number", json_path = ".status.stats.fps"),
    printcolumn(name = "NODE", type_ = "string", json_path = ".status.node"),
    printcolumn(name = "HOST-AGENT", type_ = "string", json_path = ".status.hostAgent"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.viewerURL", priority = 1),
    printcolumn(
        name = "REASON",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1
    ),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DesktopStreamSpec {
    /// The desktop that we run. Give this or `attach`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desktop: Option<Desktop>,
    /// Pods of others that get the sidecar injected. Give this or `desktop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach: Option<Attach>,
    /// The GPU that the desktop draws with.
    #[serde(default)]
    pub gpu: Gpu,
    /// How its picture is taken.
    #[serde(default)]
    pub capture: Capture,
    /// How it is encoded.
    #[serde(default)]
    pub encode: Encode,
    /// Which host-agent serves it.
    #[serde(default)]
    pub host_agent: HostAgentRef,
    /// Who may watch, and where.
    #[serde(default)]
    pub viewers: Viewers,
    /// How long it lives.
    #[serde(default)]
    pub lifecycle: Lifecycle,
}
