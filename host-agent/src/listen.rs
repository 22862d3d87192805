//! Listeners and accepted connections, independent of the transport: TCP, Unix socket or vsock.

mod writer;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use contract::Endpoint;
use tokio::io::AsyncRead;
use tokio::net::{TcpListener, UnixListener};

use crate::sys::VsockListener;
pub use writer::Writer;

/// The reading half of a connection.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;

/// An accepted connection.
pub struct Connection {
    /// Reading half.
    pub reader: Reader,
    /// Writing half.
    pub writer: Writer,
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
        origin: String,
        peer: String,
    ) -> Self {
        Self { reader: Box::new(reader), writer, origin, peer }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// Whether only processes of this machine can reach an endpoint. Of host names only `localhost` is
/// guaranteed to resolve to loopback (RFC 6761).
pub fn is_local(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Tcp { host, .. } => {
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        Endpoint::Unix(_) => true,
        Endpoint::Vsock { .. } => false,
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
    /// The operating system refused.
    #[error("cannot listen on {endpoint}: {cause}")]
    Io {
        /// The endpoint.
        endpoint: Endpoint,
        /// The reason.
        cause: io::Error,
    },
}

/// A listener of any transport.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixSocket),
    Vsock(VsockListener),
}

impl Listener {
    /// Listens on an endpoint.
    ///
    /// # Errors
    /// The address is in use, or the operating system refuses it.
    pub async fn bind(endpoint: &Endpoint) -> Result<Self, ListenError> {
        Self::open(endpoint).await.map_err(|cause| match cause.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse(endpoint.clone()),
            _ => ListenError::Io { endpoint: endpoint.clone(), cause },
        })
    }

    async fn open(endpoint: &Endpoint) -> io::Result<Self> {
        match endpoint {
            Endpoint::Tcp { host, port } => {
                let listener = TcpListener::bind((host.as_str(), *port)).await?;
                let port = listener.local_addr()?.port();
                let endpoint = Endpoint::Tcp { host: host.clone(), port };
                Ok(Self { endpoint, socket: Socket::Tcp(listener) })
            }
            Endpoint::Unix(path) => {
                let socket = UnixSocket::bind(path)?;
                Ok(Self { endpoint: endpoint.clone(), socket: Socket::Unix(socket) })
            }
            Endpoint::Vsock { cid, port } => {
                let listener = VsockListener::bind(*cid, *port)?;
                Ok(Self { endpoint: endpoint.clone(), socket: Socket::Vsock(listener) })
            }
        }
    }

    /// The endpoint; a TCP port of 0 is replaced by the assigned one.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Accepts the next connection.
    ///
    /// # Errors
    /// The operating system failed to accept it, for example because the process is out of file descriptors.
    pub async fn accept(&self) -> io::Result<Connection> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Nagle's algorithm delays an access unit until the previous one is acknowledged.
                stream.set_nodelay(true)?;
                let (reader, writer) = stream.into_split();
                let (origin, peer) = (address.ip().to_string(), address.to_string());
                Ok(Connection::new(reader, Writer::Tcp(writer), origin, peer))
            }
            Socket::Unix(socket) => {
                let (stream, _) = socket.listener.accept().await?;
                let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
                let peer = pid.map_or_else(|| "unix".to_owned(), |pid| format!("unix:{pid}"));
                let (reader, writer) = stream.into_split();
                Ok(Connection::new(reader, Writer::Unix(writer), "unix".to_owned(), peer))
            }
            Socket::Vsock(listener) => listener.accept().await,
        }
    }
}

/// A listening Unix socket that only this user can open. Its file is removed when it is dropped.
#[derive(Debug)]
pub struct UnixSocket {
    /// The socket.
    pub listener: UnixListener,
    path: PathBuf,
}

impl UnixSocket {
    /// Listens at `path`; creates its folder if necessary. The file of a socket without a listener is
    /// replaced.
    ///
    /// # Errors
    /// [`AddrInUse`](io::ErrorKind::AddrInUse) if a process listens at `path`, or a file system error.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent()
            && !folder.exists()
        {
            std::fs::create_dir_all(folder)?;
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        // Bound under a temporary name and renamed, so that no peer can connect before the mode is set.
        let temporary = path.with_extension(format!("{}.new", std::process::id()));
        remove_if_exists(&temporary)?;
        let listener = UnixListener::bind(&temporary)?;
        std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&temporary, path)?;
        Ok(Self { listener, path: path.to_owned() })
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if let Err(error) = remove_if_exists(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket's file");
        }
    }
}

fn remove_if_exists(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_unix_endpoints_are_local() {
        let local = |text: &str| is_local(&text.parse().expect(text));
        assert!(local("tcp://127.0.0.1:1") && local("tcp://[::1]:1") && local("tcp://localhost:1"));
        assert!(local("unix:/x"));
        assert!(!local("tcp://0.0.0.0:1") && !local("tcp://10.0.0.1:1") && !local("tcp://mac.local:1"));
        assert!(!local("vsock://any:1"));
    }

    #[tokio::test]
    async fn unix_socket_is_private_and_removed_on_drop() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("new/link.sock");
        let socket = UnixSocket::bind(&path).expect("bound");
        let mode = |path: &Path| std::fs::metadata(path).expect("metadata read").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().expect("a folder"))), (0o600, 0o700));
        let second = UnixSocket::bind(&path).expect_err("in use");
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        assert!(!path.exists());
    }
}
