//! The one place that asks which operating system this is. vsock exists on Linux only: on a Mac a VM's
//! vsock ends in a Unix socket on the host, so `unix:` serves it.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod macos;

#[cfg(target_os = "linux")]
pub use linux::{
    INSERT, LIBRARIES_VARIABLE, MANAGER, SYSTEM, TAP_FILE, VsockListener, default_folder, describe, libraries,
};
#[cfg(not(target_os = "linux"))]
pub use macos::{
    INSERT, LIBRARIES_VARIABLE, MANAGER, SYSTEM, TAP_FILE, VsockListener, default_folder, describe, libraries,
};

/// What this machine is, for reports; empty where it does not say.
#[derive(Debug, serde::Serialize)]
pub struct System {
    /// The system and its version.
    pub os: String,
    /// The machine's model.
    pub model: String,
    /// Its processor.
    pub processor: String,
}
