//! VideoToolbox on macOS, and its absence elsewhere. The only cfg site of this crate.

#[cfg(target_os = "macos")]
mod macos;
#[cfg(target_os = "macos")]
pub(crate) use macos::api;

#[cfg(not(target_os = "macos"))]
mod absent;
#[cfg(not(target_os = "macos"))]
pub(crate) use absent::api;
