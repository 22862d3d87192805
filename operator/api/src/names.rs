//! Every label, annotation and name that we leave in a cluster.

use super::GpuClass;

/// Whose fields we own in server-side apply.
pub const FIELD_MANAGER: &str = "desktopstream";
/// The node-agent's, on its node.
pub const NODE_FIELD_MANAGER: &str = "desktopstream-node";
/// Who reports events.
pub const REPORTER: &str = "desktopstream.dev/operator";

/// Label of all that we make, and its value.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`].
pub const MANAGER: &str = "desktopstream";
/// Label: which stream an object belongs to.
pub const STREAM: &str = "desktopstream.dev/stream";
/// Label on pods and their templates: inject the sidecar of this stream.
pub const INJECT: &str = "desktopstream.dev/inject";
/// Annotation: the pod has been injected, by this generation of the stream's spec.
pub const INJECTED: &str = "desktopstream.dev/injected";
/// Annotation on pods: a digest of the part of the spec that the pod was made from.
pub const SHAPE: &str = "desktopstream.dev/shape";
/// Annotation on pods: the same part, to say later what changed.
pub const SHAPE_SPEC: &str = "desktopstream.dev/shape-spec";
/// Annotation on pods: the host-agent that they were placed for.
pub const PLACED_FOR: &str = "desktopstream.dev/host-agent";
/// Annotation on a stream: any new value wakes it from idleness.
pub const WAKE: &str = "desktopstream.dev/wake";
/// Annotation on token Secrets: when the token expires, Unix seconds.
pub const TOKEN_EXPIRES: &str = "desktopstream.dev/token-expires";
/// Annotation on token Secrets: when the token was made, Unix seconds.
pub const TOKEN_ISSUED: &str = "desktopstream.dev/token-issued";

/// Node label: the group that owns its render nodes.
pub const NODE_RENDER_GID: &str = "desktopstream.dev/render-gid";
/// Node label: `true` when its GPU draws in 3D.
pub const NODE_3D: &str = "desktopstream.dev/gpu-3d";
/// Prefix of node labels: `gpu.desktopstream.dev/CLASS: "COUNT"`.
pub const NODE_GPU_PREFIX: &str = "gpu.desktopstream.dev/";
/// Prefix of node labels: `host-agent.desktopstream.dev/NAME: reachable`.
pub const NODE_HOST_AGENT_PREFIX: &str = "host-agent.desktopstream.dev/";
/// Value of such a label.
pub const REACHABLE: &str = "reachable";
/// Node annotation: all facts as JSON.
pub const NODE_FACTS: &str = "desktopstream.dev/facts";

/// Domain of our extended resources.
pub const RESOURCE_DOMAIN: &str = "desktopstream.dev";

/// The container that runs the desktop.
pub const DESKTOP_CONTAINER: &str = "desktop";
/// The container that streams it.
pub const SIDECAR_CONTAINER: &str = "desktopstream-sidecar";
/// The folder that both share, and its volume.
pub const RUNTIME_DIR: &str = "/run/desktop";
/// Volume of [`RUNTIME_DIR`].
pub const RUNTIME_VOLUME: &str = "desktopstream-runtime";
/// Where the sidecar finds its tokens.
pub const SECRETS_DIR: &str = "/run/desktopstream";
/// The sidecar's port.
pub const VIEWER_PORT: u16 = 8080;
/// Where a host-agent listens unless its object says otherwise.
pub const HOST_AGENT_PORT: u16 = 15937;
/// The user that desktops and sidecars run as, and its group.
pub const UID: i64 = 1000;

/// Lease of the operator that leads.
pub const LEASE: &str = "desktopstream-operator";
/// Secret with the private key that signs tokens for host-agents, under `key.pem`.
pub const SIGNING_KEY_SECRET: &str = "desktopstream-signing-key";
/// ConfigMap with the public key that verifies them, under `key.pem.pub`.
pub const PUBLIC_KEY_CONFIG_MAP: &str = "desktopstream-public-key";
/// Secret with the webhook's certificate.
pub const WEBHOOK_CERT_SECRET: &str = "desktopstream-webhook-cert";

/// The extended resource for a class, with or without the card node:
/// `desktopstream.dev/dri`, `…/dri-virtio`, `…/dri-card`, `…/dri-virtio-card`.
pub fn resource(class: GpuClass, card: bool) -> String {
    let class = match class.label() {
        "any" => String::new(),
        label => format!("-{label}"),
    };
    format!("{RESOURCE_DOMAIN}/dri{class}{}", if card { "-card" } else { "" })
}

impl GpuClass {
    /// All but `Any`.
    pub const FAMILIES: [Self; 4] = [Self::Virtio, Self::Intel, Self::Amd, Self::Nvidia];

    /// As in labels and resource names.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Virtio => "virtio",
            Self::Intel => "intel",
            Self::Amd => "amd",
            Self::Nvidia => "nvidia",
        }
    }

    /// The family of a kernel driver.
    pub fn of_driver(driver: &str) -> Option<Self> {
        match driver {
            "virtio_gpu" | "virtio-gpu" | "virtio-pci" => Some(Self::Virtio),
            "i915" | "xe" => Some(Self::Intel),
            "amdgpu" | "radeon" => Some(Self::Amd),
            "nvidia" | "nouveau" | "nvidia-drm" => Some(Self::Nvidia),
            _ => None,
        }
    }
}

/// Names of the objects of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The stream.
    pub stream: String,
}

impl Names {
    /// Longest name of a stream: Services have 63 letters, and ours need a suffix.
    pub const MAX: usize = 50;

    /// Of this stream.
    pub fn new(stream: &str) -> Self {
        Self { stream: stream.to_owned() }
    }
    /// The pod.
    pub fn pod(&self) -> String {
        format!("{}-desktop", self.stream)
    }
    /// The Service.
    pub fn service(&self) -> String {
        format!("{}-viewers", self.stream)
    }
    /// The Ingress.
    pub fn ingress(&self) -> String {
        self.service()
    }
    /// The NetworkPolicy.
    pub fn network_policy(&self) -> String {
        self.pod()
    }
    /// The Secret with the host-agent's endpoint and our token for it.
    pub fn host_agent_secret(&self) -> String {
        format!("{}-host-agent", self.stream)
    }
    /// The Secret with the viewers' token.
    pub fn viewer_secret(&self) -> String {
        format!("{}-viewer", self.stream)
    }
    /// The home folder's claim.
    pub fn home(&self) -> String {
        format!("{}-home", self.stream)
    }
}
