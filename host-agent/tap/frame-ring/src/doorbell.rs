//! A socket pair that says "a slot is full". A byte means nothing but "look": many rings may arrive as
//! one, so whoever hears it asks the ring until it is empty.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use crate::sys;

/// Makes a pair: the listening end, nonblocking, for the host-agent (`tokio::net::UnixStream::from_std`),
/// and the descriptor that goes to the tap, which makes a [`Bell`] of it.
pub fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (listen, ring) = UnixStream::pair()?;
    listen.set_nonblocking(true)?;
    ring.set_nonblocking(true)?;
    Ok((listen, ring.into()))
}

/// The end that rings.
#[derive(Debug)]
pub struct Bell {
    fd: OwnedFd,
}

impl Bell {
    /// Takes a descriptor from a peer; an error if it is no socket.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        sys::prepare_bell(&fd)?;
        Ok(Self { fd })
    }

    /// Rings. Never blocks and never signals: a full socket has been rung already, and a closed one has
    /// nobody who could hear it.
    pub fn ring(&self) {
        let _heard = sys::send_byte(&self.fd);
    }
}

/// Empties the listening end, so that the next byte wakes again. `false` if the other end is gone.
pub fn drain(listen: &UnixStream) -> bool {
    use std::io::Read;
    let mut listen = listen;
    let mut sink = [0; 64];
    loop {
        match listen.read(&mut sink) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}
