//! macOS: an unlinked POSIX shared-memory object, and SO_NOSIGPIPE.
//!
//! There are no seals, but Darwin lets such an object be sized only once: a second ftruncate fails with
//! EINVAL (xnu, `pshm_truncate`), so it cannot shrink either.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::Mode;
use rustix::net::SendFlags;
use rustix::shm::OFlags;

use crate::RingError;

fn system(step: &'static str) -> impl Fn(rustix::io::Errno) -> RingError {
    move |errno| RingError::System { step, source: errno.into() }
}

/// Makes zeroed memory of `bytes` bytes that no other process can open by name.
pub(crate) fn create(bytes: u64) -> Result<OwnedFd, RingError> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // Darwin limits the name to 31 bytes (PSHMNAMLEN).
    let name = format!("/dstr.{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
    let fd = rustix::shm::open(&name, flags, Mode::RUSR | Mode::WUSR).map_err(system("create"))?;
    rustix::shm::unlink(&name).map_err(system("unlink"))?;
    rustix::fs::ftruncate(&fd, bytes).map_err(system("size"))?;
    Ok(fd)
}

/// Size in bytes of memory that a peer made.
pub(crate) fn checked_bytes(fd: BorrowedFd<'_>) -> Result<u64, RingError> {
    let stat = rustix::fs::fstat(fd).map_err(system("examine"))?;
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}

/// Turns SIGPIPE off for the descriptor; an error if it is not a socket.
pub(crate) fn prepare_wake_socket(fd: &OwnedFd) -> io::Result<()> {
    rustix::net::sockopt::set_socket_nosigpipe(fd, true)?;
    Ok(())
}

/// Sends one byte without blocking.
pub(crate) fn send_byte(fd: &OwnedFd) -> io::Result<usize> {
    Ok(rustix::net::send(fd, &[1], SendFlags::DONTWAIT)?)
}
