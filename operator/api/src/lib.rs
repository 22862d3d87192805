//! The API: the kinds `DesktopStream` and `HostAgent`, their CustomResourceDefinitions, and the names of all objects,
//! labels and annotations that the operator writes. Types and constants only.

pub mod conditions;
pub mod crds;
mod desktop;
mod host_agent;
pub mod names;
pub mod rules;
mod settings;
mod status;
mod stream;
pub mod summary;
mod viewers;

pub use desktop::{Attach, Desktop, Home, OnDelete, WorkloadKind};
pub use host_agent::{EncoderStatus, HostAgent, HostAgentSpec, HostAgentStatus};
pub use settings::{
    Audio, Capture, Codec, Cursor, DeviceNodes, Encode, Gpu, GpuClass, HostAgentRef, Lifecycle,
    OperatingMode, Placement, Require, Source, Transport,
};
pub use status::{CaptureStatus, DesktopStreamStatus, Phase, Stats};
pub use stream::{DesktopStream, DesktopStreamSpec};
pub use viewers::{Auth, AuthKind, Ingress, Protocol, Service, ServiceType, Viewers};

/// API group of both kinds.
pub const GROUP: &str = "desktopstream.dev";
/// API version of both kinds.
pub const VERSION: &str = "v1alpha1";
