//! Labels, annotations and object names that the operator writes, besides those that other programs share:
//! [`contract::names`].

pub use contract::names::labels::{INJECT, STREAM, WAKE};
pub use contract::names::{HOST_AGENT_PORT, RUNTIME_DIR, SIDECAR_ADMIN_PORT, VIEWER_PORT};

use super::GpuClass;

/// Field manager of the operator's server-side apply.
pub const FIELD_MANAGER: &str = "desktopstream";
/// Field manager of the node-agent, on its Node.
pub const NODE_FIELD_MANAGER: &str = "desktopstream-node";
/// Reporting controller of Events.
pub const REPORTER: &str = "desktopstream.dev/operator";

/// Name of the sidecar's container port [`SIDECAR_ADMIN_PORT`]. Pods of earlier versions have none and serve `/status` on
/// [`VIEWER_PORT`].
pub const ADMIN_PORT_NAME: &str = "admin";

/// Label on every object that the operator creates.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`].
pub const MANAGER: &str = "desktopstream";
/// Annotation on pods: generation of the stream's spec that the sidecar was injected from.
pub const INJECTED: &str = "desktopstream.dev/injected";
/// Annotation on pods: digests of the parts of the spec that the pod was created from.
pub const SHAPE: &str = "desktopstream.dev/shape";
/// Annotation on the objects of a stream: digest of the object as the operator applied it.
pub const APPLIED: &str = "desktopstream.dev/applied";
/// Annotation on a home's claim that has no owner, because it is to be kept: UID of the stream that it was created for.
pub const CREATED_FOR: &str = "desktopstream.dev/created-for";
/// Prefix of the type of a stream's Secrets; the stream's UID follows.
pub const SECRET_TYPE_PREFIX: &str = "desktopstream.dev/stream-";

/// Node label: group that owns the render nodes.
pub const NODE_RENDER_GID: &str = "desktopstream.dev/render-gid";
/// Node label: `true` if a GPU renders 3D.
pub const NODE_3D: &str = "desktopstream.dev/gpu-3d";
/// Prefix of node labels `gpu.desktopstream.dev/CLASS: "COUNT"`.
pub const NODE_GPU_PREFIX: &str = "gpu.desktopstream.dev/";
/// Prefix of node labels `host-agent.desktopstream.dev/NAME: reachable`.
pub const NODE_HOST_AGENT_PREFIX: &str = "host-agent.desktopstream.dev/";
/// Value of a label with [`NODE_HOST_AGENT_PREFIX`].
pub const REACHABLE: &str = "reachable";
/// Node annotation: the node's facts as JSON.
pub const NODE_FACTS: &str = "desktopstream.dev/facts";

/// Domain of the extended resources.
pub const RESOURCE_DOMAIN: &str = "desktopstream.dev";

/// Separator of GPU and number in the ID of a share.
pub const SHARE_MARK: &str = "::";

/// Container that runs the desktop.
pub const DESKTOP_CONTAINER: &str = "desktop";
/// Container that runs the sidecar.
pub const SIDECAR_CONTAINER: &str = "desktopstream-sidecar";
/// Volume of [`contract::names::RUNTIME_DIR`].
pub const RUNTIME_VOLUME: &str = "desktopstream-runtime";
/// Directory of the sidecar's token files.
pub const SECRETS_DIR: &str = "/run/desktopstream";
/// User and group ID of desktops and sidecars.
pub const UID: i64 = 1000;

/// ClusterRole for readers of streams. Its annotation [`INSTALLATION`] names the cluster's installation.
pub const VIEW_ROLE: &str = "desktopstream-view";
/// Annotation: installation as `NAMESPACE/RELEASE`.
pub const INSTALLATION: &str = "desktopstream.dev/installation";
/// Lease of the operator that leads.
pub const LEASE: &str = "desktopstream-operator";
/// Secret with the private key that signs tokens for host-agents, under `key.pem`.
pub const SIGNING_KEY_SECRET: &str = "desktopstream-signing-key";
/// ConfigMap with the public key that verifies the tokens, under `key.pem.pub`.
pub const PUBLIC_KEY_CONFIG_MAP: &str = "desktopstream-public-key";
/// Secret with the webhook's certificate.
pub const WEBHOOK_CERT_SECRET: &str = "desktopstream-webhook-cert";

/// Extended resource of a GPU class, with or without the card node:
/// `desktopstream.dev/dri`, `…/dri-virtio`, `…/dri-card`, `…/dri-virtio-card`.
pub fn resource(class: GpuClass, card: bool) -> String {
    let class = match class.label() {
        "any" => String::new(),
        label => format!("-{label}"),
    };
    format!("{RESOURCE_DOMAIN}/dri{class}{}", if card { "-card" } else { "" })
}

/// Name of the GPU that a share is of. The kubelet knows shares by the ID `GPU::NUMBER`.
pub fn gpu_of_share(id: &str) -> Option<&str> {
    id.rsplit_once(SHARE_MARK).map(|(gpu, _)| gpu)
}

impl GpuClass {
    /// All families of drivers; every class but `Any`.
    pub const FAMILIES: [Self; 4] = [Self::Virtio, Self::Intel, Self::Amd, Self::Nvidia];

    /// Name in labels and resource names.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Virtio => "virtio",
            Self::Intel => "intel",
            Self::Amd => "amd",
            Self::Nvidia => "nvidia",
        }
    }

    /// Family of a kernel driver; `None` if the driver is not a GPU's.
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

/// Names of a stream's objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Name of the stream.
    pub stream: String,
}

impl Names {
    /// Maximum length of a stream's name, bytes. A Service's name has 63, of which the suffixes below use up to 13.
    pub const MAX: usize = contract::StreamName::MAX_LENGTH;

    /// Names of the objects of `stream`.
    pub fn new(stream: &str) -> Self {
        Self { stream: stream.to_owned() }
    }
    /// Pod with the desktop.
    pub fn pod(&self) -> String {
        format!("{}-desktop", self.stream)
    }
    /// Service in front of the sidecar.
    pub fn service(&self) -> String {
        format!("{}-viewers", self.stream)
    }
    /// Ingress in front of the Service.
    pub fn ingress(&self) -> String {
        self.service()
    }
    /// NetworkPolicy of the pod.
    pub fn network_policy(&self) -> String {
        self.pod()
    }
    /// Secret with the host-agent's endpoint and the token for it.
    pub fn host_agent_secret(&self) -> String {
        format!("{}-host-agent", self.stream)
    }
    /// Secret with the viewers' token.
    pub fn viewer_secret(&self) -> String {
        format!("{}-viewer", self.stream)
    }
    /// PersistentVolumeClaim of the home volume.
    pub fn home(&self) -> String {
        format!("{}-home", self.stream)
    }
}
