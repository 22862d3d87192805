//! The writing half of a connection, which two may use: the task that waits for a slow peer, and an
//! encoder's thread that has an access unit in its hands while nothing else waits. That saves the unit a
//! wake-up of another thread, which on a busy machine is most of its way.

use std::fmt;
use std::io::{self, IoSlice};

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::{tcp, unix};
use tokio::sync::Mutex;

/// See the module. Dropping it ends the peer's stream.
pub enum Writer {
    /// TCP.
    Tcp(tcp::OwnedWriteHalf),
    /// A Unix socket.
    Unix(unix::OwnedWriteHalf),
    /// Anything else; only ever written by the task.
    Other(Mutex<Box<dyn AsyncWrite + Send + Unpin>>),
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp(_) => "Tcp",
            Self::Unix(_) => "Unix",
            Self::Other(_) => "Other",
        })
    }
}

impl Writer {
    /// Wraps what is neither TCP nor a Unix socket.
    pub fn other(writer: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        Self::Other(Mutex::new(Box::new(writer)))
    }

    /// Writes what the peer's buffer takes now; [`WouldBlock`](io::ErrorKind::WouldBlock) if nothing.
    pub fn try_write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write_vectored(parts),
            Self::Unix(half) => half.try_write_vectored(parts),
            Self::Other(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Waits until the peer takes something and writes that.
    pub async fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            match self {
                Self::Tcp(half) => half.writable().await?,
                Self::Unix(half) => half.writable().await?,
                Self::Other(writer) => return writer.lock().await.write_vectored(parts).await,
            }
            match self.try_write(parts) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return written,
            }
        }
    }

    /// Writes all of it.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write(&[IoSlice::new(bytes)]).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => bytes = bytes.get(written..).unwrap_or_default(),
            }
        }
        Ok(())
    }
}
