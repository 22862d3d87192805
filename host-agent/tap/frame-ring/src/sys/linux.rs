//! Linux: a sealed memfd, MSG_NOSIGNAL.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::SendFlags;

use crate::RingError;

fn system(step: &'static str) -> impl Fn(rustix::io::Errno) -> RingError {
    move |errno| RingError::System { step, source: errno.into() }
}

/// Memory of this size that can never change its size again.
pub(crate) fn create(bytes: u64) -> Result<OwnedFd, RingError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("desktopstream-ring", flags).map_err(system("create"))?;
    rustix::fs::ftruncate(&fd, bytes).map_err(system("size"))?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&fd, seals).map_err(system("seal"))?;
    Ok(fd)
}

/// The size of a peer's memory; an error if it could still shrink under our mapping.
pub(crate) fn checked_bytes(fd: BorrowedFd<'_>) -> Result<u64, RingError> {
    let seals = rustix::fs::fcntl_get_seals(fd).map_err(|_| RingError::NotARing("it is no memfd"))?;
    if !seals.contains(SealFlags::SHRINK) {
        return Err(RingError::NotARing("it is not sealed against shrinking"));
    }
    let stat = rustix::fs::fstat(fd).map_err(system("examine"))?;
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}

/// An error if it is no socket; nothing to set up.
pub(crate) fn prepare_bell(fd: &OwnedFd) -> io::Result<()> {
    rustix::net::sockopt::socket_type(fd)?;
    Ok(())
}

/// Sends one byte or fails; never blocks, never signals.
pub(crate) fn send_byte(fd: &OwnedFd) -> io::Result<usize> {
    Ok(rustix::net::send(fd, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
}
