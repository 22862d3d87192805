//! Listeners and accepted connections, independent of the transport: TLS, TCP, Unix socket or vsock.

pub mod folder;
mod unix;
mod writer;

use std::fmt;
use std::io;
use std::net::IpAddr;

use contract::Endpoint;
use stream_tls::{Acceptor, PublicKey};
use tokio::io::AsyncRead;
use tokio::net::{TcpListener, TcpStream};

use crate::accept::Accept;
use crate::sys::VsockListener;
pub use folder::FolderError;
pub use unix::{ForeignUser, UnixSocket, check_peer};
pub use writer::Writer;

/// The reading half of a connection.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;

/// Protection of a connection against others that see its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Unix socket or vsock: no network carries it.
    Local,
    /// TCP without TLS.
    Plaintext,
    /// TLS. The peer has proved that it has this key, if any.
    Tls(Option<PublicKey>),
}

/// A connection that transfers messages.
pub struct Opened {
    /// Reading half.
    pub reader: Reader,
    /// Writing half.
    pub writer: Writer,
    /// Its protection.
    pub channel: Channel,
}

/// An accepted connection.
pub struct Connection {
    transport: Transport,
    /// Key for limits: the peer's address without its port.
    pub origin: String,
    /// Peer address, for logs.
    pub peer: String,
}

impl Connection {
    /// A connection of these halves.
    pub fn new(
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: Writer,
        channel: Channel,
        origin: String,
        peer: String,
    ) -> Self {
        let transport = Transport::Open(Opened { reader: Box::new(reader), writer, channel });
        Self { transport, origin, peer }
    }

    /// Performs the TLS handshake, if the connection has one. The peer determines how long that takes.
    ///
    /// # Errors
    /// The connection failed, or the peer does not speak TLS.
    pub async fn open(self) -> io::Result<Opened> {
        match self.transport {
            Transport::Open(opened) => Ok(opened),
            Transport::Tls(stream, acceptor) => {
                let (stream, key) = acceptor.accept(stream).await?;
                let (reader, writer) = tokio::io::split(stream);
                let (reader, writer) = (Box::new(reader), Writer::other(writer));
                Ok(Opened { reader, writer, channel: Channel::Tls(key) })
            }
        }
    }
}

enum Transport {
    Open(Opened),
    /// The handshake has not begun.
    Tls(TcpStream, Acceptor),
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("channel", &self.channel).finish_non_exhaustive()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// Peers that can connect to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Processes of this user and root.
    ThisUser,
    /// Every process of this machine, and VMs: QEMU's user network maps the guest's 10.0.2.2 to loopback.
    ThisMachine,
    /// Other machines, or VMs.
    Others,
}

/// Peers that can connect to an endpoint. Of host names only `localhost` is guaranteed to resolve to loopback
/// (RFC 6761).
pub fn reach(endpoint: &Endpoint) -> Reach {
    match endpoint {
        Endpoint::Unix(_) => Reach::ThisUser,
        endpoint if endpoint.is_loopback() => Reach::ThisMachine,
        Endpoint::Tls { .. } | Endpoint::Tcp { .. } | Endpoint::Vsock { .. } => Reach::Others,
    }
}

/// Key of a TCP peer for limits: its address or, as one IPv6 host can have all addresses of its network, the
/// first 64 bits.
pub fn origin(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

/// Reason why an endpoint cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is in use.
    #[error(
        "{0} is in use; stop the program that listens there (another host-agent?) or choose another address"
    )]
    InUse(Endpoint),
    /// Other users can put a socket of their own in its place.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The operating system refused.
    #[error("cannot listen on {endpoint}: {cause}")]
    Io {
        /// The endpoint.
        endpoint: Endpoint,
        /// The reason.
        cause: io::Error,
    },
}

impl ListenError {
    /// The error of the operating system at `endpoint`.
    pub fn new(endpoint: &Endpoint, cause: io::Error) -> Self {
        match cause.kind() {
            io::ErrorKind::AddrInUse => Self::InUse(endpoint.clone()),
            _ => Self::Io { endpoint: endpoint.clone(), cause },
        }
    }
}

/// Listens on a TCP address; returns the assigned port.
///
/// # Errors
/// The address is in use, or the operating system refuses it.
pub async fn bind_tcp(host: &str, port: u16) -> io::Result<(TcpListener, u16)> {
    let listener = TcpListener::bind((host, port)).await?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// A listener of any transport.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tls(TcpListener, Acceptor),
    Tcp(TcpListener),
    Unix(UnixSocket),
    Vsock(VsockListener),
}

impl Listener {
    /// Listens on an endpoint. A TLS endpoint needs `tls`.
    ///
    /// # Errors
    /// The address is in use, or the operating system refuses it.
    pub async fn bind(endpoint: &Endpoint, tls: Option<&Acceptor>) -> Result<Self, ListenError> {
        let failed = |cause| ListenError::new(endpoint, cause);
        match endpoint {
            Endpoint::Tls { host, port, .. } => {
                let tls = tls.ok_or_else(|| failed(io::ErrorKind::Unsupported.into()))?.clone();
                let (listener, port) = bind_tcp(host, *port).await.map_err(failed)?;
                let endpoint =
                    Endpoint::Tls { host: host.clone(), port, fingerprint: Some(tls.fingerprint()) };
                Ok(Self { endpoint, socket: Socket::Tls(listener, tls) })
            }
            Endpoint::Tcp { host, port } => {
                let (listener, port) = bind_tcp(host, *port).await.map_err(failed)?;
                Ok(Self {
                    endpoint: Endpoint::Tcp { host: host.clone(), port },
                    socket: Socket::Tcp(listener),
                })
            }
            Endpoint::Unix(path) => {
                let socket = UnixSocket::bind(path)?;
                Ok(Self { endpoint: endpoint.clone(), socket: Socket::Unix(socket) })
            }
            Endpoint::Vsock { cid, port } => {
                let listener = VsockListener::bind(*cid, *port).map_err(failed)?;
                Ok(Self { endpoint: endpoint.clone(), socket: Socket::Vsock(listener) })
            }
        }
    }

    /// The endpoint as sidecars use it: a TCP port of 0 is replaced by the assigned one, and TLS has a fingerprint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Accept for Listener {
    type Connection = Connection;

    async fn accept(&self) -> io::Result<Connection> {
        match &self.socket {
            Socket::Tls(listener, acceptor) => {
                let (stream, origin, peer) = accept_tcp(listener).await?;
                Ok(Connection { transport: Transport::Tls(stream, acceptor.clone()), origin, peer })
            }
            Socket::Tcp(listener) => {
                let (stream, origin, peer) = accept_tcp(listener).await?;
                let (reader, writer) = stream.into_split();
                Ok(Connection::new(reader, Writer::Tcp(writer), Channel::Plaintext, origin, peer))
            }
            Socket::Unix(socket) => {
                let stream = socket.accept().await?;
                let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
                let peer = pid.map_or_else(|| "unix".to_owned(), |pid| format!("unix:{pid}"));
                let (reader, writer) = stream.into_split();
                Ok(Connection::new(reader, Writer::Unix(writer), Channel::Local, "unix".to_owned(), peer))
            }
            Socket::Vsock(listener) => listener.accept().await,
        }
    }
}

async fn accept_tcp(listener: &TcpListener) -> io::Result<(TcpStream, String, String)> {
    let (stream, address) = listener.accept().await?;
    // Nagle's algorithm delays an access unit until the previous one is acknowledged.
    // The call fails on macOS if the peer has closed the connection, which the first read then reports.
    let _ignored = stream.set_nodelay(true);
    Ok((stream, origin(address.ip()), address.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_other_tcp_endpoints_reach_more_than_this_user() {
        let reach = |text: &str| reach(&text.parse().expect(text));
        assert_eq!(reach("unix:/x"), Reach::ThisUser);
        for text in ["tcp://127.0.0.1:1", "tcp://[::1]:1", "tcp://[::ffff:127.0.0.1]:1", "tls://localhost:1"]
        {
            assert_eq!(reach(text), Reach::ThisMachine, "{text}");
        }
        for text in ["tcp://0.0.0.0:1", "tls://10.0.0.1:1", "tcp://mac.local:1", "vsock://any:1"] {
            assert_eq!(reach(text), Reach::Others, "{text}");
        }
    }

    #[test]
    fn addresses_of_one_host_have_one_origin() {
        let origin = |text: &str| origin(text.parse().expect(text));
        assert_eq!(origin("::ffff:10.0.0.1"), origin("10.0.0.1"));
        assert_eq!(origin("2001:db8:0:1::1"), origin("2001:db8:0:1:a:b:c:d"));
        assert_ne!(origin("2001:db8:0:1::1"), origin("2001:db8:0:2::1"));
    }
}
