//! Linux: MSG_NOSIGNAL, and sockets that are made close-on-exec.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socket_with, sockopt};

/// Flags for sending on the link.
pub(crate) const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
/// Flags for receiving on the link.
pub(crate) const RECEIVE: RecvFlags = RecvFlags::DONTWAIT.union(RecvFlags::CMSG_CLOEXEC);

/// Makes a nonblocking, close-on-exec Unix stream socket.
pub(crate) fn new_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// User ID of the process that listens at the other end of a connected Unix socket (SO_PEERCRED, unix(7)).
pub(crate) fn peer_user(socket: &OwnedFd) -> rustix::io::Result<u32> {
    Ok(sockopt::socket_peercred(socket)?.uid.as_raw())
}

/// The process's command line; each argument ends with a NUL byte.
pub(crate) fn arguments() -> Vec<u8> {
    std::fs::read("/proc/self/cmdline").unwrap_or_default()
}

/// The user's runtime directory, when the environment does not name it.
pub(crate) fn default_folder(uid: u32) -> PathBuf {
    format!("/run/user/{uid}").into()
}
