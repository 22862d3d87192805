//! Linux: a sealed memfd, and MSG_NOSIGNAL.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::SendFlags;

use crate::RingError;

fn system(step: &'static str) -> impl Fn(rustix::io::Errno) -> RingError {
    move |errno| RingError::System { step, source: errno.into() }
}

/// Makes zeroed memory of `bytes` bytes whose size is sealed.
pub(crate) fn create(bytes: u64) -> Result<OwnedFd, RingError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("desktopstream-ring", flags).map_err(system("create"))?;
    rustix::fs::ftruncate(&fd, bytes).map_err(system("size"))?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&fd, seals).map_err(system("seal"))?;
    Ok(fd)
}

/// Size in bytes of memory that a peer made; an error if it could shrink while it is mapped.
pub(crate) fn checked_bytes(fd: BorrowedFd<'_>) -> Result<u64, RingError> {
    let seals =
        rustix::fs::fcntl_get_seals(fd).map_err(|_| RingError::NotARing("the descriptor is not a memfd"))?;
    if !seals.contains(SealFlags::SHRINK) {
        return Err(RingError::NotARing("the memory is not sealed against shrinking"));
    }
    let stat = rustix::fs::fstat(fd).map_err(system("examine"))?;
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}

/// Checks that the descriptor is a socket; there is nothing to set up.
pub(crate) fn prepare_wake_socket(fd: &OwnedFd) -> io::Result<()> {
    rustix::net::sockopt::socket_type(fd)?;
    Ok(())
}

/// Sends one byte without blocking and without SIGPIPE.
pub(crate) fn send_byte(fd: &OwnedFd) -> io::Result<usize> {
    Ok(rustix::net::send(fd, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
}
