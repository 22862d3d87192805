//! One connected TLS, TCP, Unix or vsock socket as a stream of messages.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Buf;
use contract::Endpoint;
use protocol::DecodeError;
use protocol::frame::Decoder;
use protocol::stream::{ClientMessage, ServerMessage};
use stream_tls::Identity;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_vsock::{VsockAddr, VsockStream};

use super::Traffic;

/// Failure of a connected socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The socket failed.
    #[error("the connection to the host-agent broke: {0}")]
    Io(#[from] io::Error),
    /// A received message could not be decoded.
    #[error(
        "cannot decode a message of the host-agent: {0}; install host-agent and sidecar of the same version"
    )]
    Decode(#[from] DecodeError),
}

/// Connects to `endpoint`. With TLS, `identity` is the own key, if there is one.
pub async fn connect(
    endpoint: &Endpoint,
    identity: Option<&Identity>,
    traffic: &Arc<Traffic>,
) -> io::Result<(Incoming, Outgoing)> {
    match endpoint {
        Endpoint::Tls { fingerprint: None, .. } => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the endpoint has no fingerprint; append #sha256= and the output of `host-agent fingerprint`",
        )),
        Endpoint::Tls { host, port, fingerprint: Some(fingerprint) } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            Ok(split(stream_tls::connect(stream, *fingerprint, identity).await?, traffic))
        }
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
    let incoming = Incoming { socket: Box::new(read), decoder: Decoder::new(), traffic: Arc::clone(traffic) };
    (incoming, Outgoing { socket: Box::new(write), traffic: Arc::clone(traffic) })
}

/// Receiving half.
pub struct Incoming {
    socket: Box<dyn AsyncRead + Send + Unpin>,
    decoder: Decoder,
    traffic: Arc<Traffic>,
}

impl Incoming {
    /// Receives the next message; `None` at the end of the stream. Cancel-safe: received bytes stay buffered.
    pub async fn next(&mut self) -> Result<Option<ServerMessage>, SocketError> {
        loop {
            let buffered = self.decoder.buffered();
            if let Some(message) = self.decoder.next_message()? {
                self.traffic.received.fetch_add((buffered - self.decoder.buffered()) as u64, Relaxed);
                return Ok(Some(message));
            }
            if self.socket.read_buf(self.decoder.buffer()).await? == 0 {
                return Ok(None);
            }
        }
    }
}

/// Sending half.
pub struct Outgoing {
    socket: Box<dyn AsyncWrite + Send + Unpin>,
    traffic: Arc<Traffic>,
}

impl Outgoing {
    /// Sends one message.
    pub async fn send(&mut self, message: &ClientMessage) -> Result<(), SocketError> {
        let encoded = message.encode();
        self.traffic.sent.fetch_add(encoded.len() as u64, Relaxed);
        let mut bytes = Buf::chain(&encoded.head[..], &encoded.body[..]);
        self.socket.write_all_buf(&mut bytes).await?;
        self.socket.flush().await?;
        Ok(())
    }
}
