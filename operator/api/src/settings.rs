//! The settings of a stream, each with its default, which the apiserver writes into the stored object.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The GPU that the desktop draws with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Gpu {
    /// Which device nodes the pod gets.
    pub nodes: GpuNodes,
    /// Whose driver.
    pub class: GpuClass,
    /// How many; 0 draws on the CPU.
    #[schemars(range(min = 0, max = 8))]
    pub count: u32,
}

impl Default for Gpu {
    fn default() -> Self {
        Self { nodes: GpuNodes::RenderOnly, class: GpuClass::Any, count: 1 }
    }
}

/// Device nodes of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GpuNodes {
    /// The render node: draws, changes no display.
    RenderOnly,
    /// The card node, too.
    RenderAndCard,
}

/// Drivers, by family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum GpuClass {
    /// Whichever the node has.
    Any,
    /// `virtio_gpu`, in our VMs.
    Virtio,
    /// `i915`, `xe`.
    Intel,
    /// `amdgpu`, `radeon`.
    Amd,
    /// `nvidia`, `nouveau`.
    Nvidia,
}

/// How the picture is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Capture {
    /// From what.
    pub source: Source,
    /// Width in pixels, even; the desktop's own if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 64, max = 8192))]
    pub width: Option<u32>,
    /// Height in pixels, even; the desktop's own if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 64, max = 8192))]
    pub height: Option<u32>,
    /// Highest frame rate.
    #[schemars(range(min = 1, max = 240))]
    pub max_framerate: u32,
    /// Draw the cursor into the picture.
    pub cursor: bool,
    /// What counts as working.
    pub require: Require,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            source: Source::Auto,
            width: None,
            height: None,
            max_framerate: 60,
            cursor: true,
            require: Require::Any,
        }
    }
}

/// Where frames come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Source {
    /// Whatever the desktop has.
    Auto,
    /// Mutter's or a portal's PipeWire stream.
    PipeWire,
    /// wlr-screencopy.
    Wayland,
    /// A moving pattern of the sidecar's own; the desktop isn't looked at.
    TestPattern,
}

/// What counts as working.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Require {
    /// Any rung of the ladder.
    Any,
    /// Only resource IDs: no pixel leaves the VM.
    ZeroCopy,
}

/// How the picture is encoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Encode {
    /// As what.
    pub codec: Codec,
    /// Bit rate, kbit/s.
    #[schemars(range(min = 100, max = 200_000))]
    pub bitrate: u32,
    /// Longest time between keyframes, e.g. `10s`; `0s` makes them on demand only.
    #[schemars(regex(pattern = "^([0-9]+(ms|s|m))+$"), length(max = 16))]
    pub keyframe_interval: String,
    /// By whom.
    #[serde(rename = "where")]
    pub place: EncodeWhere,
}

impl Default for Encode {
    fn default() -> Self {
        Self {
            codec: Codec::H264,
            bitrate: 6000,
            keyframe_interval: "10s".to_owned(),
            place: EncodeWhere::Auto,
        }
    }
}

/// Video codecs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Codec {
    /// Every browser decodes it.
    H264,
}

/// Who encodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EncodeWhere {
    /// The host-agent if there is one, else the sidecar.
    Auto,
    /// The host-agent; without one the stream isn't ready.
    HostAgent,
    /// The sidecar.
    Sidecar,
}

/// Which host-agent serves the stream. With neither name nor selector, any that the node reaches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HostAgentRef {
    /// This one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub name: Option<String>,
    /// One with these labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// How the sidecar reaches it.
    pub transport: Transport,
}

impl Default for HostAgentRef {
    fn default() -> Self {
        Self { name: None, selector: None, transport: Transport::Auto }
    }
}

/// How a host-agent is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Transport {
    /// Whatever answers: vsock, then Unix, then TCP.
    Auto,
    /// vsock.
    Vsock,
    /// TCP.
    Tcp,
    /// A Unix socket in the pod.
    Unix,
}

/// Who may watch, and where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Viewers {
    /// The Service in front of the sidecar.
    pub service: Service,
    /// An Ingress in front of the Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Ingress>,
    /// What a viewer must show.
    pub auth: Auth,
    /// What viewers may speak.
    #[schemars(length(min = 1, max = 2), schema_with = "protocols")]
    pub protocols: Vec<Protocol>,
    /// Most viewers at once.
    #[schemars(range(min = 1, max = 1024))]
    pub max: u32,
}

impl Default for Viewers {
    fn default() -> Self {
        Self {
            service: Service::default(),
            ingress: None,
            auth: Auth::default(),
            protocols: vec![Protocol::WebSocket],
            max: 16,
        }
    }
}

fn protocols(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let item = Protocol::json_schema(generator);
    schemars::json_schema!({
        "type": "array", "items": item, "minItems": 1, "maxItems": 2, "x-kubernetes-list-type": "set",
    })
}

/// What viewers speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Protocol {
    /// WebSocket and WebCodecs; plain HTTP streams beside it.
    WebSocket,
}

/// The Service in front of the sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: ServiceType,
    /// Its port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Its annotations, e.g. for a load balancer.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Default for Service {
    fn default() -> Self {
        Self { kind: ServiceType::ClusterIP, port: 80, annotations: BTreeMap::new() }
    }
}

/// Types of Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// In the cluster only.
    ClusterIP,
    /// On a port of every node.
    NodePort,
    /// By the cloud's load balancer.
    LoadBalancer,
}

/// An Ingress in front of the Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ingress {
    /// Host name.
    #[schemars(
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"),
        length(max = 253)
    )]
    pub host: String,
    /// Ingress class; the cluster's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class_name: Option<String>,
    /// Secret with the certificate. Browsers decode video on HTTPS pages only, so have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub tls_secret_name: Option<String>,
    /// Its annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What a viewer must show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Auth {
    /// Which kind of proof.
    #[serde(rename = "type")]
    pub kind: AuthKind,
    /// Secret of yours with the token under `token`; we make one if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
}

impl Default for Auth {
    fn default() -> Self {
        Self { kind: AuthKind::Token, secret_name: None }
    }
}

/// Kinds of proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AuthKind {
    /// A token.
    Token,
    /// None: whoever reaches the Service may watch. For an Ingress that asks by itself.
    None,
}

/// How long the stream lives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Lifecycle {
    /// No pod runs; the home folder stays.
    pub suspended: bool,
    /// Suspended after so long without a viewer, e.g. `30m`. Annotate `desktopstream.dev/wake` to wake it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9]+(s|m|h))+$"), length(max = 16))]
    pub idle_timeout: Option<String>,
    /// Deleted so long after it was made, e.g. `8h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9]+(s|m|h))+$"), length(max = 16))]
    pub ttl: Option<String>,
}
