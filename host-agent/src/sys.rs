//! The one place that asks which operating system this is. vsock exists on Linux only: on a Mac a VM's
//! vsock ends in a Unix socket on the host, so `unix:` serves it.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod macos;

#[cfg(target_os = "linux")]
pub use linux::{INSERT, TAP_FILE, VsockListener, default_folder};
#[cfg(not(target_os = "linux"))]
pub use macos::{INSERT, TAP_FILE, VsockListener, default_folder};
