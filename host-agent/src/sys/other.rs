//! No vsock here.

use std::io;

use crate::listen::Connection;

/// Never exists.
#[derive(Debug)]
pub enum VsockListener {}

impl VsockListener {
    /// Always fails and says what to do instead.
    pub fn bind(_cid: u32, _port: u32) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no vsock; listen on unix: or tcp:"))
    }

    /// Can't be called.
    #[expect(clippy::unused_async, reason = "the same signature as on Linux")]
    pub async fn accept(&self) -> io::Result<Connection> {
        match *self {}
    }
}
