//! Linux: the library's soname, MSG_NOSIGNAL, close-on-exec from the start.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socket_with};

/// virglrenderer for the dynamic linker.
pub(crate) const VIRGLRENDERER: &CStr = c"libvirglrenderer.so.1";
/// How the link sends.
pub(crate) const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
/// How the link receives.
pub(crate) const RECEIVE: RecvFlags = RecvFlags::DONTWAIT.union(RecvFlags::CMSG_CLOEXEC);

/// A nonblocking Unix stream socket that no child inherits.
pub(crate) fn new_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}
