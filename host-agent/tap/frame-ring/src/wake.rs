//! Wake fd: a socket pair that wakes a thread or process that waits in `poll(2)`.
//!
//! A byte in the socket carries no information, and several wakes may arrive as one. After a wake the
//! receiver must look for work until there is none. A socket and not an eventfd, because macOS has none
//! and because either end can detect that the other one is closed.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::sys;

/// Makes a connected pair; both ends are nonblocking.
///
/// # Errors
/// If the process is out of file descriptors.
pub fn pair() -> io::Result<(WakeFd, Waker)> {
    let (receives, sends) = UnixStream::pair()?;
    receives.set_nonblocking(true)?;
    sends.set_nonblocking(true)?;
    Ok((WakeFd { socket: receives }, Waker::new(sends.into())?))
}

/// The sending end.
#[derive(Debug)]
pub struct Waker {
    fd: OwnedFd,
}

impl Waker {
    /// Uses a socket that a peer made with [`pair`] and sent over.
    ///
    /// # Errors
    /// If the descriptor is not a socket.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        sys::prepare_wake_socket(&fd)?;
        Ok(Self { fd })
    }

    /// Wakes the receiver. Never blocks and never raises SIGPIPE: if the socket is full, the receiver has
    /// unread wakes; if it is closed, there is no receiver.
    pub fn wake(&self) {
        let _full_or_closed = sys::send_byte(&self.fd);
    }
}

impl From<Waker> for OwnedFd {
    /// The socket, to be sent to another process.
    fn from(waker: Waker) -> Self {
        waker.fd
    }
}

/// State of a wake fd before [`WakeFd::clear`] emptied it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WakeState {
    /// No wake was pending.
    Idle,
    /// At least one wake was pending.
    Woken,
    /// The sending end is closed. Wakes may have been pending before.
    Closed,
}

/// The receiving end; readable while a wake is pending or the sending end is closed.
#[derive(Debug)]
pub struct WakeFd {
    socket: UnixStream,
}

impl WakeFd {
    /// Clears pending wakes, so that only a later one makes the descriptor readable again.
    pub fn clear(&self) -> WakeState {
        let mut sink = [0; 64];
        let mut state = WakeState::Idle;
        loop {
            match (&self.socket).read(&mut sink) {
                Ok(0) => return WakeState::Closed,
                Ok(_) => state = WakeState::Woken,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return state,
                Err(_) => return WakeState::Closed,
            }
        }
    }
}

impl AsFd for WakeFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
