//! Settings of a stream and their defaults, which the apiserver writes into the stored object.

use contract::display::SizePolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// GPU that the desktop renders with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Gpu {
    /// Device nodes of each GPU that are mapped into the containers. "RenderOnly" maps the render node; "RenderAndCard"
    /// also maps the card node, which some compositors need to start.
    pub device_nodes: DeviceNodes,
    /// Driver family of the GPU: "Any", "Virtio" (virtio_gpu), "Intel" (i915, xe), "Amd" (amdgpu, radeon) or
    /// "Nvidia" (nvidia, nouveau).
    pub class: GpuClass,
    /// Number of GPUs. 0 renders on the CPU. Must be between 0 and 8.
    #[schemars(range(min = 0, max = 8))]
    pub count: u32,
}

impl Default for Gpu {
    fn default() -> Self {
        Self { device_nodes: DeviceNodes::RenderOnly, class: GpuClass::Any, count: 1 }
    }
}

/// Device nodes of a GPU that a container gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeviceNodes {
    /// The render node, which cannot change displays.
    RenderOnly,
    /// The render node and the card node.
    RenderAndCard,
}

/// Driver family of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum GpuClass {
    /// Any family.
    Any,
    /// `virtio_gpu`, in a VM.
    Virtio,
    /// `i915`, `xe`.
    Intel,
    /// `amdgpu`, `radeon`.
    Amd,
    /// `nvidia`, `nouveau`.
    Nvidia,
}

/// How frames are captured from the compositor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Capture {
    /// Capture interface. "Auto" uses the first one that the compositor offers; "PipeWire" uses Mutter's or a portal's
    /// PipeWire stream; "Wayland" uses wlr-screencopy; "TestPattern" streams a moving pattern without a compositor.
    pub source: Source,
    /// Frame width in pixels. Must be even and between 64 and 8192. Must be set together with height. Defaults to the
    /// width of the desktop's output.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 64, max = 8192))]
    pub width: Option<u32>,
    /// Frame height in pixels. Must be even and between 64 and 8192. Must be set together with width. Defaults to the
    /// height of the desktop's output.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 64, max = 8192))]
    pub height: Option<u32>,
    /// Size of the desktop while viewers are connected. "Fixed" keeps it; "FollowViewer" gives the desktop the size and scale
    /// of the window of the viewer in control, up to 4096 pixels per side, and starts with width and height.
    #[schemars(schema_with = "size")]
    pub size: SizePolicy,
    /// Maximum frame rate in frames per second. Must be between 1 and 240.
    #[schemars(range(min = 1, max = 240))]
    pub max_framerate: u32,
    /// How the pointer is shown. "Embedded" draws it into the video; "Viewer" lets the viewers' page draw it, so that it moves
    /// without delay, where the compositor delivers it apart from the picture (GNOME Shell), and otherwise draws it into the
    /// video; "Hidden" leaves it out.
    pub cursor: Cursor,
    /// Frame path that the stream must use to be ready. "Any" accepts every frame path; "ZeroCopy" accepts only
    /// ResourceId, where no pixels leave the VM.
    pub require: Require,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            source: Source::Auto,
            width: None,
            height: None,
            size: SizePolicy::default(),
            max_framerate: 60,
            cursor: Cursor::Embedded,
            require: Require::Any,
        }
    }
}

fn size(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "enum": SizePolicy::ALL})
}

/// Capture interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Source {
    /// The first one that the compositor offers.
    Auto,
    /// A PipeWire stream of Mutter or a portal.
    PipeWire,
    /// The wlr-screencopy protocol.
    Wayland,
    /// A moving pattern that the sidecar draws.
    TestPattern,
}

/// How the pointer is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Cursor {
    /// Drawn into the video.
    Embedded,
    /// Drawn by the viewers' page.
    Viewer,
    /// Left out.
    Hidden,
}

/// Frame path that a stream must use to be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Require {
    /// Every frame path.
    Any,
    /// `ResourceId` only.
    ZeroCopy,
}

/// How video is encoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Encode {
    /// Video codec. "H264" is decoded by every browser.
    pub codec: Codec,
    /// Target bit rate in kbit/s. Must be between 100 and 200000.
    #[schemars(range(min = 100, max = 200_000))]
    pub bitrate_kbps: u32,
    /// Maximum time between keyframes in milliseconds. 0 sends keyframes on demand only. Must be between 0 and 3600000.
    #[schemars(range(min = 0, max = 3_600_000))]
    pub keyframe_interval_milliseconds: u32,
    /// Where video is encoded. "Auto" uses the host-agent if one is paired and otherwise the sidecar; "HostAgent"
    /// requires a host-agent; "Sidecar" encodes in the pod.
    pub placement: Placement,
}

impl Default for Encode {
    fn default() -> Self {
        Self {
            codec: Codec::H264,
            bitrate_kbps: 6000,
            keyframe_interval_milliseconds: 10_000,
            placement: Placement::Auto,
        }
    }
}

/// Sound of the desktop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Audio {
    /// Lets viewers listen to the desktop. Sound is captured while a viewer listens only.
    pub output: bool,
}

impl Default for Audio {
    fn default() -> Self {
        Self { output: true }
    }
}

/// Video codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Codec {
    /// H.264 (AVC).
    H264,
}

/// Where video is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Placement {
    /// The host-agent if one is paired, otherwise the sidecar.
    Auto,
    /// The host-agent.
    HostAgent,
    /// The sidecar.
    Sidecar,
}

/// Host-agent that encodes a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HostAgentRef {
    /// Name of the HostAgent. Must not be set together with selector. A stream that names a HostAgent is ready only
    /// while it is paired.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub name: Option<String>,
    /// Selects HostAgents by their labels. Must not be set together with name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Transport of the connection from the sidecar to the host-agent. "Auto" uses the first endpoint that the node
    /// reaches; "Vsock", "Tcp" and "Unix" use only endpoints of that kind.
    pub transport: Transport,
}

impl Default for HostAgentRef {
    fn default() -> Self {
        Self { name: None, selector: None, transport: Transport::Auto }
    }
}

/// Transport of the connection to a host-agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Transport {
    /// The first endpoint that the node reaches.
    Auto,
    /// A vsock connection.
    Vsock,
    /// A TCP connection.
    Tcp,
    /// A Unix socket in the pod.
    Unix,
}

/// Desired run state of a desktop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OperatingMode {
    /// The pod runs.
    #[default]
    Running,
    /// The pod is deleted; the home volume is kept.
    Suspended,
}

/// When a stream is suspended or deleted automatically.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Lifecycle {
    /// Time in seconds without a viewer after which the pod is deleted. A new value of the annotation
    /// desktopstream.dev/wake, or a change of the spec, starts it again. Never if unset. Must be between 1 and 31622400.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_622_400))]
    pub idle_timeout_seconds: Option<u32>,
    /// Time in seconds after creation at which the DesktopStream is deleted. Never if unset. Must be between 1 and
    /// 31622400.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_622_400))]
    pub ttl_seconds: Option<u64>,
}

impl Lifecycle {
    /// Longest idle timeout and TTL in seconds: a leap year.
    pub const MAX_SECONDS: u64 = 366 * 24 * 3600;
}
