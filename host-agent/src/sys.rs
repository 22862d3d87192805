//! Operating-system differences of the daemon. The only `cfg(target_os)` site of this crate.
//!
//! vsock exists on Linux only. On macOS the hypervisor connects a guest's vsock to a Unix socket on the
//! host, which `unix:` serves.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod macos;

#[cfg(target_os = "linux")]
pub use linux::{HAS_VSOCK, MAX_DESCRIPTORS, VsockListener, default_folder, describe};
#[cfg(not(target_os = "linux"))]
pub use macos::{HAS_VSOCK, MAX_DESCRIPTORS, VsockListener, default_folder, describe};

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

/// Raises the soft limit of open descriptors to the hard one, at most [`MAX_DESCRIPTORS`], and returns the limit
/// in effect. A session takes about ten; macOS starts programs with a soft limit of 256.
pub fn raise_descriptor_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let target = maximum.map_or(MAX_DESCRIPTORS, |maximum| maximum.min(MAX_DESCRIPTORS));
    // `None` is no limit.
    let current = current?;
    let raised =
        current < target && setrlimit(Resource::Nofile, Rlimit { current: Some(target), maximum }).is_ok();
    Some(if raised { target } else { current })
}
