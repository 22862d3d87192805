//! The kind `DesktopStream`.

#![expect(clippy::duplicated_attributes, reason = "printer columns have the same keys")]

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Attach, Audio, Capture, Desktop, DesktopStreamStatus, Encode, Gpu, HostAgentRef, Lifecycle,
    OperatingMode, Viewers,
};

/// Desired state of a DesktopStream.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "desktopstream.dev",
    version = "v1alpha1",
    kind = "DesktopStream",
    namespaced,
    status = "DesktopStreamStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "DesktopStream streams a desktop that runs in a pod to web browsers.",
    shortname = "dstream",
    shortname = "dst",
    category = "streaming",
    printcolumn(name = "PHASE", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "FRAME-PATH", type_ = "string", json_path = ".status.capture.framePath"),
    printcolumn(name = "FPS", type_ = "integer", json_path = ".status.stats.fps"),
    printcolumn(name = "NODE", type_ = "string", json_path = ".status.nodeName"),
    printcolumn(name = "HOST-AGENT", type_ = "string", json_path = ".status.hostAgentName"),
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
    /// Desktop that the operator runs in a pod of its own. Exactly one of desktop and attach must be set. Cannot be
    /// added or removed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desktop: Option<Desktop>,
    /// Existing workload whose new pods get the sidecar injected. Exactly one of desktop and attach must be set.
    /// Cannot be added or removed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach: Option<Attach>,
    /// GPU that the desktop renders with.
    #[serde(default)]
    pub gpu: Gpu,
    /// How frames are captured from the compositor.
    #[serde(default)]
    pub capture: Capture,
    /// How video is encoded.
    #[serde(default)]
    pub encode: Encode,
    /// Host-agent that encodes the stream. If neither name nor selector is set, the operator chooses the least loaded
    /// host-agent that the pod's node reaches.
    #[serde(default)]
    pub host_agent: HostAgentRef,
    /// How viewers reach the stream and authenticate.
    #[serde(default)]
    pub viewers: Viewers,
    /// Sound of the desktop.
    #[serde(default)]
    pub audio: Audio,
    /// Whether the desktop runs. "Running" runs the pod; "Suspended" deletes the pod and keeps the home volume.
    #[serde(default)]
    pub operating_mode: OperatingMode,
    /// When the stream is suspended or deleted automatically.
    #[serde(default)]
    pub lifecycle: Lifecycle,
}
