//! One connected socket, as messages. The only place of the sidecar that knows TCP, Unix and vsock.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::{Buf, BytesMut};
use protocol::frame::Message as _;
use protocol::stream::{ClientMessage, ServerMessage};
use protocol::{DecodeError, Endpoint};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_vsock::{VsockAddr, VsockStream};

use super::Traffic;

/// Why a connected socket is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The socket failed.
    #[error("the connection to the host-agent broke: {0}")]
    Io(#[from] io::Error),
    /// The peer does not speak our protocol.
    #[error("the host-agent sent something that is no message: {0}")]
    Decode(#[from] DecodeError),
}

/// Connects and splits.
pub async fn connect(endpoint: &Endpoint, traffic: &Arc<Traffic>) -> io::Result<(Incoming, Outgoing)> {
    match endpoint {
        Endpoint::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            Ok(split(stream, traffic))
        }
        Endpoint::Unix(path) => Ok(split(UnixStream::connect(path).await?, traffic)),
        Endpoint::Vsock { cid, port } => {
            Ok(split(VsockStream::connect(VsockAddr::new(*cid, *port)).await?, traffic))
        }
    }
}

fn split<S>(stream: S, traffic: &Arc<Traffic>) -> (Incoming, Outgoing)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(stream);
    let incoming = Incoming { socket: Box::new(read), bytes: BytesMut::new(), traffic: Arc::clone(traffic) };
    (incoming, Outgoing { socket: Box::new(write), traffic: Arc::clone(traffic) })
}

/// The receiving half.
pub struct Incoming {
    socket: Box<dyn AsyncRead + Send + Unpin>,
    bytes: BytesMut,
    traffic: Arc<Traffic>,
}

impl Incoming {
    /// The next message; `None` at the end. Safe to drop half-way and call again: bytes stay buffered.
    pub async fn next(&mut self) -> Result<Option<ServerMessage>, SocketError> {
        loop {
            let before = self.bytes.len();
            if let Some(message) = ServerMessage::take(&mut self.bytes)? {
                self.traffic.received.fetch_add((before - self.bytes.len()) as u64, Relaxed);
                return Ok(Some(message));
            }
            self.bytes.reserve(16 << 10);
            if self.socket.read_buf(&mut self.bytes).await? == 0 {
                return Ok(None);
            }
        }
    }
}

/// The sending half.
pub struct Outgoing {
    socket: Box<dyn AsyncWrite + Send + Unpin>,
    traffic: Arc<Traffic>,
}

impl Outgoing {
    /// Sends one message whole.
    pub async fn send(&mut self, message: &ClientMessage) -> Result<(), SocketError> {
        let encoded = message.encode();
        self.traffic.sent.fetch_add(encoded.len() as u64, Relaxed);
        let mut whole = Buf::chain(&encoded.head[..], &encoded.body[..]);
        self.socket.write_all_buf(&mut whole).await?;
        self.socket.flush().await?;
        Ok(())
    }
}
