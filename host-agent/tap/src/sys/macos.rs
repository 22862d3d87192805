//! macOS: the library's install name, SO_NOSIGPIPE, close-on-exec one call later.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, socket, sockopt};

/// virglrenderer for the dynamic linker.
pub(crate) const VIRGLRENDERER: &CStr = c"libvirglrenderer.1.dylib";
/// How the link sends; the socket has SO_NOSIGPIPE.
pub(crate) const SEND: SendFlags = SendFlags::DONTWAIT;
/// How the link receives.
pub(crate) const RECEIVE: RecvFlags = RecvFlags::DONTWAIT;

/// A nonblocking Unix stream socket that no child inherits.
pub(crate) fn new_socket() -> rustix::io::Result<OwnedFd> {
    let fd = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    fcntl_setfl(&fd, OFlags::NONBLOCK)?;
    sockopt::set_socket_nosigpipe(&fd, true)?;
    Ok(fd)
}
