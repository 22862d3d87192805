//! The one place that asks which operating system this is: vsock exists on Linux only. On a Mac a VM's
//! vsock ends in a Unix socket on the host, so `unix:` serves it.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

#[cfg(target_os = "linux")]
pub use linux::VsockListener;
#[cfg(not(target_os = "linux"))]
pub use other::VsockListener;
