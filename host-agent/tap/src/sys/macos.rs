//! macOS: SO_NOSIGPIPE, and close-on-exec set by a second call.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, socket, sockopt};

/// Flags for sending on the link; [`new_socket`] sets SO_NOSIGPIPE.
pub(crate) const SEND: SendFlags = SendFlags::DONTWAIT;
/// Flags for receiving on the link.
pub(crate) const RECEIVE: RecvFlags = RecvFlags::DONTWAIT;

/// Makes a nonblocking, close-on-exec Unix stream socket without SIGPIPE.
pub(crate) fn new_socket() -> rustix::io::Result<OwnedFd> {
    let fd = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    fcntl_setfl(&fd, OFlags::NONBLOCK)?;
    sockopt::set_socket_nosigpipe(&fd, true)?;
    Ok(fd)
}

/// User ID of the process that listens at the other end of a connected Unix socket (getpeereid(3)).
pub(crate) fn peer_user(socket: &OwnedFd) -> rustix::io::Result<u32> {
    let (mut user, mut group) = (0, 0);
    // SAFETY: the descriptor is open during the call, and both pointers are to locals of the types that the
    // function writes.
    let result = unsafe { libc::getpeereid(socket.as_raw_fd(), &raw mut user, &raw mut group) };
    if result == 0 {
        return Ok(user);
    }
    let error = std::io::Error::last_os_error();
    Err(rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO))
}

/// The process's command line; each argument ends with a NUL byte.
pub(crate) fn arguments() -> Vec<u8> {
    let mut arguments = Vec::new();
    for argument in std::env::args_os() {
        arguments.extend_from_slice(argument.as_bytes());
        arguments.push(0);
    }
    arguments
}

/// The user's runtime directory, when the environment does not name it. It is in the home directory,
/// which is the same for programs started by launchd and by a terminal.
pub(crate) fn default_folder(uid: u32) -> PathBuf {
    std::env::var_os("HOME").map_or_else(
        || format!("/tmp/desktopstream-{uid}").into(),
        |home| PathBuf::from(home).join("Library/Application Support"),
    )
}
