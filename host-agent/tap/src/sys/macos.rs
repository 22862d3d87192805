//! macOS: SO_NOSIGPIPE, close-on-exec one call later.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, socket, sockopt};

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

/// The process's command line, each argument ended by a zero.
pub(crate) fn arguments() -> Vec<u8> {
    let mut arguments = Vec::new();
    for argument in std::env::args_os() {
        arguments.extend_from_slice(argument.as_bytes());
        arguments.push(0);
    }
    arguments
}

/// Where the host-agent's socket is when nothing in the environment says: in the user's own folder, whose name is
/// the same for programs that launchd starts and for those of a terminal.
pub(crate) fn default_folder(uid: u32) -> PathBuf {
    std::env::var_os("HOME").map_or_else(
        || format!("/tmp/desktopstream-{uid}").into(),
        |home| PathBuf::from(home).join("Library/Application Support"),
    )
}
