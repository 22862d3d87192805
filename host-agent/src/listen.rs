//! Opening endpoints and taking connections from them: after this file nobody knows whether a peer came
//! by TCP, Unix socket or vsock.

mod writer;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use protocol::endpoint::Endpoint;
use tokio::io::AsyncRead;
use tokio::net::{TcpListener, UnixListener};

use crate::sys::VsockListener;
pub use writer::Writer;

/// The reading half of a connection.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;

/// A peer that connected.
pub struct Connection {
    /// What it sends.
    pub reader: Reader,
    /// What it receives.
    pub writer: Writer,
    /// Whom limits count: an address without its port.
    pub origin: String,
    /// Who it is, for people.
    pub peer: String,
}

impl Connection {
    /// Puts one together.
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

/// Whether only processes of this machine can reach an endpoint. A name may lead anywhere, but for
/// `localhost` (RFC 6761).
pub fn is_local(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Tcp { host, .. } => {
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        Endpoint::Unix(_) => true,
        Endpoint::Vsock { .. } => false,
    }
}

/// Why an endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Something else has it.
    #[error(
        "{0} is taken; stop what listens there (is another host-agent running?) or choose another address"
    )]
    Taken(Endpoint),
    /// The operating system refused.
    #[error("can't listen on {endpoint}: {cause}")]
    Io {
        /// Where.
        endpoint: Endpoint,
        /// What it said.
        cause: io::Error,
    },
}

/// An open endpoint.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix(UnixSocket),
    Vsock(VsockListener),
}

impl Listener {
    /// Opens an endpoint.
    pub async fn bind(endpoint: &Endpoint) -> Result<Self, ListenError> {
        let open = async {
            match endpoint {
                Endpoint::Tcp { host, port } => {
                    let listener = TcpListener::bind((host.as_str(), *port)).await?;
                    let port = listener.local_addr()?.port();
                    let endpoint = Endpoint::Tcp { host: host.clone(), port };
                    Ok(Self { endpoint, kind: Kind::Tcp(listener) })
                }
                Endpoint::Unix(path) => {
                    Ok(Self { endpoint: endpoint.clone(), kind: Kind::Unix(UnixSocket::bind(path)?) })
                }
                Endpoint::Vsock { cid, port } => {
                    let listener = VsockListener::bind(*cid, *port)?;
                    Ok(Self { endpoint: endpoint.clone(), kind: Kind::Vsock(listener) })
                }
            }
        };
        open.await.map_err(|cause: io::Error| match cause.kind() {
            io::ErrorKind::AddrInUse => ListenError::Taken(endpoint.clone()),
            _ => ListenError::Io { endpoint: endpoint.clone(), cause },
        })
    }

    /// Where it listens: with the port that was given to it.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The next connection.
    pub async fn accept(&self) -> io::Result<Connection> {
        match &self.kind {
            Kind::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // An access unit must not wait for the acknowledgement of the one before.
                stream.set_nodelay(true)?;
                let (reader, writer) = stream.into_split();
                Ok(Connection::new(
                    reader,
                    Writer::Tcp(writer),
                    address.ip().to_string(),
                    address.to_string(),
                ))
            }
            Kind::Unix(socket) => {
                let (stream, _) = socket.listener.accept().await?;
                let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
                let peer = pid.map_or_else(|| "unix".to_owned(), |pid| format!("unix:{pid}"));
                let (reader, writer) = stream.into_split();
                Ok(Connection::new(reader, Writer::Unix(writer), "unix".to_owned(), peer))
            }
            Kind::Vsock(listener) => listener.accept().await,
        }
    }
}

/// A listening Unix socket that only this user can open, and whose file goes with it.
#[derive(Debug)]
pub struct UnixSocket {
    /// The socket.
    pub listener: UnixListener,
    path: PathBuf,
}

impl UnixSocket {
    /// Listens at `path`, in a folder that is made if need be. A file that a dead process left is
    /// replaced; one where somebody answers is [`AddrInUse`](io::ErrorKind::AddrInUse).
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
        // Made under another name and moved into place, so that nobody connects before the mode is set.
        let draft = path.with_extension(format!("{}.new", std::process::id()));
        remove(&draft)?;
        let listener = UnixListener::bind(&draft)?;
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&draft, path)?;
        Ok(Self { listener, path: path.to_owned() })
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the socket's file stays");
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_unix_are_local() {
        let local = |text: &str| is_local(&text.parse().expect(text));
        assert!(local("tcp://127.0.0.1:1") && local("tcp://[::1]:1") && local("tcp://localhost:1"));
        assert!(local("unix:/x"));
        assert!(!local("tcp://0.0.0.0:1") && !local("tcp://10.0.0.1:1") && !local("tcp://mac.local:1"));
        assert!(!local("vsock://any:1"));
    }
}
