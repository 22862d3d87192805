//! Operating system differences: how shared memory is made, and how SIGPIPE is avoided on a closed
//! socket. The only cfg site of this crate.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) use linux::{checked_bytes, create, prepare_wake_socket, send_byte};

#[cfg(not(target_os = "linux"))]
mod posix;
#[cfg(not(target_os = "linux"))]
pub(crate) use posix::{checked_bytes, create, prepare_wake_socket, send_byte};
