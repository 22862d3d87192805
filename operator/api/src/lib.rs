//! What users write and read: the kinds `DesktopStream` and `HostAgent`, and every name that we leave in a
//! cluster. Types and constants; validates nothing and knows no client.

pub mod conditions;
pub mod crds;
mod desktop;
mod host_agent;
pub mod names;
pub mod rules;
mod settings;
mod status;
mod stream;

pub use desktop::{Attach, Desktop, Home, OnDelete, WorkloadKind};
pub use host_agent::{EncoderStatus, HostAgent, HostAgentSpec, HostAgentStatus};
pub use settings::{
    Auth, AuthKind, Capture, Codec, Encode, EncodeWhere, Gpu, GpuClass, GpuNodes, HostAgentRef, Ingress,
    Lifecycle, Protocol, Require, Service, ServiceType, Source, Transport, Viewers,
};
pub use status::{CaptureStatus, DesktopStreamStatus, Phase, Rung, Stats};
pub use stream::{DesktopStream, DesktopStreamSpec};

/// API group of both kinds.
pub const GROUP: &str = "desktopstream.dev";
/// Its version.
pub const VERSION: &str = "v1alpha1";
