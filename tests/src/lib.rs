//! The whole path of a frame, put up for real: a VM with a GPU and the tap, a host-agent, a desktop and its
//! sidecar in containers. The demo, the benches and the tests are what they do with a [`Rig`].
//!
//! - [`browser`] watches with a real Chromium.
//! - [`build`] compiles our programs and lays out what goes into the VM.
//! - [`checks`] holds what is true of every stream.
//! - [`host_agent`] runs a host-agent on the host.
//! - [`rig`] joins host-agent, VM, desktop and sidecar.
//! - [`http`] asks programs for their status.
//! - [`video`] decodes what a viewer gets and reads the pattern's numbers.
//! - [`wait`] waits for conditions, never for time.
//!
//! Errors are [`anyhow`]'s: those who call are tests and people, who read them and never decide by them.

pub mod browser;
pub mod build;
pub mod checks;
pub mod host_agent;
pub mod http;
pub mod rig;
pub mod video;
pub mod wait;

pub use anyhow::Result;
pub use build::{Programs, cross_build};
pub use host_agent::HostAgent;
pub use rig::{Desktop, Rig, RigOptions};
