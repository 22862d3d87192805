//! Operating-system differences of the daemon. The only `cfg(target_os)` site of this crate.
//!
//! vsock exists on Linux only. On macOS the hypervisor connects a guest's vsock to a Unix socket on the
//! host, which `unix:` serves.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod macos;

#[cfg(target_os = "linux")]
pub use linux::{HAS_VSOCK, VsockListener, default_folder, describe};
#[cfg(not(target_os = "linux"))]
pub use macos::{HAS_VSOCK, VsockListener, default_folder, describe};

/// The machine, for selftest reports. A field is empty if the system does not report it.
#[derive(Debug, serde::Serialize)]
pub struct System {
    /// Operating system and version.
    pub os: String,
    /// Hardware model.
    pub model: String,
    /// Processor name.
    pub processor: String,
}
