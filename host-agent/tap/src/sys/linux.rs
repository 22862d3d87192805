//! Linux: MSG_NOSIGNAL, close-on-exec from the start.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socket_with};

/// How the link sends.
pub(crate) const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
/// How the link receives.
pub(crate) const RECEIVE: RecvFlags = RecvFlags::DONTWAIT.union(RecvFlags::CMSG_CLOEXEC);

/// A nonblocking Unix stream socket that no child inherits.
pub(crate) fn new_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// The process's command line, each argument ended by a zero.
pub(crate) fn arguments() -> Vec<u8> {
    std::fs::read("/proc/self/cmdline").unwrap_or_default()
}

/// Where the host-agent's socket is when nothing in the environment says.
pub(crate) fn default_folder(uid: u32) -> PathBuf {
    format!("/run/user/{uid}").into()
}
