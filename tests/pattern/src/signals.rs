//! Signals as sockets to poll: one for "stop", one for "start or stop changing".

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::low_level::pipe;

/// The read ends.
pub struct Signals {
    stop: UnixStream,
    toggle: UnixStream,
}

impl Signals {
    /// Takes SIGTERM, SIGINT and SIGUSR1.
    pub fn take() -> io::Result<Self> {
        let (stop, stop_end) = UnixStream::pair()?;
        let (toggle, toggle_end) = UnixStream::pair()?;
        pipe::register(SIGTERM, stop_end.try_clone()?)?;
        pipe::register(SIGINT, stop_end)?;
        pipe::register(SIGUSR1, toggle_end)?;
        stop.set_nonblocking(true)?;
        toggle.set_nonblocking(true)?;
        Ok(Self { stop, toggle })
    }

    /// What to poll.
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.stop.as_fd(), self.toggle.as_fd()]
    }

    /// Whether SIGTERM or SIGINT came.
    pub fn stop(&self) -> bool {
        came(&self.stop) > 0
    }

    /// Whether SIGUSR1 came an odd number of times since the last call.
    pub fn toggle(&self) -> bool {
        came(&self.toggle) % 2 == 1
    }
}

fn came(mut from: &UnixStream) -> usize {
    let mut bytes = [0; 64];
    from.read(&mut bytes).unwrap_or(0)
}
