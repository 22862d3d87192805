//! vsock by `AF_VSOCK`.

use std::io;

use tokio_vsock::VsockAddr;

use crate::listen::{Connection, Writer};

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
