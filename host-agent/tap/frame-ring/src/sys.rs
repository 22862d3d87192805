//! What differs between operating systems: how shared memory is made and how a closed socket is kept
//! from raising SIGPIPE. The only cfg site of this crate.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) use linux::{checked_bytes, create, prepare_bell, send_byte};

#[cfg(not(target_os = "linux"))]
mod posix;
#[cfg(not(target_os = "linux"))]
pub(crate) use posix::{checked_bytes, create, prepare_bell, send_byte};
