//! vsock by `AF_VSOCK`; no place of a user's own without a session.

use std::io;
use std::path::PathBuf;

use tokio_vsock::VsockAddr;

use crate::listen::{Connection, Writer};

/// The variable that has the dynamic linker insert libraries.
pub const INSERT: &str = "LD_PRELOAD";
/// What the tap is called.
pub const TAP_FILE: &str = "libtap.so";

/// The folder of the link's socket without XDG_RUNTIME_DIR.
pub fn default_folder() -> PathBuf {
    std::env::temp_dir().join(format!("desktopstream-{}", rustix::process::getuid().as_raw()))
}

/// A listening vsock.
#[derive(Debug)]
pub struct VsockListener {
    listener: tokio_vsock::VsockListener,
}

impl VsockListener {
    /// Listens on a port of one or all context IDs of this machine.
    pub fn bind(cid: u32, port: u32) -> io::Result<Self> {
        let address = VsockAddr::new(cid, port);
        Ok(Self { listener: tokio_vsock::VsockListener::bind(address)? })
    }

    /// The next connection.
    pub async fn accept(&self) -> io::Result<Connection> {
        let (stream, address) = self.listener.accept().await?;
        let peer = format!("vsock:{}", address.cid());
        let (reader, writer) = stream.into_split();
        Ok(Connection::new(reader, Writer::other(writer), peer.clone(), format!("{peer}:{}", address.port())))
    }
}
